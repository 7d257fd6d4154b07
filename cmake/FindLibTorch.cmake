# Finds LibTorch (a PyPI wheel, an unpacked zip, or a system install) and defines LibTorch::LibTorch.
#
# The wheel's own TorchConfig.cmake insists on a CUDA toolkit even where only the CPU libraries are wanted, so
# the libraries are looked up here. SHALLOWPI_CUDA=ON adds the CUDA ones, and looks for the CUDA headers.
#
#   LIBTORCH_ROOT or CMAKE_PREFIX_PATH   the folder that holds lib/libtorch_cpu.so and include/torch

# Another LIBTORCH_ROOT in the same build folder: what was found in the old one must not stay.
if(NOT "${LIBTORCH_ROOT}" STREQUAL "${LibTorch_LAST_ROOT}")
  foreach(found INCLUDE_DIR CPU_LIBRARY C10_LIBRARY CUDA_LIBRARY C10_CUDA_LIBRARY CUDA_INCLUDE_DIR)
    unset(LibTorch_${found} CACHE)
  endforeach()
  set(LibTorch_LAST_ROOT "${LIBTORCH_ROOT}" CACHE INTERNAL "")
endif()

find_path(LibTorch_INCLUDE_DIR torch/csrc/api/include/torch/torch.h
          HINTS ${LIBTORCH_ROOT} ENV LIBTORCH_ROOT PATH_SUFFIXES include ../../../include)
find_library(LibTorch_CPU_LIBRARY torch_cpu HINTS ${LibTorch_INCLUDE_DIR}/../lib)
find_library(LibTorch_C10_LIBRARY c10 HINTS ${LibTorch_INCLUDE_DIR}/../lib)
set(LibTorch_REQUIRED LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY LibTorch_INCLUDE_DIR)
if(SHALLOWPI_CUDA)
  find_library(LibTorch_CUDA_LIBRARY torch_cuda HINTS ${LibTorch_INCLUDE_DIR}/../lib)
  find_library(LibTorch_C10_CUDA_LIBRARY c10_cuda HINTS ${LibTorch_INCLUDE_DIR}/../lib)
  # For what includes CUDA's headers and is not compiled by nvcc.
  file(GLOB LibTorch_NVIDIA_HEADERS ${LibTorch_INCLUDE_DIR}/../../nvidia/cu*/include)
  find_path(LibTorch_CUDA_INCLUDE_DIR cuda_runtime_api.h
            HINTS ${LibTorch_NVIDIA_HEADERS} ENV CUDA_HOME /usr/local/cuda PATH_SUFFIXES include)
  list(APPEND LibTorch_REQUIRED LibTorch_CUDA_LIBRARY LibTorch_C10_CUDA_LIBRARY LibTorch_CUDA_INCLUDE_DIR)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch REQUIRED_VARS ${LibTorch_REQUIRED}
  REASON_FAILURE_MESSAGE "give its folder with -DLIBTORCH_ROOT=DIR, or run scripts/build.sh, which installs it")

if(LibTorch_FOUND AND NOT TARGET LibTorch::LibTorch)
  get_filename_component(LibTorch_LIBRARY_DIR ${LibTorch_CPU_LIBRARY} DIRECTORY)
  add_library(LibTorch::LibTorch INTERFACE IMPORTED)
  target_include_directories(LibTorch::LibTorch SYSTEM INTERFACE
    ${LibTorch_INCLUDE_DIR} ${LibTorch_INCLUDE_DIR}/torch/csrc/api/include)
  # The wheel's libraries find their NVIDIA siblings through their own RPATH; the linker needs the hint.
  file(GLOB LibTorch_NVIDIA_DIRS ${LibTorch_INCLUDE_DIR}/../../nvidia/*/lib)
  set(LibTorch_RPATH_LINK ${LibTorch_LIBRARY_DIR} ${LibTorch_NVIDIA_DIRS})
  list(TRANSFORM LibTorch_RPATH_LINK PREPEND "-Wl,-rpath-link,")
  # An RPATH of its own survives `install`, which removes that of the build tree.
  target_link_options(LibTorch::LibTorch INTERFACE ${LibTorch_RPATH_LINK} "-Wl,-rpath,${LibTorch_LIBRARY_DIR}")
  target_link_libraries(LibTorch::LibTorch INTERFACE ${LibTorch_CPU_LIBRARY} ${LibTorch_C10_LIBRARY})
  if(SHALLOWPI_CUDA)
    # Some programs use no symbol of it; without this the linker would drop the library, which registers CUDA.
    target_link_libraries(LibTorch::LibTorch INTERFACE
      "-Wl,--no-as-needed,${LibTorch_CUDA_LIBRARY},--as-needed" ${LibTorch_C10_CUDA_LIBRARY})
  endif()
endif()
mark_as_advanced(LibTorch_CUDA_INCLUDE_DIR LibTorch_INCLUDE_DIR LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY
                 LibTorch_CUDA_LIBRARY LibTorch_C10_CUDA_LIBRARY)
