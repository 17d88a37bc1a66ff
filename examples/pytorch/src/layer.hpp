// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <tuple>
#include <utility>

#include <ATen/ATen.h>
#include <gru/error.hpp>

#include "launch.hpp"

/// What the kernels of both devices share: from PyTorch's tensors to the launchers' arguments.
namespace gru_torch {

using OptionalTensor = std::optional<at::Tensor>;

/// What both ops are given.
struct Arguments {
  at::Tensor x;
  at::Tensor w_ih;
  at::Tensor w_hh;
  OptionalTensor b_ih;
  OptionalTensor b_hh;
  OptionalTensor h0;
  OptionalTensor lengths;
  OptionalTensor episode_starts;
  OptionalTensor seed;
  double zoneout = 0;
  double dropconnect = 0;
  double recurrent_dropout = 0;
  bool reset_after = true;
  bool reverse = false;
  bool batch_first = false;
};

/// Calls f; what gru throws becomes the exception that Python sees: ValueError, NotImplementedError
/// or RuntimeError.
template <typename F>
auto translated(F const& f) {
  try {
    return f();
  } catch (gru::InvalidArgument const& error) {
    C10_THROW_ERROR(ValueError, error.what());
  } catch (gru::Unsupported const& error) {
    C10_THROW_ERROR(NotImplementedError, error.what());
  } catch (gru::Error const& error) {
    C10_THROW_ERROR(Error, error.what());
  }
}

inline gru::adapter::Type type_of(at::Tensor const& x) {
  switch (x.scalar_type()) {
    case at::kFloat:
      return gru::adapter::Type::kFloat;
    case at::kDouble:
      return gru::adapter::Type::kDouble;
    case at::kHalf:
      return gru::adapter::Type::kHalf;
    case at::kBFloat16:
      return gru::adapter::Type::kBfloat16;
    default:
      C10_THROW_ERROR(TypeError, c10::str("gru_torch: x is ", x.scalar_type(),
                                          ", must be float16, bfloat16, float32 or float64"));
  }
}

inline void const* data_of(OptionalTensor const& tensor) {
  return tensor ? tensor->const_data_ptr() : nullptr;
}

/// One call of an op: the Problem, and the tensors that its pointers lead to.
class Layer {
 public:
  explicit Layer(Arguments const& arguments) : tensors_{arguments} {
    at::Tensor const& x = tensors_.x;
    type_ = type_of(x);
    GRU_EXPECT(x.dim() == 3, gru::InvalidArgument, "x has shape ", x.sizes(),
               ", must have 3 dimensions");
    GRU_EXPECT(tensors_.w_hh.dim() == 2, gru::InvalidArgument, "w_hh has shape ",
               tensors_.w_hh.sizes(), ", must have 2 dimensions");
    describe();
    check();
  }

  /// A tensor as the passes read it: on x's device, of x's type or the one given, contiguous.
  at::Tensor checked(char const* name, at::Tensor const& tensor, at::IntArrayRef shape,
                     std::optional<at::ScalarType> type = {}) const {
    at::Tensor const& x = tensors_.x;
    at::ScalarType const wanted = type.value_or(x.scalar_type());
    GRU_EXPECT(tensor.sizes() == shape, gru::InvalidArgument, name, " has shape ", tensor.sizes(),
               ", must be ", shape);
    GRU_EXPECT(tensor.scalar_type() == wanted, gru::InvalidArgument, name, " is of type ",
               tensor.scalar_type(), ", must be ", wanted);
    GRU_EXPECT(tensor.device() == x.device(), gru::InvalidArgument, name, " is on ",
               tensor.device(), ", but x is on ", x.device());
    return tensor.contiguous();
  }
  OptionalTensor checked(char const* name, OptionalTensor const& tensor, at::IntArrayRef shape,
                         std::optional<at::ScalarType> type = {}) const {
    if (!tensor) return {};
    return checked(name, *tensor, shape, type);
  }

  gru::Problem& problem() { return problem_; }
  gru::adapter::Type type() const { return type_; }

  gru::adapter::Weights weights() const {
    return {tensors_.w_ih.const_data_ptr(), tensors_.w_hh.const_data_ptr(), data_of(tensors_.b_ih),
            data_of(tensors_.b_hh)};
  }

  gru::adapter::Inputs inputs() const {
    gru::adapter::Inputs inputs;
    inputs.x = tensors_.x.const_data_ptr();
    inputs.h0 = data_of(tensors_.h0);
    inputs.lengths = static_cast<std::int32_t const*>(data_of(tensors_.lengths));
    inputs.host_lengths = static_cast<std::int32_t const*>(data_of(host_lengths_));
    inputs.episode_starts = static_cast<std::uint8_t const*>(data_of(tensors_.episode_starts));
    inputs.random.state = static_cast<std::uint64_t const*>(data_of(tensors_.seed));
    return inputs;
  }

  /// The type of h0, the final state and their gradients: x's, or float32 where h0 is of that.
  at::ScalarType state_type() const {
    return problem_.state_type == gru::StateType::kFloat ? at::kFloat : tensors_.x.scalar_type();
  }

  std::array<std::int64_t, 3> sequence_shape(std::int64_t width) const {
    return {tensors_.x.size(0), tensors_.x.size(1), width};
  }
  std::array<std::int64_t, 2> state_shape() const { return {problem_.batch, problem_.hidden_size}; }
  std::array<std::int64_t, 2> weight_shape(std::int64_t inputs) const {
    return {3 * problem_.hidden_size, inputs};
  }

 private:
  void describe() {
    at::Tensor const& x = tensors_.x;
    gru::Problem& p = problem_;
    p.steps = x.size(tensors_.batch_first ? 1 : 0);
    p.batch = x.size(tensors_.batch_first ? 0 : 1);
    p.input_size = x.size(2);
    p.hidden_size = tensors_.w_hh.size(1);
    p.variant = tensors_.reset_after ? gru::Variant::kResetAfter : gru::Variant::kResetBefore;
    p.direction = tensors_.reverse ? gru::Direction::kReverse : gru::Direction::kForward;
    p.layout = tensors_.batch_first ? gru::Layout::kBatchMajor : gru::Layout::kTimeMajor;
    p.weight_format = gru::WeightFormat::pytorch();
    bool const has_16_bits = x.element_size() == 2;
    if (has_16_bits && tensors_.h0 && tensors_.h0->scalar_type() == at::kFloat) {
      p.state_type = gru::StateType::kFloat;
    }
    p.lengths = tensors_.lengths.has_value();
    p.episode_starts = tensors_.episode_starts.has_value();
    p.zoneout.rate = tensors_.zoneout;
    p.dropconnect.rate = tensors_.dropconnect;
    p.recurrent_dropout.rate = tensors_.recurrent_dropout;
    p.stochastic = tensors_.seed.has_value();
  }

  void check() {
    gru::Problem const& p = problem_;
    tensors_.x = tensors_.x.contiguous();
    tensors_.w_ih = checked("w_ih", tensors_.w_ih, weight_shape(p.input_size));
    tensors_.w_hh = checked("w_hh", tensors_.w_hh, weight_shape(p.hidden_size));
    tensors_.b_ih = checked("b_ih", tensors_.b_ih, {3 * p.hidden_size});
    tensors_.b_hh = checked("b_hh", tensors_.b_hh, {3 * p.hidden_size});
    tensors_.h0 = checked("h0", tensors_.h0, state_shape(), state_type());
    take_lengths();
    tensors_.episode_starts = checked("episode_starts", tensors_.episode_starts,
                                      {tensors_.x.size(0), tensors_.x.size(1)}, at::kBool);
    tensors_.seed = checked("seed", tensors_.seed, {2}, at::kLong);
  }

  /// Lengths may be on the CPU whatever x is on: a pass makes use of that.
  void take_lengths() {
    OptionalTensor& lengths = tensors_.lengths;
    at::Device const device = tensors_.x.device();
    if (lengths && lengths->is_cpu() && !device.is_cpu()) {
      host_lengths_ = lengths->contiguous();
      lengths = lengths->to(device, /*non_blocking=*/true);
    }
    lengths = checked("lengths", lengths, {problem_.batch}, at::kInt);
    problem_.host_lengths = host_lengths_.has_value();
  }

  Arguments tensors_;
  OptionalTensor host_lengths_;
  gru::Problem problem_;
  gru::adapter::Type type_;
};

/// Memory of PyTorch's allocator that lives as long as this.
class Scratch {
 public:
  explicit Scratch(at::Tensor const& like) : options_{like.options().dtype(at::kByte)} {}

  gru::adapter::Allocate allocate() {
    return [this](std::size_t bytes) -> void* {
      memory_ = at::empty({static_cast<std::int64_t>(bytes) + kAlignment}, options_);
      auto const address = reinterpret_cast<std::uintptr_t>(memory_.data_ptr());
      return reinterpret_cast<void*>((address + kAlignment - 1) / kAlignment * kAlignment);
    };
  }

 private:
  static constexpr std::int64_t kAlignment = 256;
  at::TensorOptions options_;
  at::Tensor memory_;
};

}  // namespace gru_torch
