# SPDX-License-Identifier: Apache-2.0
#
# gru::host and gru::gru. Both libraries exist, and can be installed, on every machine; the names
# gru::* exist where what they need was found.

set(GRU_INCLUDE_DIR "${CMAKE_CURRENT_SOURCE_DIR}/include")

function(gru_add_interface_library name export_name)
  add_library(${name} INTERFACE)
  set_target_properties(${name} PROPERTIES EXPORT_NAME ${export_name})
  target_compile_features(${name} INTERFACE cxx_std_17)
  # install.cmake says where they are once installed.
  target_include_directories(${name} INTERFACE "$<BUILD_INTERFACE:${GRU_INCLUDE_DIR}>")
endfunction()

gru_add_interface_library(gru_host host)
target_link_libraries(gru_host INTERFACE Eigen3::Eigen Threads::Threads)

gru_add_interface_library(gru_gru gru)
# The runtime of the kind that nvcc links for the consumer anyway (static unless it says otherwise),
# so that no program gets both.
set(GRU_CUDA_RUNTIME "$<UPPER_CASE:$<TARGET_PROPERTY:CUDA_RUNTIME_LIBRARY>>")
target_link_libraries(
  gru_gru
  INTERFACE CUDA::cublas CUDA::cublasLt
            "$<IF:$<STREQUAL:${GRU_CUDA_RUNTIME},SHARED>,CUDA::cudart,CUDA::cudart_static>")

gru_find_host()
if(GRU_HOST_FOUND)
  add_library(gru::host ALIAS gru_host)
else()
  message(STATUS "gru: no ${GRU_HOST_MISSING}: gru::host is not defined")
endif()

if(NOT GRU_ENABLE_CUDA)
  set(GRU_CUDA_FOUND FALSE)
  message(STATUS "gru: GRU_ENABLE_CUDA is off: gru::gru is not defined")
else()
  gru_find_cuda()
  if(GRU_CUDA_FOUND)
    add_library(gru::gru ALIAS gru_gru)
  elseif(GRU_ENABLE_CUDA STREQUAL "AUTO")
    message(STATUS "gru: no ${GRU_CUDA_MISSING}: gru::gru is not defined")
  else()
    message(FATAL_ERROR "gru: GRU_ENABLE_CUDA is ${GRU_ENABLE_CUDA}, but there is no ${GRU_CUDA_MISSING}")
  endif()
endif()
