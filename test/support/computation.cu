// SPDX-License-Identifier: Apache-2.0
#include "support/computation.hpp"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <gru/policy.hpp>
#include <thread>

#include "support/host.hpp"
#include "support/tolerance.hpp"

namespace gru::test {

Results exact(Layer const& layer) {
  Problem const& p = layer.problem;
  std::int64_t const products = p.steps * p.batch * p.hidden_size * (p.hidden_size + p.input_size);
  int const cores = static_cast<int>(std::thread::hardware_concurrency());
  int const threads = products < 10'000'000 ? 1 : std::clamp(cores / 4, 1, 4);
  return host_engine<double>(threads).run(in_double(layer));
}

template <typename T>
void check_engines(Layer const& layer) {
  std::vector<gru::Engine> const engines = forward_engines<T>(layer.problem);
  Results const expected = exact(layer);
  for (gru::Engine const engine : engines) {
    INFO("engine: " << to_string(engine));
    check_close(device_engine<T>(engine).run(layer), expected, layer, DataTypeOf<T>::value);
  }
}

template void check_engines<float>(Layer const&);
template void check_engines<Eigen::half>(Layer const&);
template void check_engines<Eigen::bfloat16>(Layer const&);

}  // namespace gru::test
