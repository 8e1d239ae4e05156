# rouse_cuda_kernels(TARGET): the kernels, compiled for every architecture and as PTX (gpu/cuda/kernels/build.sh), and built into
# TARGET by cuda_images.c.
# nvcc comes from PyPI (cuda-requirements.txt, ./dev setup) or any CUDA 13 toolkit; nothing of CUDA is linked.
option(ROUSE_CUDA "Build the CUDA back end (needs nvcc 13; the cpu back end is always built)" ON)
set(ROUSE_CUDA_TOOLKIT ${CMAKE_SOURCE_DIR}/.cuda/nvidia/cu13 CACHE PATH "CUDA toolkit: bin/nvcc, bin/ptxas and include/cuda.h")
set(ROUSE_CUDA_ARCHS 80 86 89 90 100 120) # as cuda_images.c lists them; others compile the PTX when they first start
set(ROUSE_PTX_VERSION 7.8) # the oldest that holds all the kernels use: what a driver must know to compile it (driver 520)

if(ROUSE_CUDA)
  set(ROUSE_NVCC ${ROUSE_CUDA_TOOLKIT}/bin/nvcc)
  if(NOT EXISTS ${ROUSE_NVCC})
    message(FATAL_ERROR "no nvcc in ${ROUSE_CUDA_TOOLKIT}/bin: run ./dev setup, give -DROUSE_CUDA_TOOLKIT=DIR, or build without "
                        "the CUDA back end (-DROUSE_CUDA=OFF)")
  endif()
  set(ROUSE_NVCC_FLAGS -std=c++17 -O3 -I${CMAKE_SOURCE_DIR} -Werror all-warnings -Xcompiler -Wall,-Wextra)
endif()

function(rouse_cuda_kernels target)
  set(dir ${CMAKE_BINARY_DIR}/kernels)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/gpu/cuda/kernels/*.cu ${CMAKE_SOURCE_DIR}/gpu/cuda/kernels/*.cuh)
  foreach(arch ${ROUSE_CUDA_ARCHS})
    list(APPEND images ${dir}/sm_${arch}.cubin)
  endforeach()
  list(APPEND images ${dir}/kernels.ptx)
  add_custom_command(
    OUTPUT ${images}
    COMMAND ${CMAKE_SOURCE_DIR}/gpu/cuda/kernels/build.sh ${dir} ${ROUSE_CUDA_TOOLKIT} ${ROUSE_PTX_VERSION} ${ROUSE_CUDA_ARCHS}
    DEPENDS ${sources} ${CMAKE_SOURCE_DIR}/gpu/cuda/kernels/build.sh ${CMAKE_SOURCE_DIR}/gpu/cuda/kernel_args.h
    COMMENT "CUDA kernels" VERBATIM)
  target_sources(${target} PRIVATE ${CMAKE_SOURCE_DIR}/gpu/cuda/cuda_images.c)
  set_source_files_properties(${CMAKE_SOURCE_DIR}/gpu/cuda/cuda_images.c PROPERTIES
    OBJECT_DEPENDS "${images}" COMPILE_DEFINITIONS "CUDA_IMAGE_DIR=\"${dir}\"")
endfunction()
