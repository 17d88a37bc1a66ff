// SPDX-License-Identifier: Apache-2.0
//
// Registers the ops: their inputs, outputs and shapes. The kernels are in kernels.cc.
#include <vector>

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace gru_tf {
namespace {

using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

/// The dimensions of a layer, as far as they are known.
struct Dimensions {
  ShapeHandle x;
  DimensionHandle steps;        // T
  DimensionHandle batch;        // N
  DimensionHandle input_size;   // C
  DimensionHandle hidden_size;  // H
  DimensionHandle gates;        // 3H
  bool time_major = true;

  /// The shape of a sequence tensor.
  ShapeHandle sequence(InferenceContext* c, DimensionHandle width) const {
    return time_major ? c->MakeShape({steps, batch, width}) : c->MakeShape({batch, steps, width});
  }
};

/// Merges `shape` with the input of that name, if it is there.
absl::Status expect_shape(InferenceContext* c, char const* name, ShapeHandle shape) {
  std::vector<ShapeHandle> inputs;
  TF_RETURN_IF_ERROR(c->input(name, &inputs));
  for (ShapeHandle const input : inputs) {
    ShapeHandle merged;
    TF_RETURN_WITH_CONTEXT_IF_ERROR(c->Merge(input, shape, &merged), "gru: the shape of ", name);
  }
  return absl::OkStatus();
}

absl::Status dimension(InferenceContext* c, char const* name, int rank, int index,
                       DimensionHandle* result) {
  std::vector<ShapeHandle> inputs;
  TF_RETURN_IF_ERROR(c->input(name, &inputs));
  ShapeHandle ranked;
  TF_RETURN_WITH_CONTEXT_IF_ERROR(c->WithRank(inputs[0], rank, &ranked), "gru: the rank of ", name);
  *result = c->Dim(ranked, index);
  return absl::OkStatus();
}

/// Checks the inputs that both ops have against each other, and gathers the dimensions from them.
absl::Status common_inputs(InferenceContext* c, Dimensions* d) {
  TF_RETURN_IF_ERROR(c->GetAttr("time_major", &d->time_major));
  TF_RETURN_IF_ERROR(dimension(c, "x", 3, d->time_major ? 0 : 1, &d->steps));
  TF_RETURN_IF_ERROR(dimension(c, "x", 3, d->time_major ? 1 : 0, &d->batch));
  TF_RETURN_IF_ERROR(dimension(c, "x", 3, 2, &d->input_size));
  DimensionHandle rows;
  TF_RETURN_IF_ERROR(dimension(c, "kernel", 2, 0, &rows));
  TF_RETURN_WITH_CONTEXT_IF_ERROR(c->Merge(d->input_size, rows, &d->input_size),
                                  "gru: the input size of x and kernel");

  // H is known by itself, or as a third of any width.
  DimensionHandle widths[2];
  TF_RETURN_IF_ERROR(dimension(c, "kernel", 2, 1, &widths[0]));
  TF_RETURN_IF_ERROR(dimension(c, "recurrent_kernel", 2, 1, &widths[1]));
  TF_RETURN_WITH_CONTEXT_IF_ERROR(c->Merge(widths[0], widths[1], &d->gates),
                                  "gru: the widths of kernel and recurrent_kernel");
  TF_RETURN_IF_ERROR(dimension(c, "recurrent_kernel", 2, 0, &d->hidden_size));
  DimensionHandle third;
  TF_RETURN_WITH_CONTEXT_IF_ERROR(c->Divide(d->gates, 3, /*evenly_divisible=*/true, &third),
                                  "gru: the width of the kernels");
  TF_RETURN_WITH_CONTEXT_IF_ERROR(c->Merge(d->hidden_size, third, &d->hidden_size),
                                  "gru: the height and a third of the width of recurrent_kernel");
  TF_RETURN_IF_ERROR(c->Multiply(d->hidden_size, 3, &d->gates));

  TF_RETURN_IF_ERROR(expect_shape(c, "training", c->Scalar()));
  TF_RETURN_IF_ERROR(expect_shape(c, "rates", c->Vector(3)));
  TF_RETURN_IF_ERROR(expect_shape(c, "seed", c->Vector(2)));
  TF_RETURN_IF_ERROR(expect_shape(c, "bias", c->Vector(d->gates)));
  TF_RETURN_IF_ERROR(expect_shape(c, "recurrent_bias", c->Vector(d->gates)));
  TF_RETURN_IF_ERROR(expect_shape(c, "initial_state", c->Matrix(d->batch, d->hidden_size)));
  TF_RETURN_IF_ERROR(expect_shape(c, "lengths", c->Vector(d->batch)));
  return expect_shape(
      c, "episode_starts",
      d->time_major ? c->Matrix(d->steps, d->batch) : c->Matrix(d->batch, d->steps));
}

/// The closed formula of gru::reserve_values.
absl::Status reserve_shape(InferenceContext* c, Dimensions const& d, ShapeHandle* shape) {
  bool keep = true;
  bool recompute = false;
  TF_RETURN_IF_ERROR(c->GetAttr("keep_for_backward", &keep));
  TF_RETURN_IF_ERROR(c->GetAttr("recompute", &recompute));
  if (!keep || recompute) {
    *shape = c->Vector(0);
    return absl::OkStatus();
  }
  DimensionHandle values;
  TF_RETURN_IF_ERROR(c->Multiply(d.steps, d.batch, &values));
  TF_RETURN_IF_ERROR(c->Multiply(values, d.hidden_size, &values));
  TF_RETURN_IF_ERROR(c->Multiply(values, 4, &values));
  *shape = c->Vector(values);
  return absl::OkStatus();
}

absl::Status forward_shapes(InferenceContext* c) {
  Dimensions d;
  TF_RETURN_IF_ERROR(common_inputs(c, &d));
  ShapeHandle reserve;
  TF_RETURN_IF_ERROR(reserve_shape(c, d, &reserve));
  c->set_output(0, d.sequence(c, d.hidden_size));
  c->set_output(1, c->Matrix(d.batch, d.hidden_size));
  c->set_output(2, reserve);
  return absl::OkStatus();
}

absl::Status backward_shapes(InferenceContext* c) {
  Dimensions d;
  TF_RETURN_IF_ERROR(common_inputs(c, &d));
  ShapeHandle const h = d.sequence(c, d.hidden_size);
  ShapeHandle const state = c->Matrix(d.batch, d.hidden_size);
  TF_RETURN_IF_ERROR(expect_shape(c, "h", h));
  TF_RETURN_IF_ERROR(expect_shape(c, "dh", h));
  TF_RETURN_IF_ERROR(expect_shape(c, "dfinal_state", state));
  ShapeHandle const gradients[] = {d.sequence(c, d.input_size),
                                   c->Matrix(d.input_size, d.gates),
                                   c->Matrix(d.hidden_size, d.gates),
                                   c->Vector(d.gates),
                                   c->Vector(d.gates),
                                   state};
  std::vector<bool> wanted;
  TF_RETURN_IF_ERROR(c->GetAttr("wanted", &wanted));
  for (std::size_t i = 0; i < std::size(gradients); ++i) {
    c->set_output(i, i < wanted.size() && wanted[i] ? gradients[i] : c->Vector(0));
  }
  return absl::OkStatus();
}

}  // namespace

// A list of no or one tensor is an input that may be left out. training and rates lie in host
// memory on every device, all else on the op's device.
#define GRU_TF_COMMON_INPUTS                               \
  Input("x: T")                                            \
      .Input("kernel: T")                                  \
      .Input("recurrent_kernel: T")                        \
      .Input("training: bool")                             \
      .Input("rates: double")                              \
      .Input("seed: int64")                                \
      .Input("bias: biases * T")                           \
      .Input("recurrent_bias: recurrent_biases * T")       \
      .Input("initial_state: initial_states * T")          \
      .Input("lengths: length_vectors * int32")            \
      .Input("episode_starts: episode_start_masks * bool") \
      .Attr("T: {half, bfloat16, float, double}")          \
      .Attr("biases: int >= 0")                            \
      .Attr("recurrent_biases: int >= 0")                  \
      .Attr("initial_states: int >= 0")                    \
      .Attr("length_vectors: int >= 0")                    \
      .Attr("episode_start_masks: int >= 0")               \
      .Attr("reset_after: bool = true")                    \
      .Attr("reverse: bool = false")                       \
      .Attr("time_major: bool = false")                    \
      .Attr("recompute: bool = false")

REGISTER_OP("GruForward")
    .GRU_TF_COMMON_INPUTS.Attr("keep_for_backward: bool = true")
    .Output("h: T")
    .Output("final_state: T")
    .Output("reserve: T")
    .SetShapeFn(forward_shapes)
    .Doc(R"doc(
One GRU layer and direction over a batch of sequences.

x: [N, T, C], or [T, N, C] where time_major.
kernel: W [C, 3H], gates in the order z, r, g.
recurrent_kernel: R [H, 3H].
training: Whether masks are drawn; otherwise the formulas of inference.
rates: [3] zoneout, DropConnect, recurrent dropout; each in [0, 1).
seed: [2] of the generator: seed and offset.
bias: [3H] or none.
recurrent_bias: [3H] or none.
initial_state: [N, H] or none.
lengths: [N] or none; clamped to [0, T].
episode_starts: as x without its last dimension, or none.
h: [N, T, H], or [T, N, H] where time_major; zero beyond the lengths.
final_state: [N, H], the state at each sequence's true end.
reserve: Opaque, for GruBackward.
)doc");

REGISTER_OP("GruBackward")
    .GRU_TF_COMMON_INPUTS.Input("h: T")
    .Input("reserve: T")
    .Input("dh: T")
    .Input("dfinal_state: T")
    .Attr("wanted: list(bool) = [true, true, true, true, true, true]")
    .Output("dx: T")
    .Output("dkernel: T")
    .Output("drecurrent_kernel: T")
    .Output("dbias: T")
    .Output("drecurrent_bias: T")
    .Output("dinitial_state: T")
    .SetShapeFn(backward_shapes)
    .Doc(R"doc(
The gradient of GruForward. An output that is not wanted is empty, and its work is not done.
)doc");

}  // namespace gru_tf
