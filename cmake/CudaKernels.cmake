# The language of src/model/fused_*.cu, and the GPUs they are compiled for.
#   CMAKE_CUDA_ARCHITECTURES   default: Ampere (80), Orin (87), Ada (89), Hopper (90), Thor (110) and Blackwell (120), those
#                              that this nvcc knows; later ones compile Hopper's PTX when they start
find_program(SHALLOWPI_NVCC nvcc HINTS ENV CUDA_HOME PATHS /usr/local/cuda PATH_SUFFIXES bin)
if(NOT SHALLOWPI_NVCC)
  message(FATAL_ERROR "SHALLOWPI_CUDA=ON compiles kernels: install the CUDA toolkit, or say where it is with CUDA_HOME")
endif()
set(CMAKE_CUDA_COMPILER ${SHALLOWPI_NVCC})
if(NOT CMAKE_CUDA_ARCHITECTURES)
  execute_process(COMMAND ${SHALLOWPI_NVCC} --list-gpu-code OUTPUT_VARIABLE known_gpus)
  foreach(gpu 80 87 89 90 110 120)
    if(known_gpus MATCHES "sm_${gpu}[^0-9]")
      list(APPEND gpus ${gpu}-real)
    endif()
  endforeach()
  if(known_gpus MATCHES "sm_90[^0-9]")
    list(APPEND gpus 90-virtual)
  endif()
  set(CMAKE_CUDA_ARCHITECTURES ${gpus} CACHE STRING "GPUs that the kernels are compiled for")
endif()
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
set(CMAKE_CUDA_STANDARD 17)  # CMake before 3.26 knows no later one for nvcc
