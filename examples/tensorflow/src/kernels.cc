// SPDX-License-Identifier: Apache-2.0
//
// The kernels of both ops. Compiled twice: with backend_cpu.h into the library of the ops, and with
// backend_gpu.h into the library that is loaded only where TensorFlow sees a GPU.
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include <gru/error.hpp>

#include "launch.hpp"
#include "tensorflow/core/framework/op_kernel.h"

#if defined(GRU_TF_GPU)
#include "backend_gpu.h"
#else
#include "backend_cpu.h"
#endif

namespace gru_tf {
namespace {

using gru::InvalidArgument;
using tensorflow::OpInputList;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;

/// Carries a status of TensorFlow's own out of a callback.
struct StatusError : std::runtime_error {
  explicit StatusError(absl::Status s) : std::runtime_error{s.ToString()}, status{std::move(s)} {}
  absl::Status status;
};

void throw_if_error(absl::Status const& status) {
  if (!status.ok()) throw StatusError{status};
}

/// Calls f; what it throws becomes the op's status.
template <typename F>
void guarded(OpKernelContext* context, F const& f) {
  try {
    f();
  } catch (StatusError const& error) {
    context->SetStatus(error.status);
  } catch (gru::InvalidArgument const& error) {
    context->SetStatus(absl::InvalidArgumentError(error.what()));
  } catch (gru::Unsupported const& error) {
    context->SetStatus(absl::UnimplementedError(error.what()));
  } catch (std::exception const& error) {
    context->SetStatus(absl::InternalError(error.what()));
  }
}

gru::adapter::Type type_of(tensorflow::DataType type) {
  switch (type) {
    case tensorflow::DT_DOUBLE:
      return gru::adapter::Type::kDouble;
    case tensorflow::DT_HALF:
      return gru::adapter::Type::kHalf;
    case tensorflow::DT_BFLOAT16:
      return gru::adapter::Type::kBfloat16;
    default:
      return gru::adapter::Type::kFloat;
  }
}

void expect_shape(char const* name, Tensor const& tensor, TensorShape const& shape) {
  GRU_EXPECT(tensor.shape() == shape, InvalidArgument, name, " has shape ",
             tensor.shape().DebugString(), ", must be ", shape.DebugString());
}

void expect_rank(char const* name, Tensor const& tensor, int rank) {
  GRU_EXPECT(tensor.dims() == rank, InvalidArgument, name, " has shape ",
             tensor.shape().DebugString(), ", must have ", rank, " dimensions");
}

/// An input that is a list of no or one tensor.
Tensor const* optional_input(OpKernelContext* context, char const* name, TensorShape const& shape) {
  OpInputList list;
  throw_if_error(context->input_list(name, &list));
  GRU_EXPECT(list.size() <= 1, InvalidArgument, name, " has ", list.size(),
             " tensors, must have none or one");
  if (list.size() == 0) return nullptr;
  expect_shape(name, list[0], shape);
  return &list[0];
}

Tensor const& required_input(OpKernelContext* context, char const* name) {
  Tensor const* tensor = nullptr;
  throw_if_error(context->input(name, &tensor));
  return *tensor;
}

void const* data_of(Tensor const* tensor) {
  return tensor == nullptr ? nullptr : tensor->data();
}

/// With GRU_CHECK_LENGTHS=1, throws where a length lies outside [0, T]. This waits for the device.
void check_lengths(OpKernelContext* context, Tensor const& lengths, std::int64_t steps) {
  char const* const wanted = std::getenv("GRU_CHECK_LENGTHS");
  if (wanted == nullptr || std::strcmp(wanted, "1") != 0) return;
  std::vector<std::int32_t> values(lengths.NumElements());
  backend::copy_to_host(context, values.data(), lengths.data(), lengths.TotalBytes());
  for (std::size_t n = 0; n < values.size(); ++n) {
    GRU_EXPECT(values[n] >= 0 && values[n] <= steps, InvalidArgument, "lengths[", n, "] is ",
               values[n], ", outside [0, ", steps, "] (checked since GRU_CHECK_LENGTHS=1)");
  }
}

/// What both ops read: a Problem and the pointers that it announces.
struct Layer {
  gru::Problem problem;
  gru::adapter::Weights weights;
  gru::adapter::Inputs inputs;
  TensorShape h_shape;
  TensorShape state_shape;
};

/// The attributes that both ops have.
class LayerAttributes {
 public:
  explicit LayerAttributes(OpKernelConstruction* context) {
    OP_REQUIRES_OK(context, context->GetAttr("reset_after", &reset_after_));
    OP_REQUIRES_OK(context, context->GetAttr("reverse", &reverse_));
    OP_REQUIRES_OK(context, context->GetAttr("time_major", &time_major_));
    OP_REQUIRES_OK(context, context->GetAttr("recompute", &recompute_));
  }

  Layer read(OpKernelContext* context) const {
    Layer layer;
    gru::Problem& p = layer.problem;
    Tensor const& x = required_input(context, "x");
    Tensor const& kernel = required_input(context, "kernel");
    Tensor const& recurrent_kernel = required_input(context, "recurrent_kernel");
    expect_rank("x", x, 3);
    expect_rank("recurrent_kernel", recurrent_kernel, 2);
    p.steps = x.dim_size(time_major_ ? 0 : 1);
    p.batch = x.dim_size(time_major_ ? 1 : 0);
    p.input_size = x.dim_size(2);
    p.hidden_size = recurrent_kernel.dim_size(0);
    p.variant = reset_after_ ? gru::Variant::kResetAfter : gru::Variant::kResetBefore;
    p.direction = reverse_ ? gru::Direction::kReverse : gru::Direction::kForward;
    p.layout = time_major_ ? gru::Layout::kTimeMajor : gru::Layout::kBatchMajor;
    p.weight_format = gru::WeightFormat::keras();
    p.reserve = recompute_ ? gru::ReservePolicy::kRecompute : gru::ReservePolicy::kKeep;

    TensorShape const gates{3 * p.hidden_size};
    layer.state_shape = TensorShape{p.batch, p.hidden_size};
    layer.h_shape = x.shape();
    layer.h_shape.set_dim(2, p.hidden_size);
    expect_shape("kernel", kernel, TensorShape{p.input_size, 3 * p.hidden_size});
    expect_shape("recurrent_kernel", recurrent_kernel,
                 TensorShape{p.hidden_size, 3 * p.hidden_size});
    layer.weights = {kernel.data(), recurrent_kernel.data(),
                     data_of(optional_input(context, "bias", gates)),
                     data_of(optional_input(context, "recurrent_bias", gates))};
    layer.inputs.x = x.data();
    layer.inputs.h0 = data_of(optional_input(context, "initial_state", layer.state_shape));

    Tensor const* const lengths = optional_input(context, "lengths", TensorShape{p.batch});
    if (lengths != nullptr) check_lengths(context, *lengths, p.steps);
    p.lengths = lengths != nullptr;
    layer.inputs.lengths = static_cast<std::int32_t const*>(data_of(lengths));

    Tensor const* const starts =
        optional_input(context, "episode_starts", TensorShape{x.dim_size(0), x.dim_size(1)});
    p.episode_starts = starts != nullptr;
    layer.inputs.episode_starts = static_cast<std::uint8_t const*>(data_of(starts));

    Tensor const& training = required_input(context, "training");
    Tensor const& rates = required_input(context, "rates");
    Tensor const& seed = required_input(context, "seed");
    expect_shape("training", training, TensorShape{});
    expect_shape("rates", rates, TensorShape{3});
    expect_shape("seed", seed, TensorShape{2});
    p.stochastic = training.scalar<bool>()();
    p.zoneout.rate = rates.flat<double>()(0);
    p.dropconnect.rate = rates.flat<double>()(1);
    p.recurrent_dropout.rate = rates.flat<double>()(2);
    layer.inputs.random.state = static_cast<std::uint64_t const*>(seed.data());
    return layer;
  }

 private:
  bool reset_after_ = true;
  bool reverse_ = false;
  bool time_major_ = false;
  bool recompute_ = false;
};

/// Memory of TensorFlow's allocator that lives as long as the op computes.
class Scratch {
 public:
  explicit Scratch(OpKernelContext* context) : context_{context} {}

  gru::adapter::Allocate allocate() {
    return [this](std::size_t bytes) -> void* {
      std::int64_t const padded = static_cast<std::int64_t>(bytes) + kAlignment;
      throw_if_error(context_->allocate_temp(tensorflow::DT_INT8, TensorShape{padded}, &tensor_));
      auto const address = reinterpret_cast<std::uintptr_t>(tensor_.data());
      return reinterpret_cast<void*>((address + kAlignment - 1) / kAlignment * kAlignment);
    };
  }

 private:
  static constexpr std::int64_t kAlignment = 256;
  OpKernelContext* context_;
  Tensor tensor_;
};

void* output(OpKernelContext* context, int index, TensorShape const& shape) {
  Tensor* tensor = nullptr;
  throw_if_error(context->allocate_output(index, shape, &tensor));
  return tensor->data();
}

class ForwardOp : public OpKernel {
 public:
  explicit ForwardOp(OpKernelConstruction* context) : OpKernel{context}, attributes_{context} {
    OP_REQUIRES_OK(context, context->GetAttr("keep_for_backward", &keep_for_backward_));
  }

  void Compute(OpKernelContext* context) override {
    guarded(context, [&] {
      Layer layer = attributes_.read(context);
      // A graph without a backward pass does not use the reserve: then nothing is kept.
      layer.problem.keep_for_backward = keep_for_backward_ && context->output_required(2);
      gru::adapter::ForwardOutputs outputs;
      outputs.h = output(context, 0, layer.h_shape);
      outputs.final_state = output(context, 1, layer.state_shape);
      std::int64_t const kept = gru::reserve_values(layer.problem);
      void* const reserve = output(context, 2, TensorShape{kept});
      outputs.reserve = kept > 0 ? reserve : nullptr;
      Scratch scratch{context};
      backend::forward(type_of(input_type(0)), layer.problem, layer.weights, layer.inputs, outputs,
                       backend::place(context, scratch.allocate()));
    });
  }

 private:
  LayerAttributes attributes_;
  bool keep_for_backward_ = true;
};

class BackwardOp : public OpKernel {
 public:
  explicit BackwardOp(OpKernelConstruction* context) : OpKernel{context}, attributes_{context} {
    OP_REQUIRES_OK(context, context->GetAttr("wanted", &wanted_));
    OP_REQUIRES(context, wanted_.size() == 6,
                absl::InvalidArgumentError("gru: wanted must have 6 values"));
  }

  void Compute(OpKernelContext* context) override {
    guarded(context, [&] {
      Layer layer = attributes_.read(context);
      gru::Problem& p = layer.problem;
      p.keep_for_backward = true;
      Tensor const& h = required_input(context, "h");
      Tensor const& reserve = required_input(context, "reserve");
      Tensor const& dh = required_input(context, "dh");
      Tensor const& dfinal_state = required_input(context, "dfinal_state");
      expect_shape("h", h, layer.h_shape);
      expect_shape("reserve", reserve, TensorShape{gru::reserve_values(p)});
      expect_shape("dh", dh, layer.h_shape);
      expect_shape("dfinal_state", dfinal_state, layer.state_shape);
      gru::adapter::BackwardInputs const incoming{
          h.data(), reserve.NumElements() > 0 ? reserve.data() : nullptr, dh.data(),
          dfinal_state.data()};

      TensorShape x_shape = layer.h_shape;
      x_shape.set_dim(2, p.input_size);
      TensorShape const gates{3 * p.hidden_size};
      gru::adapter::Gradients gradients;
      gradients.dx = gradient(context, 0, x_shape);
      gradients.dkernel = gradient(context, 1, TensorShape{p.input_size, 3 * p.hidden_size});
      gradients.drecurrent_kernel =
          gradient(context, 2, TensorShape{p.hidden_size, 3 * p.hidden_size});
      gradients.dbias = gradient(context, 3, gates);
      gradients.drecurrent_bias = gradient(context, 4, gates);
      gradients.dh0 = gradient(context, 5, layer.state_shape);
      Scratch scratch{context};
      backend::backward(type_of(input_type(0)), p, layer.weights, layer.inputs, incoming, gradients,
                        backend::place(context, scratch.allocate()));
    });
  }

 private:
  /// Where a gradient goes; null, and an empty output, for one that nobody asked for.
  void* gradient(OpKernelContext* context, int index, TensorShape const& shape) const {
    if (wanted_[index] && context->output_required(index)) return output(context, index, shape);
    output(context, index, TensorShape{0});
    return nullptr;
  }

  LayerAttributes attributes_;
  std::vector<bool> wanted_;
};

#define GRU_TF_REGISTER(T)                              \
  REGISTER_KERNEL_BUILDER(Name("GruForward")            \
                              .Device(backend::kDevice) \
                              .TypeConstraint<T>("T")   \
                              .HostMemory("training")   \
                              .HostMemory("rates"),     \
                          ForwardOp);                   \
  REGISTER_KERNEL_BUILDER(Name("GruBackward")           \
                              .Device(backend::kDevice) \
                              .TypeConstraint<T>("T")   \
                              .HostMemory("training")   \
                              .HostMemory("rates"),     \
                          BackwardOp)

GRU_TF_REGISTER(float);
GRU_TF_REGISTER(double);
GRU_TF_REGISTER(Eigen::half);
GRU_TF_REGISTER(Eigen::bfloat16);

}  // namespace
}  // namespace gru_tf
