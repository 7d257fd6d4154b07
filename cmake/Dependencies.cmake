# Libraries that Debian and Ubuntu package without (complete) CMake files.
# Their results get names of our own: HDF5_LIBRARIES, for one, would mislead a user's find_package(HDF5).
find_package(PkgConfig REQUIRED)
pkg_check_modules(SHALLOWPI_HDF5 REQUIRED IMPORTED_TARGET hdf5)
pkg_check_modules(SHALLOWPI_SENTENCEPIECE REQUIRED IMPORTED_TARGET sentencepiece)
pkg_check_modules(SHALLOWPI_TURBOJPEG REQUIRED IMPORTED_TARGET libturbojpeg)
pkg_check_modules(SHALLOWPI_LIBDEFLATE REQUIRED IMPORTED_TARGET libdeflate)
pkg_check_modules(SHALLOWPI_LIBCRYPTO REQUIRED IMPORTED_TARGET libcrypto)
find_package(spdlog REQUIRED)
