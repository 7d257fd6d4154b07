# `cmake --install build` puts the programs, the libraries and the headers where find_package(shallowpi) finds them.
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/shallowpi)
install(DIRECTORY include/shallowpi DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT shallowpiTargets NAMESPACE shallowpi:: DESTINATION ${package_dir})
get_filename_component(package_libtorch ${LibTorch_INCLUDE_DIR} DIRECTORY)  # however it was found
# In a folder of their own: the build folder itself is no package.
set(package_files ${CMAKE_BINARY_DIR}/package)
configure_package_config_file(cmake/shallowpiConfig.cmake.in ${package_files}/shallowpiConfig.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${package_files}/shallowpiConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${package_files}/shallowpiConfig.cmake ${package_files}/shallowpiConfigVersion.cmake
              cmake/FindLibTorch.cmake cmake/Dependencies.cmake DESTINATION ${package_dir})
