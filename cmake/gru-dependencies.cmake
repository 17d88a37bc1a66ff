# SPDX-License-Identifier: Apache-2.0
#
# Looks for what each target needs. Shared by the build of gru and by its installed package, so that
# both mean the same by "found".

# Sets GRU_HOST_FOUND, and GRU_HOST_MISSING to what gru::host lacks.
macro(gru_find_host)
  find_package(Eigen3 QUIET NO_MODULE)
  find_package(Threads QUIET)
  set(GRU_HOST_MISSING "")
  # No version is asked of find_package: Eigen's package refuses a later major version.
  if(NOT Eigen3_FOUND OR Eigen3_VERSION VERSION_LESS 3.4)
    set(GRU_HOST_MISSING "Eigen 3.4 or later")
  elseif(NOT Threads_FOUND)
    set(GRU_HOST_MISSING "thread library (with the language C or CXX enabled)")
  endif()
  if(GRU_HOST_MISSING)
    set(GRU_HOST_FOUND FALSE)
  else()
    set(GRU_HOST_FOUND TRUE)
  endif()
endmacro()

# Sets GRU_CUDA_FOUND, and GRU_CUDA_MISSING to what gru::gru lacks.
macro(gru_find_cuda)
  find_package(CUDAToolkit 12.4 QUIET)
  set(GRU_CUDA_MISSING "")
  if(NOT CUDAToolkit_FOUND)
    set(GRU_CUDA_MISSING "CUDA Toolkit 12.4 or later")
  elseif(NOT TARGET CUDA::cublasLt)
    set(GRU_CUDA_MISSING "cuBLAS beside the CUDA Toolkit")
  endif()
  if(GRU_CUDA_MISSING)
    set(GRU_CUDA_FOUND FALSE)
  else()
    set(GRU_CUDA_FOUND TRUE)
  endif()
endmacro()
