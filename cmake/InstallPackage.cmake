# `cmake --install build` puts the programs, the libraries and the headers where find_package(shallowpi) finds them.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/shallowpi)
set(installed_libraries shallowpi)
foreach(area base model data distill runtime eval)
  if(TARGET shallowpi_${area})
    list(APPEND installed_libraries shallowpi_${area})
  endif()
endforeach()
install(TARGETS ${installed_libraries} EXPORT shallowpiTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
foreach(app distill eval infer)
  if(TARGET shallowpi-${app})
    install(TARGETS shallowpi-${app} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  endif()
endforeach()
install(DIRECTORY include/shallowpi DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT shallowpiTargets NAMESPACE shallowpi:: DESTINATION ${package_dir})
configure_package_config_file(cmake/shallowpiConfig.cmake.in ${CMAKE_BINARY_DIR}/shallowpiConfig.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/shallowpiConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/shallowpiConfig.cmake ${CMAKE_BINARY_DIR}/shallowpiConfigVersion.cmake
              cmake/FindLibTorch.cmake cmake/Dependencies.cmake DESTINATION ${package_dir})
