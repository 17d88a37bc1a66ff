# SPDX-License-Identifier: Apache-2.0
#
# Installs the headers and the package files. Each component has an export file of its own: the
# package loads those whose dependencies the consumer has.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(GRU_PACKAGE_DIR "${CMAKE_INSTALL_DATADIR}/cmake/gru")

install(
  DIRECTORY include/gru
  DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
  FILES_MATCHING
  PATTERN "*.hpp"
  PATTERN "*.cuh")

foreach(component IN ITEMS host gru)
  install(
    TARGETS gru_${component}
    EXPORT gru-${component}-targets
    INCLUDES
    DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
  install(
    EXPORT gru-${component}-targets
    NAMESPACE gru::
    DESTINATION "${GRU_PACKAGE_DIR}")
endforeach()

configure_package_config_file(
  cmake/gru-config.cmake.in gru-config.cmake INSTALL_DESTINATION "${GRU_PACKAGE_DIR}"
  NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(
  gru-config-version.cmake COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(
  FILES "${CMAKE_CURRENT_BINARY_DIR}/gru-config.cmake"
        "${CMAKE_CURRENT_BINARY_DIR}/gru-config-version.cmake" cmake/gru-dependencies.cmake
  DESTINATION "${GRU_PACKAGE_DIR}")
install(FILES LICENSE DESTINATION "${CMAKE_INSTALL_DATADIR}/licenses/gru")
