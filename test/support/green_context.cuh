// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include "support/device_backend.cuh"

namespace gru::test {

#if CUDART_VERSION >= 12050  // green contexts came with CUDA 12.4

/// A function of the driver, which the tests do not link. Function is decltype(&name).
template <typename Function>
Function driver_function(char const* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  check_cuda(cudaGetDriverEntryPointByVersion(name, &function, 12050, cudaEnableDefault, &found),
             name);
  if (found != cudaDriverEntryPointSuccess) throw std::runtime_error{name};
  return reinterpret_cast<Function>(function);
}

inline void check_driver(CUresult status, char const* what) {
  if (status == CUDA_SUCCESS) return;
  std::ostringstream text;
  text << what << ": error " << status << " of the driver";
  throw std::runtime_error{text.str()};
}

/// While it lives, its thread's CUDA context has but some of the device's multiprocessors.
class GreenContext {
 public:
  /// At least so many, in the device's granularity.
  explicit GreenContext(unsigned least_multiprocessors) {
    check_cuda(cudaFree(nullptr), "the primary context");
    CUdevResource all = {};
    check_driver(driver_function<decltype(&cuDeviceGetDevResource)>("cuDeviceGetDevResource")(
                     0, &all, CU_DEV_RESOURCE_TYPE_SM),
                 "the device's multiprocessors");
    CUdevResource some = {};
    CUdevResource rest = {};
    unsigned groups = 1;
    check_driver(
        driver_function<decltype(&cuDevSmResourceSplitByCount)>("cuDevSmResourceSplitByCount")(
            &some, &groups, &all, &rest, 0, least_multiprocessors),
        "the split");
    multiprocessors_ = some.sm.smCount;
    CUdevResourceDesc description = nullptr;
    check_driver(driver_function<decltype(&cuDevResourceGenerateDesc)>("cuDevResourceGenerateDesc")(
                     &description, &some, 1),
                 "the resource");
    check_driver(driver_function<decltype(&cuGreenCtxCreate)>("cuGreenCtxCreate")(
                     &green_, description, 0, CU_GREEN_CTX_DEFAULT_STREAM),
                 "the green context");
    CUcontext context = nullptr;
    check_driver(
        driver_function<decltype(&cuCtxFromGreenCtx)>("cuCtxFromGreenCtx")(&context, green_),
        "its context");
    check_driver(driver_function<decltype(&cuCtxPushCurrent)>("cuCtxPushCurrent")(context),
                 "making it current");
  }
  GreenContext(GreenContext const&) = delete;
  GreenContext& operator=(GreenContext const&) = delete;
  ~GreenContext() {
    CUcontext context = nullptr;
    driver_function<decltype(&cuCtxPopCurrent)>("cuCtxPopCurrent")(&context);
    driver_function<decltype(&cuGreenCtxDestroy)>("cuGreenCtxDestroy")(green_);
  }

  unsigned multiprocessors() const { return multiprocessors_; }

 private:
  CUgreenCtx green_ = nullptr;
  unsigned multiprocessors_ = 0;
};

#endif

}  // namespace gru::test
