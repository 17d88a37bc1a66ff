# SPDX-License-Identifier: Apache-2.0
#
# Compares what a compilation took with what it may take.
# Usage: cmake -D COST=<file with "seconds-user seconds-system kilobytes"> -D SECONDS=<limit>
#              -D KILOBYTES=<limit> -P check_cost.cmake
file(READ "${COST}" cost)
if(NOT cost MATCHES "([0-9.]+) ([0-9.]+) ([0-9]+)")
  message(FATAL_ERROR "${COST} holds '${cost}'")
endif()
set(user ${CMAKE_MATCH_1})
set(system ${CMAKE_MATCH_2})
set(kilobytes ${CMAKE_MATCH_3})
# Whole seconds, each rounded up.
string(REGEX REPLACE "\\..*" "" user ${user})
string(REGEX REPLACE "\\..*" "" system ${system})
math(EXPR seconds "${user} + ${system} + 2")
message(STATUS "forward and backward for float and one architecture: "
               "at most ${seconds} s of processor time, ${kilobytes} KB")
if(seconds GREATER SECONDS)
  message(SEND_ERROR "more than ${SECONDS} s")
endif()
if(kilobytes GREATER KILOBYTES)
  message(SEND_ERROR "more than ${KILOBYTES} KB")
endif()
