// SPDX-License-Identifier: Apache-2.0
//
// Times the device engines through the public API. Takes the flags of Google Benchmark, and
// --budget_ms=MS; see bench/README.md.
#include <benchmark/benchmark.h>
#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <cstdio>
#include <exception>
#include <string>

#include "device.cuh"
#include "device_cases.hpp"
#include "flags.hpp"

namespace gru::bench {
namespace {

/// 13000 is "13.0".
std::string cuda_version(int packed) {
  return std::to_string(packed / 1000) + '.' + std::to_string(packed % 1000 / 10);
}

std::string cublas_version() {
  std::string version;
  for (libraryPropertyType const part : {MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL}) {
    int value = 0;
    check(cublasGetProperty(part, &value), "cublasGetProperty");
    version += (version.empty() ? "" : ".") + std::to_string(value);
  }
  return version;
}

void describe_device() {
  int device = 0;
  int runtime = 0;
  int driver = 0;
  cudaDeviceProp facts{};
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaGetDeviceProperties(&facts, device), "cudaGetDeviceProperties");
  check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  benchmark::AddCustomContext("chip", facts.name);
  benchmark::AddCustomContext("compute_capability",
                              std::to_string(facts.major) + '.' + std::to_string(facts.minor));
  benchmark::AddCustomContext("multiprocessors", std::to_string(facts.multiProcessorCount));
  benchmark::AddCustomContext("cuda_runtime", cuda_version(runtime));
  benchmark::AddCustomContext("cuda_of_driver", cuda_version(driver));
  benchmark::AddCustomContext("cublas", cublas_version());
}

int run(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  Budget budget;
  if (!read_flags(argc, argv, budget)) return kUsage;
  int devices = 0;
  cudaError_t const status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess || devices == 0) {
    std::fprintf(stderr, "%s: no GPU: %s\n", argv[0], cudaGetErrorString(status));
    return kNoDevice;
  }
  describe_device();
  add_version_context();
  Device device;
  add_float_cases(device, budget);
  add_half_cases(device, budget);
  add_bfloat16_cases(device, budget);
  bool const any = benchmark::RunSpecifiedBenchmarks() > 0;
  benchmark::ClearRegisteredBenchmarks();
  return any ? 0 : kNothingMatches;
}

}  // namespace
}  // namespace gru::bench

int main(int argc, char** argv) {
  try {
    return gru::bench::run(argc, argv);
  } catch (std::exception const& error) {
    std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
    return 1;
  }
}
