# SPDX-License-Identifier: Apache-2.0
#
# Compiles SOURCE with COMPILE (a list: the compiler and its options), INCLUDES and, unless it is
# empty, -DGRU_MISUSE_<MISUSE>. With a MISUSE the compiler must fail, and its message must match
# MESSAGE; without one it must succeed.

set(command ${COMPILE})
foreach(directory IN LISTS INCLUDES)
  list(APPEND command "-I${directory}")
endforeach()
if(MISUSE)
  list(APPEND command "-DGRU_MISUSE_${MISUSE}")
endif()
list(APPEND command "${SOURCE}")

set(ENV{LC_ALL} C) # plain quotation marks in the messages
execute_process(
  COMMAND ${command}
  RESULT_VARIABLE status
  OUTPUT_VARIABLE output
  ERROR_VARIABLE output)

if(NOT MISUSE)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "the right use does not compile:\n${output}")
  endif()
elseif(status EQUAL 0)
  message(FATAL_ERROR "${MISUSE} compiles")
elseif(NOT output MATCHES "${MESSAGE}")
  message(FATAL_ERROR "${MISUSE} does not compile, but the message is not \"${MESSAGE}\":\n${output}")
endif()
