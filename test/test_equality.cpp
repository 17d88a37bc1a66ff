// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_test_macros.hpp>

#include <functional>
#include <vector>

#include <gru/equality.hpp>

namespace gru::test {
namespace {

TEST_CASE("Problems are equal until any member differs") {
  using Change = std::function<void(Problem&)>;
  std::vector<Change> const changes{
      [](Problem& p) { p.steps = 1; },
      [](Problem& p) { p.batch = 1; },
      [](Problem& p) { p.input_size = 1; },
      [](Problem& p) { p.hidden_size = 1; },
      [](Problem& p) { p.variant = Variant::kResetBefore; },
      [](Problem& p) { p.direction = Direction::kReverse; },
      [](Problem& p) { p.layout = Layout::kBatchMajor; },
      [](Problem& p) { p.weight_format.shape = WeightFormat::Shape::kGatesByInput; },
      [](Problem& p) { p.weight_format.gates = WeightFormat::GateOrder::kResetFirst; },
      [](Problem& p) { p.weight_format.kernel_pitch = 1; },
      [](Problem& p) { p.weight_format.recurrent_kernel_pitch = 1; },
      [](Problem& p) { p.pitch.x = 1; },
      [](Problem& p) { p.pitch.h = 1; },
      [](Problem& p) { p.pitch.dx = 1; },
      [](Problem& p) { p.pitch.dh = 1; },
      [](Problem& p) { p.pitch.h0 = 1; },
      [](Problem& p) { p.pitch.final_state = 1; },
      [](Problem& p) { p.pitch.dh0 = 1; },
      [](Problem& p) { p.pitch.dfinal_state = 1; },
      [](Problem& p) { p.pitch.episode_starts = 1; },
      [](Problem& p) { p.pitch.zoneout_mask = 1; },
      [](Problem& p) { p.pitch.recurrent_dropout_mask = 1; },
      [](Problem& p) { p.lengths = true; },
      [](Problem& p) { p.host_lengths = true; },
      [](Problem& p) { p.episode_starts = true; },
      [](Problem& p) { p.zoneout.rate = 0.5; },
      [](Problem& p) { p.zoneout.mask = MaskSource::kCaller; },
      [](Problem& p) { p.dropconnect.rate = 0.5; },
      [](Problem& p) { p.dropconnect.mask = MaskSource::kCaller; },
      [](Problem& p) { p.recurrent_dropout.rate = 0.5; },
      [](Problem& p) { p.recurrent_dropout.mask = MaskSource::kCaller; },
      [](Problem& p) { p.stochastic = true; },
      [](Problem& p) { p.keep_for_backward = true; },
      [](Problem& p) { p.reserve = ReservePolicy::kRecompute; },
      [](Problem& p) { p.accumulate.dx = true; },
      [](Problem& p) { p.accumulate.dkernel = true; },
      [](Problem& p) { p.accumulate.drecurrent_kernel = true; },
      [](Problem& p) { p.accumulate.dbias = true; },
      [](Problem& p) { p.accumulate.drecurrent_bias = true; },
      [](Problem& p) { p.accumulate.dh0 = true; },
      [](Problem& p) { p.precision = Precision::kTf32; },
      [](Problem& p) { p.state_type = StateType::kFloat; },
      [](Problem& p) { p.weight_gradient_type = WeightGradientType::kFloat; },
      [](Problem& p) { p.engine = Engine::kHost; },
      [](Problem& p) { p.workspace_limit = 1; },
      [](Problem& p) { p.overlap_products = true; },
  };
  Problem const plain;
  CHECK(plain == Problem{});
  for (std::size_t i = 0; i < changes.size(); ++i) {
    INFO("change " << i);
    Problem changed;
    changes[i](changed);
    CHECK(changed != plain);
    Problem again;
    changes[i](again);
    CHECK(changed == again);
    for (std::size_t j = 0; j < i; ++j) {
      Problem other;
      changes[j](other);
      CHECK(changed != other);
    }
  }
}

}  // namespace
}  // namespace gru::test
