# SPDX-License-Identifier: Apache-2.0
#
# Fails where one of the files that a compiler read for the headers without CUDA is a CUDA header.
# Usage: cmake -D DEPFILES=<glob> -P check_no_cuda.cmake
file(GLOB depfiles ${DEPFILES})
list(LENGTH depfiles count)
if(count EQUAL 0)
  message(FATAL_ERROR "no dependency list matches ${DEPFILES}")
endif()
foreach(depfile IN LISTS depfiles)
  file(STRINGS "${depfile}" cuda_headers
       REGEX "/(cuda[a-z0-9_]*|cublas[a-zA-Z0-9_]*|driver_types|host_defines|vector_types)\\.(h|hpp)( |$)")
  if(cuda_headers)
    message(SEND_ERROR "${depfile}: ${cuda_headers}")
  endif()
endforeach()
message(STATUS "${count} headers read no CUDA header")
