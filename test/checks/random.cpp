// SPDX-License-Identifier: Apache-2.0
#include "checks/random.hpp"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <random>

#include "support/tolerance.hpp"

namespace gru::test {
namespace {

std::size_t index(std::int64_t i) {
  return static_cast<std::size_t>(i);
}

/// Fixed pseudo-random values, away from zero.
Values some_values(std::int64_t count, std::uint32_t seed) {
  std::mt19937 generator{seed};
  Values values;
  for (std::int64_t i = 0; i < count; ++i) {
    double const magnitude = 0.1 + 0.9 * generator() / 4294967296.0;
    values.push_back(generator() % 2 == 0 ? magnitude : -magnitude);
  }
  return values;
}

/// A layer of the given size with every input, no mask.
Layer some_layer(std::int64_t steps, std::int64_t batch, std::int64_t input_size,
                 std::int64_t hidden_size) {
  Layer layer;
  layer.problem.steps = steps;
  layer.problem.batch = batch;
  layer.problem.input_size = input_size;
  layer.problem.hidden_size = hidden_size;
  layer.problem.stochastic = true;
  layer.problem.keep_for_backward = true;
  layer.x = some_values(steps * batch * input_size, 1);
  layer.h0 = some_values(batch * hidden_size, 2);
  layer.kernel = some_values(input_size * 3 * hidden_size, 3);
  layer.recurrent_kernel = some_values(hidden_size * 3 * hidden_size, 4);
  layer.bias = some_values(3 * hidden_size, 5);
  layer.recurrent_bias = some_values(3 * hidden_size, 6);
  layer.dh = some_values(steps * batch * hidden_size, 7);
  layer.dfinal_state = some_values(batch * hidden_size, 8);
  layer.random = Random{0x0123456789abcdef, 0xfedcba9876543210, nullptr};
  return layer;
}

bool same_bits(Values const& a, Values const& b) {
  if (a.size() != b.size()) return false;
  return a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0;
}

bool is_kept(Random const& random, std::uint64_t base, std::uint64_t element, double rate) {
  return draw_keeps(random, base + element / 4, element % 4, rate);
}

constexpr std::uint64_t kTwoTo63 = std::uint64_t{1} << 63;
constexpr std::uint64_t kTwoTo62 = std::uint64_t{1} << 62;

}  // namespace

PhiloxCounter philox_4x32_10(PhiloxCounter counter, PhiloxKey key) {
  for (int round = 0; round < 10; ++round) {
    std::uint64_t const a = std::uint64_t{counter[0]} * 0xD2511F53u;
    std::uint64_t const b = std::uint64_t{counter[2]} * 0xCD9E8D57u;
    auto const high = [](std::uint64_t v) { return static_cast<std::uint32_t>(v / 0x100000000u); };
    auto const low = [](std::uint64_t v) { return static_cast<std::uint32_t>(v % 0x100000000u); };
    counter =
        PhiloxCounter{high(b) ^ counter[1] ^ key[0], low(b), high(a) ^ counter[3] ^ key[1], low(a)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

bool draw_keeps(Random const& random, std::uint64_t i, std::uint64_t word, double rate) {
  auto const low = [](std::uint64_t v) { return static_cast<std::uint32_t>(v); };
  auto const high = [](std::uint64_t v) { return static_cast<std::uint32_t>(v >> 32); };
  PhiloxCounter const words =
      philox_4x32_10({low(i), high(i), low(random.offset), high(random.offset)},
                     {low(random.seed), high(random.seed)});
  return static_cast<double>(words[word]) >= std::floor(rate * 4294967296.0);
}

Bytes drawn_zoneout_mask(Problem const& p, Random const& random) {
  Bytes mask;
  for (std::int64_t t = 0; t < p.steps; ++t) {
    for (std::int64_t n = 0; n < p.batch; ++n) {
      for (std::int64_t unit = 0; unit < p.hidden_size; ++unit) {
        std::int64_t const i = ((t / 4) * p.batch + n) * p.hidden_size + unit;
        mask.push_back(draw_keeps(random, static_cast<std::uint64_t>(i),
                                  static_cast<std::uint64_t>(t % 4), p.zoneout.rate));
      }
    }
  }
  return mask;
}

Bytes drawn_dropconnect_mask(Problem const& p, Random const& random) {
  Bytes mask;
  for (std::int64_t k = 0; k < p.hidden_size; ++k) {
    for (std::int64_t gate = 0; gate < 3; ++gate) {
      for (std::int64_t unit = 0; unit < p.hidden_size; ++unit) {
        std::int64_t const e = (k * 3 + gate) * p.hidden_size + unit;
        mask.push_back(
            is_kept(random, kTwoTo63, static_cast<std::uint64_t>(e), p.dropconnect.rate));
      }
    }
  }
  return mask;
}

Bytes drawn_recurrent_dropout_mask(Problem const& p, Random const& random) {
  Bytes mask;
  for (std::int64_t e = 0; e < p.batch * p.hidden_size; ++e) {
    mask.push_back(is_kept(random, kTwoTo63 + kTwoTo62, static_cast<std::uint64_t>(e),
                           p.recurrent_dropout.rate));
  }
  return mask;
}

void check_drawn_masks_are_the_defined_ones(Engine const& engine) {
  WeightFormat const formats[] = {WeightFormat::keras(), WeightFormat::pytorch(),
                                  WeightFormat::onnx()};
  for (int combination = 0; combination < 32; ++combination) {
    bool const is_reverse = combination & 1;
    bool const is_reset_before = combination & 2;
    bool const is_batch_major = combination & 4;
    bool const has_lengths = combination & 8;
    bool const is_by_pointer = combination & 16;
    CAPTURE(engine.name(), is_reverse, is_reset_before, is_batch_major, has_lengths, is_by_pointer);
    Layer drawn = some_layer(9, 3, 4, 5);
    Problem& p = drawn.problem;
    p.direction = is_reverse ? Direction::kReverse : Direction::kForward;
    p.variant = is_reset_before ? Variant::kResetBefore : Variant::kResetAfter;
    p.layout = is_batch_major ? Layout::kBatchMajor : Layout::kTimeMajor;
    p.weight_format = formats[combination % 3];
    p.zoneout.rate = 0.3;
    p.dropconnect.rate = 0.4;
    p.recurrent_dropout.rate = 0.5;
    drawn.random_by_pointer = is_by_pointer;
    if (has_lengths) {
      p.lengths = true;
      drawn.lengths = {7, 0, 9};
      p.episode_starts = true;
      drawn.episode_starts = Bytes(index(p.steps * p.batch), 0);
      drawn.episode_starts[index(4 * p.batch)] = 1;
      drawn.episode_starts[index(6 * p.batch + 2)] = 1;
    }
    Layer brought = drawn;
    brought.problem.zoneout.mask = MaskSource::kCaller;
    brought.problem.dropconnect.mask = MaskSource::kCaller;
    brought.problem.recurrent_dropout.mask = MaskSource::kCaller;
    brought.zoneout_mask = drawn_zoneout_mask(p, drawn.random);
    brought.dropconnect_mask = drawn_dropconnect_mask(p, drawn.random);
    brought.recurrent_dropout_mask = drawn_recurrent_dropout_mask(p, drawn.random);
    check_same_bits(engine.run(drawn), engine.run(brought));
  }
}

void check_zoneout_is_seen(Engine const& engine) {
  for (Direction const direction : {Direction::kForward, Direction::kReverse}) {
    bool const is_reverse = direction == Direction::kReverse;
    CAPTURE(engine.name(), is_reverse);
    Layer layer = some_layer(11, 5, 3, 7);
    Problem& p = layer.problem;
    p.direction = direction;
    p.zoneout.rate = 0.4;
    Values const h0 = rounded(layer, engine.type()).h0;
    Bytes const mask = drawn_zoneout_mask(p, layer.random);
    Results const results = engine.run(layer);
    std::int64_t const row = p.batch * p.hidden_size;
    std::size_t mistaken = 0;
    for (std::int64_t i = 0; i < p.steps; ++i) {
      std::int64_t const t = is_reverse ? p.steps - 1 - i : i;
      std::int64_t const before = is_reverse ? t + 1 : t - 1;
      for (std::int64_t u = 0; u < row; ++u) {
        double const state = i == 0 ? h0[index(u)] : results.h[index(before * row + u)];
        bool const was_taken = results.h[index(t * row + u)] != state;
        mistaken += was_taken != (mask[index(t * row + u)] != 0);
      }
    }
    CHECK(mistaken == 0);
  }

  // Without R, dh0 is the incoming gradient where the state was kept, and less elsewhere.
  Layer layer = some_layer(1, 5, 3, 7);
  layer.problem.zoneout.rate = 0.4;
  layer.recurrent_kernel.assign(layer.recurrent_kernel.size(), 0.0);
  layer.dfinal_state.clear();
  Layer const seen = rounded(layer, engine.type());
  Results const results = engine.run(layer);
  std::size_t kept_states = 0;
  for (std::size_t u = 0; u < results.h.size(); ++u) {
    bool const is_forward_kept = results.h[u] == seen.h0[u];
    bool const is_backward_kept = results.dh0[u] == seen.dh[u];
    CHECK(is_forward_kept == is_backward_kept);
    kept_states += is_forward_kept;
  }
  CHECK(kept_states > 0);
  CHECK(kept_states < results.h.size());
}

void check_dropconnect_is_seen(Engine const& engine) {
  for (Variant const variant : {Variant::kResetAfter, Variant::kResetBefore}) {
    bool const is_reset_before = variant == Variant::kResetBefore;
    // Backward: the gradient of a dropped weight is zero, that of no other. Where the reset gate
    // acts before the product, it has no effect on a unit whose weights to the candidates all
    // dropped.
    Layer layer = some_layer(1, 1, 3, 6);
    layer.problem.variant = variant;
    layer.problem.dropconnect.rate = 0.4;
    std::int64_t const H = layer.H();
    Bytes const mask = drawn_dropconnect_mask(layer.problem, layer.random);
    Values const gradient = engine.run(layer).drecurrent_kernel;
    auto const reaches_candidates = [&](std::int64_t unit) {
      auto const row = mask.begin() + (unit * 3 + 2) * H;
      return std::any_of(row, row + H, [](std::uint8_t m) { return m != 0; });
    };
    for (std::int64_t i = 0; i < H * 3 * H; ++i) {
      CAPTURE(engine.name(), is_reset_before, i);
      bool const is_reset_gate = i / H % 3 == 1;
      bool const has_effect = !(is_reset_before && is_reset_gate) || reaches_candidates(i % H);
      CHECK((gradient[index(i)] != 0) == (mask[index(i)] != 0 && has_effect));
    }

    // Forward: sample k enters with unit k alone, so that h[k, j] shows the weight R[k, a, j] where
    // R has the block of one gate a only. Where the reset gate acts before the product nothing but
    // unit k's own reset gate shows, so backward alone covers that block.
    for (std::int64_t gate = 0; gate < 3; ++gate) {
      if (is_reset_before && gate == 1) continue;
      Layer probe = some_layer(1, H, 1, H);
      probe.problem.variant = variant;
      probe.problem.dropconnect.rate = 0.4;
      probe.problem.keep_for_backward = false;
      for (std::int64_t k = 0; k < H; ++k) {
        for (std::int64_t j = 0; j < H; ++j) probe.h0[index(k * H + j)] = k == j ? 1 : 0;
        for (std::int64_t column = 0; column < 3 * H; ++column) {
          if (column / H != gate) probe.recurrent_kernel[index(k * 3 * H + column)] = 0;
        }
      }
      Layer all_dropped = probe;
      all_dropped.recurrent_kernel.assign(probe.recurrent_kernel.size(), 0.0);
      Values const h = engine.run(probe).h;
      Values const h_dropped = engine.run(all_dropped).h;
      for (std::int64_t k = 0; k < H; ++k) {
        for (std::int64_t j = 0; j < H; ++j) {
          CAPTURE(engine.name(), is_reset_before, gate, k, j);
          bool const is_weight_kept = h[index(k * H + j)] != h_dropped[index(k * H + j)];
          CHECK(is_weight_kept == (mask[index((k * 3 + gate) * H + j)] != 0));
        }
      }
    }
  }
}

void check_recurrent_dropout_is_seen(Engine const& engine) {
  for (Variant const variant : {Variant::kResetAfter, Variant::kResetBefore}) {
    bool const is_reset_before = variant == Variant::kResetBefore;
    // Backward, one sample: the rows of dR of dropped units are zero, no others are. Where the
    // reset gate acts before the product, a dropped unit's own reset gate has no effect either.
    Layer layer = some_layer(1, 1, 3, 17);
    layer.problem.variant = variant;
    layer.problem.recurrent_dropout.rate = 0.4;
    Bytes const mask = drawn_recurrent_dropout_mask(layer.problem, layer.random);
    Values const gradient = engine.run(layer).drecurrent_kernel;
    std::int64_t const H = layer.H();
    for (std::int64_t i = 0; i < H * 3 * H; ++i) {
      CAPTURE(engine.name(), is_reset_before, i);
      std::int64_t const row = i / (3 * H);
      std::int64_t const gate = i % (3 * H) / H;
      std::int64_t const unit = i % H;
      bool const has_effect = !(is_reset_before && gate == 1 && mask[index(unit)] == 0);
      CHECK((gradient[index(i)] != 0) == (mask[index(row)] != 0 && has_effect));
    }

    // Forward: with an update gate that sees each unit's own state alone, h shows each unit's mask.
    Layer probe = some_layer(1, 5, 1, 7);
    probe.problem.variant = variant;
    probe.problem.recurrent_dropout.rate = 0.4;
    probe.problem.keep_for_backward = false;
    probe.recurrent_kernel.assign(probe.recurrent_kernel.size(), 0.0);
    Layer all_dropped = probe;
    for (std::int64_t j = 0; j < probe.H(); ++j) {
      probe.recurrent_kernel[index(j * 3 * probe.H() + j)] = 1;
    }
    Bytes const probe_mask = drawn_recurrent_dropout_mask(probe.problem, probe.random);
    Values const h = engine.run(probe).h;
    Values const h_dropped = engine.run(all_dropped).h;
    for (std::size_t u = 0; u < h.size(); ++u) {
      CAPTURE(engine.name(), is_reset_before, u);
      CHECK((h[u] != h_dropped[u]) == (probe_mask[u] != 0));
    }
  }
}

void check_seed_and_offset_matter(Engine const& engine) {
  CAPTURE(engine.name());
  for (Dropping Problem::*option :
       {&Problem::zoneout, &Problem::dropconnect, &Problem::recurrent_dropout}) {
    Layer layer = some_layer(6, 4, 3, 8);
    (layer.problem.*option).rate = 0.5;
    Results const base = engine.run(layer);
    check_same_bits(base, engine.run(layer));
    for (int bit : {0, 31, 32, 63}) {
      CAPTURE(bit);
      Layer other_seed = layer;
      other_seed.random.seed ^= std::uint64_t{1} << bit;
      CHECK_FALSE(same_bits(base.h, engine.run(other_seed).h));
      Layer other_offset = layer;
      other_offset.random.offset ^= std::uint64_t{1} << bit;
      CHECK_FALSE(same_bits(base.h, engine.run(other_offset).h));
    }
    Layer in_evaluation = layer;
    in_evaluation.problem.stochastic = false;
    Layer in_evaluation_too = in_evaluation;
    in_evaluation_too.random = Random{~layer.random.seed, ~layer.random.offset, nullptr};
    check_same_bits(engine.run(in_evaluation), engine.run(in_evaluation_too));
  }
}

}  // namespace gru::test
