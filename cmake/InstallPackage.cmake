# `cmake --install build` puts the programs, the libraries and the headers where find_package(shallowpi) finds them.
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/shallowpi)
install(DIRECTORY include/shallowpi DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT shallowpiTargets NAMESPACE shallowpi:: DESTINATION ${package_dir})
configure_package_config_file(cmake/shallowpiConfig.cmake.in ${CMAKE_BINARY_DIR}/shallowpiConfig.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/shallowpiConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/shallowpiConfig.cmake ${CMAKE_BINARY_DIR}/shallowpiConfigVersion.cmake
              cmake/FindLibTorch.cmake cmake/Dependencies.cmake DESTINATION ${package_dir})
