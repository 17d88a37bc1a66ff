// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include <gru/error.hpp>

#include "launch.hpp"
#include "layer.h"
#include "xla/ffi/api/ffi.h"

/// From XLA's buffers to the launchers' pointers: what the handlers of CPU and GPU share.
///
/// An operand that is left out is a buffer of shape [0], and so is a result that nobody wants.
namespace gru_jax {

namespace ffi = xla::ffi;
using gru::InvalidArgument;

/// The operands of both handlers, in order; those of backward go on with the second list.
enum Operand : std::size_t {
  kX,
  kKernel,
  kRecurrentKernel,
  kBias,
  kRecurrentBias,
  kH0,
  kLengths,
  kEpisodeStarts,
  kRandom,
  kLayerOperands,

  kH = kLayerOperands,
  kReserve,
  kDh,
  kDhLast,
  kBackwardOperands,
};

/// Calls f; what it throws becomes the call's status.
template <typename F>
ffi::Error guarded(F const& f) {
  try {
    f();
    return ffi::Error::Success();
  } catch (gru::InvalidArgument const& error) {
    return ffi::Error::InvalidArgument(error.what());
  } catch (gru::Unsupported const& error) {
    return ffi::Error(ffi::ErrorCode::kUnimplemented, error.what());
  } catch (std::exception const& error) {
    return ffi::Error::Internal(error.what());
  }
}

inline gru::adapter::Type type_of(ffi::AnyBuffer const& buffer) {
  switch (buffer.element_type()) {
    case ffi::DataType::F64:
      return gru::adapter::Type::kDouble;
    case ffi::DataType::F32:
      return gru::adapter::Type::kFloat;
    case ffi::DataType::F16:
      return gru::adapter::Type::kHalf;
    case ffi::DataType::BF16:
      return gru::adapter::Type::kBfloat16;
    default:
      GRU_EXPECT(false, InvalidArgument,
                 "x has a type that is none of float16, bfloat16, float32 "
                 "and float64");
      return gru::adapter::Type::kFloat;
  }
}

inline std::string shape_text(ffi::AnyBuffer::Dimensions shape) {
  std::string text = "[";
  for (std::int64_t const extent : shape) {
    text += (text.size() > 1 ? ", " : "") + std::to_string(extent);
  }
  return text + "]";
}

inline bool is_left_out(ffi::AnyBuffer const& buffer) {
  return buffer.dimensions().size() == 1 && buffer.dimensions()[0] == 0;
}

inline void expect_shape(char const* name, ffi::AnyBuffer const& buffer,
                         std::initializer_list<std::int64_t> shape) {
  auto const actual = buffer.dimensions();
  bool const fits = std::equal(actual.begin(), actual.end(), shape.begin(), shape.end());
  GRU_EXPECT(fits, InvalidArgument, name, " has shape ", shape_text(actual), ", must be ",
             shape_text({shape.begin(), shape.size()}));
}

/// Null where the buffer is left out.
inline void* pointer(char const* name, ffi::AnyBuffer const& buffer,
                     std::initializer_list<std::int64_t> shape) {
  if (is_left_out(buffer)) return nullptr;
  expect_shape(name, buffer, shape);
  return buffer.untyped_data();
}

/// A typed attribute. Throws where it is missing or of another type.
template <typename T>
T attribute(ffi::Dictionary const& attributes, std::string_view name) {
  ffi::ErrorOr<T> value = attributes.get<T>(name);
  GRU_EXPECT(value.has_value(), InvalidArgument, "attribute ", name, ": ", value.error().message());
  return *value;
}

/// What both passes read, and the shapes that follow from it.
class LayerCall {
 public:
  LayerCall(ffi::RemainingArgs operands, ffi::RemainingRets results,
            ffi::Dictionary const& attributes)
      : operands_{operands}, results_{results} {
    ffi::AnyBuffer const x = operand(kX);
    ffi::AnyBuffer const recurrent_kernel = operand(kRecurrentKernel);
    GRU_EXPECT(x.dimensions().size() == 3, InvalidArgument, "x has shape ",
               shape_text(x.dimensions()), ", must have 3 dimensions");
    GRU_EXPECT(recurrent_kernel.dimensions().size() == 2, InvalidArgument,
               "recurrent_kernel has shape ", shape_text(recurrent_kernel.dimensions()),
               ", must have 2 dimensions");
    type = type_of(x);
    layer.time_major = attribute<bool>(attributes, "time_major");
    layer.steps = x.dimensions()[layer.time_major ? 0 : 1];
    layer.batch = x.dimensions()[layer.time_major ? 1 : 0];
    layer.input_size = x.dimensions()[2];
    layer.hidden_size = recurrent_kernel.dimensions()[0];
    layer.reset_after = attribute<bool>(attributes, "reset_after");
    layer.reverse = attribute<bool>(attributes, "reverse");
    layer.zoneout = attribute<double>(attributes, "zoneout");
    layer.dropconnect = attribute<double>(attributes, "dropconnect");
    layer.recurrent_dropout = attribute<double>(attributes, "recurrent_dropout");
    layer.keep_for_backward = attribute<bool>(attributes, "keep_for_backward");
    layer.stochastic = !is_left_out(operand(kRandom));
    layer.lengths = !is_left_out(operand(kLengths));
    layer.episode_starts = !is_left_out(operand(kEpisodeStarts));
    problem = problem_of(layer);
    read_inputs();
  }

  ffi::AnyBuffer operand(std::size_t index) const {
    ffi::ErrorOr<ffi::AnyBuffer> buffer = operands_.get<ffi::AnyBuffer>(index);
    GRU_EXPECT(buffer.has_value(), InvalidArgument, "operand ", index, ": ",
               buffer.error().message());
    return *buffer;
  }
  ffi::AnyBuffer result(std::size_t index) const {
    ffi::ErrorOr<ffi::Result<ffi::AnyBuffer>> buffer = results_.get<ffi::AnyBuffer>(index);
    GRU_EXPECT(buffer.has_value(), InvalidArgument, "result ", index, ": ",
               buffer.error().message());
    return **buffer;
  }

  /// An operand that is given as h is, or left out.
  void const* sequence(char const* name, std::size_t index) const {
    ffi::AnyBuffer const buffer = operand(index);
    return layer.time_major ? pointer(name, buffer, {layer.steps, layer.batch, layer.hidden_size})
                            : pointer(name, buffer, {layer.batch, layer.steps, layer.hidden_size});
  }

  /// Hands out the scratch result `index`.
  gru::adapter::Allocate scratch(std::size_t index) const {
    ffi::AnyBuffer const buffer = result(index);
    return [buffer](std::size_t bytes) -> void* {
      GRU_EXPECT(bytes + kAlignment <= buffer.size_bytes(), InvalidArgument,
                 "the scratch result has ", buffer.size_bytes(), " bytes, must have ",
                 bytes + kAlignment);
      auto const address = reinterpret_cast<std::uintptr_t>(buffer.untyped_data());
      return reinterpret_cast<void*>((address + kAlignment - 1) / kAlignment * kAlignment);
    };
  }

  Layer layer = {};
  gru::adapter::Type type = gru::adapter::Type::kFloat;
  gru::Problem problem;
  gru::adapter::Weights weights;
  gru::adapter::Inputs inputs;

 private:
  void read_inputs() {
    std::int64_t const C = layer.input_size;
    std::int64_t const H = layer.hidden_size;
    expect_shape("kernel", operand(kKernel), {C, 3 * H});
    expect_shape("recurrent_kernel", operand(kRecurrentKernel), {H, 3 * H});
    weights = {operand(kKernel).untyped_data(), operand(kRecurrentKernel).untyped_data(),
               pointer("bias", operand(kBias), {3 * H}),
               pointer("recurrent_bias", operand(kRecurrentBias), {3 * H})};
    inputs.x = operand(kX).untyped_data();
    inputs.h0 = pointer("h0", operand(kH0), {layer.batch, H});
    inputs.lengths =
        static_cast<std::int32_t const*>(pointer("lengths", operand(kLengths), {layer.batch}));
    auto const outer = operand(kX).dimensions();
    inputs.episode_starts = static_cast<std::uint8_t const*>(
        pointer("episode_starts", operand(kEpisodeStarts), {outer[0], outer[1]}));
    // Four 32-bit words are the seed and the offset, since JAX has 64-bit types only where asked.
    inputs.random.state =
        static_cast<std::uint64_t const*>(pointer("random", operand(kRandom), {4}));
  }

  ffi::RemainingArgs operands_;
  ffi::RemainingRets results_;
};

/// Results: h, h_last, the reserve, scratch. `run` is the launcher, bound to its place.
template <typename Run>
void forward(ffi::RemainingArgs operands, ffi::RemainingRets results,
             ffi::Dictionary const& attributes, Run const& run) {
  LayerCall const call{operands, results, attributes};
  Layer const& layer = call.layer;
  gru::adapter::ForwardOutputs outputs;
  outputs.h = call.result(0).untyped_data();
  outputs.final_state = call.result(1).untyped_data();
  outputs.reserve =
      pointer("reserve", call.result(2), {layer.steps, layer.batch, 4 * layer.hidden_size});
  run(call, outputs, call.scratch(3));
}

/// Results: the gradients of x, kernel, recurrent_kernel, bias, recurrent_bias and h0, scratch.
template <typename Run>
void backward(ffi::RemainingArgs operands, ffi::RemainingRets results,
              ffi::Dictionary const& attributes, Run const& run) {
  LayerCall const call{operands, results, attributes};
  std::int64_t const T = call.layer.steps;
  std::int64_t const N = call.layer.batch;
  std::int64_t const C = call.layer.input_size;
  std::int64_t const H = call.layer.hidden_size;
  gru::adapter::BackwardInputs const incoming{
      call.sequence("h", kH), pointer("reserve", call.operand(kReserve), {T, N, 4 * H}),
      call.sequence("dh", kDh), pointer("dh_last", call.operand(kDhLast), {N, H})};
  auto const x_shape = call.operand(kX).dimensions();
  gru::adapter::Gradients gradients;
  gradients.dx = pointer("dx", call.result(0), {x_shape[0], x_shape[1], C});
  gradients.dkernel = pointer("dkernel", call.result(1), {C, 3 * H});
  gradients.drecurrent_kernel = pointer("drecurrent_kernel", call.result(2), {H, 3 * H});
  gradients.dbias = pointer("dbias", call.result(3), {3 * H});
  gradients.drecurrent_bias = pointer("drecurrent_bias", call.result(4), {3 * H});
  gradients.dh0 = pointer("dh0", call.result(5), {N, H});
  run(call, incoming, gradients, call.scratch(6));
}

}  // namespace gru_jax
