# SPDX-License-Identifier: Apache-2.0
#
# What tests, examples and benchmarks share: a build type, warnings and, where there is a CUDA
# compiler, the language CUDA. GRU_HAS_CUDA says whether device code is built.

get_property(is_multi_config GLOBAL PROPERTY GENERATOR_IS_MULTI_CONFIG)
if(NOT CMAKE_BUILD_TYPE AND NOT is_multi_config)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()
if(PROJECT_IS_TOP_LEVEL)
  set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
endif()

# The architecture of the GPU in this machine; sm_90a, which this library is tuned for, without one.
function(gru_default_cuda_architecture result)
  set(architecture 90a)
  find_program(GRU_NVIDIA_SMI nvidia-smi)
  mark_as_advanced(GRU_NVIDIA_SMI)
  if(GRU_NVIDIA_SMI)
    execute_process(
      COMMAND "${GRU_NVIDIA_SMI}" --query-gpu=compute_cap --format=csv,noheader
      OUTPUT_VARIABLE output
      RESULT_VARIABLE status
      ERROR_QUIET)
    if(status EQUAL 0 AND output MATCHES "^([0-9]+)\\.([0-9])")
      set(architecture "${CMAKE_MATCH_1}${CMAKE_MATCH_2}")
      if(architecture EQUAL 90)
        set(architecture 90a)
      endif()
    endif()
  endif()
  set(${result} ${architecture} PARENT_SCOPE)
endfunction()

set(GRU_HAS_CUDA FALSE)
if(TARGET gru::gru)
  if(NOT DEFINED GRU_CUDA_ARCHITECTURES)
    gru_default_cuda_architecture(GRU_CUDA_ARCHITECTURES)
  endif()
  set(GRU_CUDA_ARCHITECTURES "${GRU_CUDA_ARCHITECTURES}"
      CACHE STRING "Architectures that tests, examples and benchmarks are built for")
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES "${GRU_CUDA_ARCHITECTURES}")
  endif()
  # The toolkit's own compiler, which need not be on the path.
  if(NOT DEFINED CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX} AND CUDAToolkit_NVCC_EXECUTABLE)
    set(ENV{CUDACXX} "${CUDAToolkit_NVCC_EXECUTABLE}")
  endif()
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    set(GRU_HAS_CUDA TRUE)
    message(STATUS "gru: device code for sm_${CMAKE_CUDA_ARCHITECTURES}")
  elseif(NOT GRU_ENABLE_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "gru: GRU_ENABLE_CUDA is ${GRU_ENABLE_CUDA}, but no CUDA compiler works")
  endif()
endif()
if(NOT GRU_HAS_CUDA)
  message(STATUS "gru: no CUDA compiler: tests, examples and benchmarks of the host engine alone")
endif()

option(GRU_WARNINGS_AS_ERRORS "Treat warnings as errors in the tests" OFF)

# Warnings for a target of our own; never part of gru::gru or gru::host.
function(gru_set_warnings target)
  target_compile_options(
    ${target}
    PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wpedantic>"
            # nvcc's intermediate sources are not pedantic.
            "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>")
  if(GRU_WARNINGS_AS_ERRORS)
    target_compile_options(
      ${target} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:-Werror>"
                        "$<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>")
  endif()
endfunction()
