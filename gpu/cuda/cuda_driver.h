/* cuda_driver - NVIDIA's libraries, opened at run time: libcuda.so.1 (the driver) and libcublasLt (GEMMs). Nothing of CUDA is
 * linked, so that a machine without a card pays one failed dlopen.
 *
 * Both are opened once in a process and never closed. Any thread. */
#ifndef ROUSE_GPU_CUDA_DRIVER_H
#define ROUSE_GPU_CUDA_DRIVER_H

#include <stdbool.h>

#include <cuda.h>

#include "base/error.h"
#include "gpu/cuda/cublaslt_api.h"

/* 12.8: the first with cuEventElapsedTime_v2, cuGraphAddKernelNode_v2 and all else below. */
enum { CUDA_DRIVER_VERSION_MIN = 12080 };

/* field, function. cuda.h renames functions to their current version by macros, so that the second is the exported name. */
#define CUDA_DRIVER_CALLS(X)                                                                                           \
    X(Init, cuInit)                                                                                                    \
    X(GetErrorName, cuGetErrorName)                                                                                    \
    X(GetErrorString, cuGetErrorString)                                                                                \
    X(DeviceGetCount, cuDeviceGetCount)                                                                                \
    X(DeviceGet, cuDeviceGet)                                                                                          \
    X(DeviceGetName, cuDeviceGetName)                                                                                  \
    X(DeviceGetAttribute, cuDeviceGetAttribute)                                                                        \
    X(DeviceTotalMem, cuDeviceTotalMem)                                                                                \
    X(DevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain)                                                                \
    X(DevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease)                                                              \
    X(CtxSetCurrent, cuCtxSetCurrent)                                                                                  \
    X(ModuleLoadData, cuModuleLoadData)                                                                                \
    X(ModuleUnload, cuModuleUnload)                                                                                    \
    X(ModuleGetFunction, cuModuleGetFunction)                                                                          \
    X(FuncSetAttribute, cuFuncSetAttribute)                                                                            \
    X(LinkCreate, cuLinkCreate)                                                                                        \
    X(LinkAddData, cuLinkAddData)                                                                                      \
    X(LinkComplete, cuLinkComplete)                                                                                    \
    X(LinkDestroy, cuLinkDestroy)                                                                                      \
    X(LaunchKernel, cuLaunchKernel)                                                                                    \
    X(MemGetAllocationGranularity, cuMemGetAllocationGranularity)                                                      \
    X(MemAddressReserve, cuMemAddressReserve)                                                                          \
    X(MemAddressFree, cuMemAddressFree)                                                                                \
    X(MemCreate, cuMemCreate)                                                                                          \
    X(MemMap, cuMemMap)                                                                                                \
    X(MemSetAccess, cuMemSetAccess)                                                                                    \
    X(MemUnmap, cuMemUnmap)                                                                                            \
    X(MemRelease, cuMemRelease)                                                                                        \
    X(MemHostAlloc, cuMemHostAlloc)                                                                                    \
    X(MemFreeHost, cuMemFreeHost)                                                                                      \
    X(MemHostRegister, cuMemHostRegister)                                                                              \
    X(MemHostUnregister, cuMemHostUnregister)                                                                          \
    X(MemcpyHtoDAsync, cuMemcpyHtoDAsync)                                                                              \
    X(MemsetD8Async, cuMemsetD8Async)                                                                                  \
    X(MemcpyDtoHAsync, cuMemcpyDtoHAsync)                                                                              \
    X(StreamCreate, cuStreamCreate)                                                                                    \
    X(StreamDestroy, cuStreamDestroy)                                                                                  \
    X(StreamSynchronize, cuStreamSynchronize)                                                                          \
    X(StreamWaitEvent, cuStreamWaitEvent)                                                                              \
    X(EventCreate, cuEventCreate)                                                                                      \
    X(EventDestroy, cuEventDestroy)                                                                                    \
    X(EventRecord, cuEventRecord)                                                                                      \
    X(EventSynchronize, cuEventSynchronize)                                                                            \
    X(EventElapsedTime, cuEventElapsedTime)                                                                            \
    X(GraphCreate, cuGraphCreate)                                                                                      \
    X(GraphAddKernelNode, cuGraphAddKernelNode)                                                                        \
    X(GraphInstantiateWithFlags, cuGraphInstantiateWithFlags)                                                          \
    X(GraphUpload, cuGraphUpload)                                                                                      \
    X(GraphLaunch, cuGraphLaunch)                                                                                      \
    X(GraphExecDestroy, cuGraphExecDestroy)                                                                            \
    X(GraphDestroy, cuGraphDestroy)

struct cuda_driver {
    int version; /* of CUDA that the driver knows: 1000 * major + 10 * minor */
#define CUDA_DRIVER_FIELD(field, function) __typeof__(function) *field;
    CUDA_DRIVER_CALLS(CUDA_DRIVER_FIELD)
#undef CUDA_DRIVER_FIELD
};

/* ERR_SERVICE: no driver on this machine, or one that is too old. cuInit has not been called. */
int cuda_driver_get(const struct cuda_driver **out_driver, struct base_error *err);

/* Writes "what: NAME (text of the driver)". ERR_NOMEM, ERR_SERVICE (the device is away) or ERR_INTERNAL, by code. */
int cuda_driver_fail(const struct cuda_driver *cu, CUresult result, struct base_error *err, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#define CUDA_LT_CALLS(X)                                                                                               \
    X(Create, cublasLtCreate)                                                                                          \
    X(Destroy, cublasLtDestroy)                                                                                        \
    X(GetVersion, cublasLtGetVersion)                                                                                  \
    X(GetStatusName, cublasLtGetStatusName)                                                                            \
    X(MatmulDescCreate, cublasLtMatmulDescCreate)                                                                      \
    X(MatmulDescSetAttribute, cublasLtMatmulDescSetAttribute)                                                          \
    X(MatmulDescDestroy, cublasLtMatmulDescDestroy)                                                                    \
    X(MatrixLayoutCreate, cublasLtMatrixLayoutCreate)                                                                  \
    X(MatrixLayoutSetAttribute, cublasLtMatrixLayoutSetAttribute)                                                      \
    X(MatrixLayoutDestroy, cublasLtMatrixLayoutDestroy)                                                                \
    X(MatmulPreferenceCreate, cublasLtMatmulPreferenceCreate)                                                          \
    X(MatmulPreferenceSetAttribute, cublasLtMatmulPreferenceSetAttribute)                                              \
    X(MatmulPreferenceDestroy, cublasLtMatmulPreferenceDestroy)                                                        \
    X(MatmulAlgoGetHeuristic, cublasLtMatmulAlgoGetHeuristic)                                                          \
    X(MatmulAlgoCheck, cublasLtMatmulAlgoCheck)                                                                        \
    X(MatmulAlgoConfigGetAttribute, cublasLtMatmulAlgoConfigGetAttribute)                                              \
    X(Matmul, cublasLtMatmul)

struct cuda_lt {
    size_t version; /* major * 10000 + minor * 100 + patch */
#define CUDA_LT_FIELD(field, function) __typeof__(function) *field;
    CUDA_LT_CALLS(CUDA_LT_FIELD)
#undef CUDA_LT_FIELD
};

/* libcublasLt.so.13, else .so.12; ERR_SERVICE when neither is here. The first call takes as long as mapping half a gigabyte. */
int cuda_lt_get(const struct cuda_lt **out_lt, struct base_error *err);

#endif
