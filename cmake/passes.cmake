# SPDX-License-Identifier: Apache-2.0
#
# The device passes, compiled once for each type, for tests and examples that are compiled with
# GRU_EXTERN_TEMPLATES: gru_float, gru_double, gru_half, gru_bfloat16.

set(types float double half bfloat16)
set(cuda_types float double __half __nv_bfloat16)
foreach(type cuda_type IN ZIP_LISTS types cuda_types)
  configure_file(cmake/instantiate.cu.in instantiate_${type}.cu @ONLY)
  add_library(
    gru_${type} OBJECT EXCLUDE_FROM_ALL "${CMAKE_CURRENT_BINARY_DIR}/instantiate_${type}.cu")
  gru_set_warnings(gru_${type})
  target_link_libraries(gru_${type} PUBLIC gru::gru)
endforeach()
