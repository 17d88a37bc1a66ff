# SPDX-License-Identifier: Apache-2.0
#
# Finds cuDNN: CUDNN_FOUND, CUDNN_VERSION and the target CUDNN::cudnn. CUDNN_ROOT, as a variable of
# CMake or of the environment, may name its folder, such as that of the Python package nvidia.cudnn.

get_filename_component(cudnn_beside_cuda "${CUDAToolkit_LIBRARY_DIR}" DIRECTORY)
find_path(
  CUDNN_INCLUDE_DIR cudnn_version.h
  HINTS ${CUDAToolkit_INCLUDE_DIRS}
  PATH_SUFFIXES include)
find_library(
  CUDNN_LIBRARY
  NAMES libcudnn.so.9 cudnn
  HINTS ${CUDAToolkit_LIBRARY_DIR} ${cudnn_beside_cuda}
  PATH_SUFFIXES lib lib64)
mark_as_advanced(CUDNN_INCLUDE_DIR CUDNN_LIBRARY)

if(CUDNN_INCLUDE_DIR)
  file(STRINGS "${CUDNN_INCLUDE_DIR}/cudnn_version.h" cudnn_version_lines
       REGEX "^#define CUDNN_(MAJOR|MINOR|PATCHLEVEL) [0-9]+")
  list(TRANSFORM cudnn_version_lines REPLACE "^#define [A-Z_]+ ([0-9]+).*" "\\1")
  list(JOIN cudnn_version_lines "." CUDNN_VERSION)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  CUDNN
  REQUIRED_VARS CUDNN_LIBRARY CUDNN_INCLUDE_DIR
  VERSION_VAR CUDNN_VERSION)

if(CUDNN_FOUND AND NOT TARGET CUDNN::cudnn)
  add_library(CUDNN::cudnn UNKNOWN IMPORTED)
  set_target_properties(
    CUDNN::cudnn PROPERTIES IMPORTED_LOCATION "${CUDNN_LIBRARY}"
                            INTERFACE_INCLUDE_DIRECTORIES "${CUDNN_INCLUDE_DIR}")
endif()
