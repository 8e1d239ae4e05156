# rouse_cuda_kernels(TARGET): the kernels, compiled for every architecture and as PTX, and built into TARGET by cuda_images.c.
# nvcc comes from PyPI (cuda-requirements.txt, ./dev setup) or any CUDA 13 toolkit; nothing of CUDA is linked.
option(ROUSE_CUDA "Build the CUDA back end (needs nvcc 13; the cpu back end is always built)" ON)
set(ROUSE_CUDA_TOOLKIT ${CMAKE_SOURCE_DIR}/.cuda/nvidia/cu13 CACHE PATH "CUDA toolkit: bin/nvcc, bin/ptxas and include/cuda.h")
set(ROUSE_CUDA_ARCHS 80 86 89 90 100 120) # as cuda_images.c lists them; others compile the PTX when they first start
# The driver compiles PTX only up to the version that it knows. The kernels need nothing newer than this one (driver 520);
# ptxas, run on the very text, proves it.
set(ROUSE_PTX_VERSION 7.8)

if(ROUSE_CUDA)
  set(ROUSE_NVCC ${ROUSE_CUDA_TOOLKIT}/bin/nvcc)
  if(NOT EXISTS ${ROUSE_NVCC})
    message(FATAL_ERROR "no nvcc in ${ROUSE_CUDA_TOOLKIT}/bin: run ./dev setup, give -DROUSE_CUDA_TOOLKIT=DIR, or build without "
                        "the CUDA back end (-DROUSE_CUDA=OFF)")
  endif()
  set(ROUSE_NVCC_FLAGS -std=c++17 -O3 -I${CMAKE_SOURCE_DIR} -Werror all-warnings -Xcompiler -Wall,-Wextra)
endif()

function(rouse_cuda_kernels target)
  set(source ${CMAKE_SOURCE_DIR}/gpu/cuda/kernels/kernels.cu)
  set(dir ${CMAKE_BINARY_DIR}/kernels)
  file(MAKE_DIRECTORY ${dir})
  foreach(arch ${ROUSE_CUDA_ARCHS})
    add_custom_command(
      OUTPUT ${dir}/sm_${arch}.cubin
      COMMAND ${ROUSE_NVCC} ${ROUSE_NVCC_FLAGS} -arch=sm_${arch} -cubin -MD -MF ${dir}/sm_${arch}.d -o ${dir}/sm_${arch}.cubin ${source}
      DEPENDS ${source} DEPFILE ${dir}/sm_${arch}.d COMMENT "kernels for sm_${arch}" VERBATIM)
    list(APPEND images ${dir}/sm_${arch}.cubin)
  endforeach()
  add_custom_command(
    OUTPUT ${dir}/kernels.ptx
    COMMAND ${ROUSE_NVCC} ${ROUSE_NVCC_FLAGS} -arch=compute_80 -ptx -MD -MF ${dir}/kernels.d -o ${dir}/kernels.ptx ${source}
    # used_bytes_mask says which bytes of a load are not looked at, from PTX 8.3 on; without it they are read as well.
    COMMAND sed -i -e "s/^\\.version .*/.version ${ROUSE_PTX_VERSION}/" -e "/\\.pragma \"used_bytes_mask/d" ${dir}/kernels.ptx
    COMMAND ${ROUSE_CUDA_TOOLKIT}/bin/ptxas -arch=sm_80 -o ${dir}/kernels.ptx.cubin ${dir}/kernels.ptx
    DEPENDS ${source} DEPFILE ${dir}/kernels.d COMMENT "kernels as PTX ${ROUSE_PTX_VERSION}" VERBATIM)
  list(APPEND images ${dir}/kernels.ptx)
  target_sources(${target} PRIVATE ${CMAKE_SOURCE_DIR}/gpu/cuda/cuda_images.c)
  set_source_files_properties(${CMAKE_SOURCE_DIR}/gpu/cuda/cuda_images.c PROPERTIES
    OBJECT_DEPENDS "${images}" COMPILE_DEFINITIONS "CUDA_IMAGE_DIR=\"${dir}\"")
endfunction()
