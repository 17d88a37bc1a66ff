// SPDX-License-Identifier: Apache-2.0
//
// load_libraries MODE LIBRARY...: loads shared libraries that were built for different
// architectures into one process, with global symbols, and runs the layer by each. With MODE "load"
// it stops after loading, which needs no device.
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <string>

#include "compare.hpp"

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  std::vector<RunOnDevice*> runs;
  for (int i = 2; i < argc; ++i) {
    void* const library = dlopen(argv[i], RTLD_NOW | RTLD_GLOBAL);
    void* const run = library == nullptr ? nullptr : dlsym(library, "run_layer");
    if (run == nullptr) {
      std::printf("%s\n", dlerror());
      return 1;
    }
    runs.push_back(reinterpret_cast<RunOnDevice*>(run));
  }
  if (std::string{argv[1]} == "load") return 0;

  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) return kSkipped;
  Layer const layer = make_layer();
  Results const expected = run_on_host(layer);
  double const epsilon = std::numeric_limits<float>::epsilon();
  bool all_agree = true;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    Results actual;
    runs[i](layer, actual);
    double const allowed = tolerance(layer.problem, epsilon);
    all_agree = agree(argv[i + 2], actual, expected, allowed) && all_agree;
  }
  return all_agree ? 0 : 1;
}
