// SPDX-License-Identifier: Apache-2.0
//
// Times the device engines through the public API beside cuDNN; see bench/README.md.
#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include <gru/version.hpp>

#include "exit_status.hpp"
#include "suites.cuh"

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

/// Keeps every multiprocessor busy for a while; then cycles[0] over nanoseconds[0] is its clock.
__global__ void clock_kernel(long long* cycles, long long* nanoseconds) {
  constexpr long long kWhile = 200'000'000;
  auto const now = [] {
    long long time = 0;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(time));
    return time;
  };
  long long const first_cycle = clock64();
  long long const first_time = now();
  while (now() - first_time < kWhile) {
  }
  if (blockIdx.x == 0) {
    cycles[0] = clock64() - first_cycle;
    nanoseconds[0] = now() - first_time;
  }
}

/// The clock of a busy chip in MHz, as measured. Also brings it to its clock after idling.
std::string measured_clock(int multiprocessors) {
  DeviceBuffer<long long> const counts{2};
  clock_kernel<<<static_cast<unsigned>(multiprocessors), 1>>>(counts.data(), counts.data() + 1);
  check(cudaGetLastError(), "clock_kernel");
  long long values[2] = {};
  check(cudaMemcpy(values, counts.data(), sizeof values, cudaMemcpyDeviceToHost), "cudaMemcpy");
  return std::to_string(values[0] * 1000 / values[1]);
}

/// Returns the number of multiprocessors.
int describe_device(Table& table) {
  int device = 0;
  int runtime = 0;
  int driver = 0;
  cudaDeviceProp facts{};
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaGetDeviceProperties(&facts, device), "cudaGetDeviceProperties");
  check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  table.note("chip", facts.name);
  table.note("compute capability", std::to_string(facts.major) + '.' + std::to_string(facts.minor));
  table.note("multiprocessors", std::to_string(facts.multiProcessorCount));
  table.note("CUDA runtime", cuda_version(runtime));
  table.note("CUDA of driver", cuda_version(driver));
  table.note("cuBLAS", cublas_version());
  return facts.multiProcessorCount;
}

std::vector<Shape> shapes_of(std::string const& suite) {
  if (suite == "batch") return batch_sweep();
  if (suite == "hidden") return hidden_sweep();
  if (suite == "options") return option_shapes();
  if (suite == "lengths") return length_shapes();
  if (suite == "streaming") return streaming_shapes();
  return used_shapes();
}

/// What the settings ask for, all types of a shape one behind the other.
std::vector<Case> cases_of(Settings const& settings) {
  std::vector<Case> cases;
  for (std::string const& suite : settings.suites) {
    for (Shape const& shape : shapes_of(suite)) {
      if (!std::regex_match(shape.name, settings.shapes)) continue;
      for (Type const type : kAllTypes) {
        if (contains(settings.types, to_string(type))) cases.push_back({suite, type, shape});
      }
    }
  }
  return cases;
}

std::vector<Work> works_of(Settings const& settings) {
  std::vector<Work> works;
  for (Work const work : kAllWork) {
    if (contains(settings.works, to_string(work))) works.push_back(work);
  }
  return works;
}

void run_case(Bench const& bench, Case const& c, std::vector<Work> const& works,
              double most_seconds) {
  switch (c.type) {
    case Type::kFp32:
    case Type::kTf32:
      return run_case_of<float>(bench, c, works, most_seconds);
    case Type::kFp16:
      return run_case_of<__half>(bench, c, works, most_seconds);
    case Type::kBf16:
      return run_case_of<__nv_bfloat16>(bench, c, works, most_seconds);
  }
}

void run_cases(Bench const& bench, std::vector<Case> const& cases) {
  std::vector<Work> const works = works_of(bench.settings);
  double const begin = seconds_now();
  std::size_t cases_left = cases.size();
  for (Case const& c : cases) {
    double const seconds_left = bench.settings.seconds - (seconds_now() - begin);
    std::string const name = c.suite + '/' + to_string(c.type) + '/' + c.shape.name;
    if (seconds_left <= 0) {
      std::fprintf(stderr, "%s: left out, the time is up\n", name.c_str());
      continue;
    }
    double const case_begin = seconds_now();
    try {
      run_case(bench, c, works, seconds_left / static_cast<double>(cases_left));
      std::fprintf(stderr, "%s: %.1f s\n", name.c_str(), seconds_now() - case_begin);
    } catch (std::exception const& error) {
      static_cast<void>(cudaGetLastError());
      std::fprintf(stderr, "%s: %s\n", name.c_str(), error.what());
    }
    --cases_left;
  }
}

int run(int argc, char** argv) {
  Settings settings;
  if (argc == 2 && std::string{argv[1]} == "--help") {
    std::fputs(kSettingsHelp, stdout);
    return 0;
  }
  for (int i = 1; i < argc; ++i) {
    if (read_setting(argv[i], settings)) continue;
    std::fprintf(stderr, "%s: cannot use %s\n%s", argv[0], argv[i], kSettingsHelp);
    return kUsage;
  }
  std::vector<Case> const cases = cases_of(settings);
  if (settings.list) {
    for (Case const& c : cases) {
      std::printf("%s/%s/%s\n", c.suite.c_str(), to_string(c.type), c.shape.name.c_str());
    }
    return 0;
  }
  if (cases.empty()) {
    std::fprintf(stderr, "%s: no case matches\n", argv[0]);
    return kNothingMatches;
  }
  int devices = 0;
  cudaError_t const status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess || devices == 0) {
    std::fprintf(stderr, "%s: no GPU: %s\n", argv[0], cudaGetErrorString(status));
    return kNoDevice;
  }

  Device const device;
  Table table{settings.out};
  for (std::string const& pair : settings.context) {
    std::size_t const equals = std::min(pair.find('='), pair.size());
    table.note(pair.substr(0, equals), pair.substr(std::min(equals + 1, pair.size())));
  }
  int const multiprocessors = describe_device(table);
  std::unique_ptr<PeerLibrary> const peer =
      settings.peer ? make_cudnn(device.execution().stream) : nullptr;
  if (peer != nullptr) {
    table.note("cuDNN", peer->version());
    table.note("cuDNN's algorithms", settings.algorithms);
  }
  if (settings.peer && peer == nullptr) {
    std::fprintf(stderr, "%s: built without cuDNN: there are no rows of it\n", argv[0]);
  }
  table.note("gru", std::to_string(GRU_VERSION_MAJOR) + '.' + std::to_string(GRU_VERSION_MINOR) +
                        '.' + std::to_string(GRU_VERSION_PATCH));
  table.note("clock before, MHz", measured_clock(multiprocessors));
  table.write_header();
  run_cases({settings, device, peer.get(), table}, cases);
  table.note("clock after, MHz", measured_clock(multiprocessors));
  return 0;
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
