// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include <gru/error.hpp>
#include <gru/problem.hpp>

#include "launch.hpp"

/// A layer as Python describes it: the handlers gather it from shapes and attributes, and
/// gru_jax_workspace_bytes is given it by ctypes.
namespace gru_jax {

/// _library.py has the same fields.
struct Layer {
  std::int64_t steps;
  std::int64_t batch;
  std::int64_t input_size;
  std::int64_t hidden_size;
  double zoneout;
  double dropconnect;
  double recurrent_dropout;
  bool reset_after;
  bool reverse;
  bool time_major;
  bool lengths;
  bool episode_starts;
  bool stochastic;
  bool keep_for_backward;
};

inline gru::Problem problem_of(Layer const& layer) {
  gru::Problem p;
  p.steps = layer.steps;
  p.batch = layer.batch;
  p.input_size = layer.input_size;
  p.hidden_size = layer.hidden_size;
  p.variant = layer.reset_after ? gru::Variant::kResetAfter : gru::Variant::kResetBefore;
  p.direction = layer.reverse ? gru::Direction::kReverse : gru::Direction::kForward;
  p.layout = layer.time_major ? gru::Layout::kTimeMajor : gru::Layout::kBatchMajor;
  p.weight_format = gru::WeightFormat::keras();
  p.lengths = layer.lengths;
  p.episode_starts = layer.episode_starts;
  p.zoneout.rate = layer.zoneout;
  p.dropconnect.rate = layer.dropconnect;
  p.recurrent_dropout.rate = layer.recurrent_dropout;
  p.stochastic = layer.stochastic;
  p.keep_for_backward = layer.keep_for_backward;
  return p;
}

/// What a workspace is aligned to; XLA promises less for its buffers.
inline constexpr std::size_t kAlignment = 256;

/// The scratch result that a pass needs, room for aligning it included. `run` starts the pass with
/// an allocator and without tensors; the allocator that it gets here notes the size and stops it.
template <typename Run>
std::int64_t scratch_bytes(gru::Problem const& problem, Run const& run) {
  struct SizeIsKnown {};
  gru::validate(problem);
  std::size_t bytes = 0;
  try {
    run([&bytes](std::size_t wanted) -> void* {
      bytes = wanted;
      throw SizeIsKnown{};
    });
  } catch (SizeIsKnown const&) {
  } catch (gru::InvalidArgument const&) {
    // The Problem is valid: a pass that asked for no workspace has missed its weights.
  }
  return static_cast<std::int64_t>(bytes + kAlignment);
}

/// scratch_bytes of the forward or the backward pass of a layer. What the passes throw becomes a
/// negative result and a message: -1 InvalidArgument, -2 Unsupported, -3 all else.
template <typename Forward, typename Backward>
std::int64_t workspace_bytes(bool is_backward, gru::adapter::Type type, Layer const& layer,
                             char* message, std::int64_t message_bytes, Forward const& forward,
                             Backward const& backward) {
  auto const failed = [&](std::int64_t code, std::exception const& error) {
    std::string const text = error.what();
    std::size_t const length = std::min(text.size(), static_cast<std::size_t>(message_bytes - 1));
    std::memcpy(message, text.data(), length);
    message[length] = '\0';
    return code;
  };
  try {
    gru::Problem const problem = problem_of(layer);
    return scratch_bytes(problem, [&](gru::adapter::Allocate const& allocate) {
      if (is_backward) {
        backward(type, problem, allocate);
      } else {
        forward(type, problem, allocate);
      }
    });
  } catch (gru::InvalidArgument const& error) {
    return failed(-1, error);
  } catch (gru::Unsupported const& error) {
    return failed(-2, error);
  } catch (std::exception const& error) {
    return failed(-3, error);
  }
}

}  // namespace gru_jax
