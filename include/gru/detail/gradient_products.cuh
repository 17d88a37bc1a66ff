// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <gru/detail/carver.hpp>
#include <gru/detail/cost_model.hpp>
#include <gru/detail/cuda_types.cuh>
#include <gru/detail/layer_products.cuh>
#include <gru/detail/product.cuh>
#include <gru/detail/sequence.hpp>
#include <gru/detail/split_product.cuh>
#include <gru/problem.hpp>

/// The products that follow backward's steps: dx, dW and dR, for every weight format and layout.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// dx [steps, N, C] = dp [steps * N, 3H] W^T, where dp is the front of rows of 4H.
template <typename T>
Product input_gradient_product(Problem const& p, std::int64_t steps, DeviceFacts const& facts,
                               std::size_t most_workspace) {
  std::int64_t const C = p.input_size;
  std::int64_t const H = p.hidden_size;
  SequenceSplit const split{p, sequence_rows(p, p.pitch.dx, C), steps, 4 * H};
  ProductShape shape = product_shape<T>(p, split.rows, C, 3 * H);
  shape.a = split.buffer;
  shape.b = kernel_matrix<T>(p, nullptr).transposed();
  shape.d = split.sequence;
  shape.batch = split.batch;
  shape.output_type = kCudaType<T>;
  return Product{shape, facts, most_workspace};
}

/// The gradient of a weight matrix's blocks of `width` gates: in^T dp, where `in` has `rows` rows
/// of `in_width` values, and dp rows of 4H. In the format's shape, so the operands may change
/// places.
class WeightGradientProduct {
 public:
  WeightGradientProduct() = default;

  template <typename T>
  static WeightGradientProduct make(Problem const& p, std::int64_t rows, std::int64_t in_width,
                                    std::int64_t in_pitch, std::int64_t width,
                                    std::int64_t out_pitch, cudaDataType_t out_type,
                                    DeviceFacts const& facts, std::size_t most_workspace) {
    std::int64_t const H = p.hidden_size;
    WeightGradientProduct result;
    result.by_input_ = by_input(p);
    MatrixLayout const in{in_pitch};
    MatrixLayout const gradient{4 * H};
    bool const first_in = result.by_input_;
    ProductShape shape =
        product_shape<T>(p, first_in ? in_width : width * H, first_in ? width * H : in_width, rows);
    shape.a = {first_in ? in.pitch : gradient.pitch, true};
    shape.b = first_in ? gradient : in;
    shape.d = {out_pitch};
    shape.output_type = out_type;
    result.product_ = Product{shape, facts, most_workspace};
    return result;
  }

  std::size_t workspace_bytes() const { return product_.workspace_bytes(); }

  void run(Execution const& execution, double alpha, void const* in, void const* gradients,
           double beta, void* out, void* workspace) const {
    product_.run(execution, alpha, by_input_ ? in : gradients, by_input_ ? gradients : in, beta,
                 out, workspace);
  }

 private:
  Product product_;
  bool by_input_ = true;
};

/// Blocks of a weight gradient that one product makes.
enum class WeightBlocks { kKernel, kRecurrentGates, kRecurrentCandidate };

/// Rows of the blocks in the shape [in, 3H].
inline std::int64_t block_rows(Problem const& p, WeightBlocks blocks) {
  return blocks == WeightBlocks::kKernel ? p.input_size : p.hidden_size;
}

/// Their columns there.
inline std::int64_t block_columns(Problem const& p, WeightBlocks blocks) {
  bool const whole = blocks == WeightBlocks::kKernel;
  std::int64_t const gates = whole ? 3 : blocks == WeightBlocks::kRecurrentGates ? 2 : 1;
  return gates * p.hidden_size;
}

/// How the products of backward are computed, dx, dW and dR: by parts (see split_product.cuh) or
/// plainly. The gradients of the pre-activations, [steps * N, 4H], are split once for all of them.
/// x is split as it lies, so that dW by parts needs no copy of it.
class GradientParts {
 public:
  struct Scratch {
    __nv_bfloat16* gradients = nullptr;  // of the columns of dp
    __nv_bfloat16* fourth = nullptr;     // of the other H columns
    __nv_bfloat16* operand = nullptr;    // x's, then those of what multiplied R
    __nv_bfloat16* kernel = nullptr;
    float* sums = nullptr;
  };

  GradientParts() = default;

  /// What is predicted to be fastest of what fits: `fixed_bytes` of the workspace are taken, and
  /// `step_bytes` more for each step of a chunk.
  template <typename T>
  static GradientParts choose(Problem const& p, DeviceFacts const& facts, std::size_t fixed_bytes,
                              std::size_t step_bytes) {
    GradientParts best;
    constexpr int kExpectedOn = 90;  // compute capability
    bool const may = std::is_same_v<T, float> && p.precision == Precision::kFp32 &&
                     facts.compute_capability == kExpectedOn && p.steps > 0 && p.batch > 0;
    // As forward: rows that are no multiple of 8 wide, and chunks of few rows, are slow.
    if (!may || p.hidden_size % 8 != 0) return best;
    constexpr std::int64_t kLeastRows = 2048;
    std::int64_t const least_rows = std::min(p.steps * p.batch, kLeastRows);
    bool const may_input = p.input_size % 8 == 0;
    constexpr double kLeastGain = 0.9;                            // of the time by plain products
    double least_time = std::numeric_limits<double>::infinity();  // of a row
    for (unsigned choice = 0; choice < 8; ++choice) {
      GradientParts parts;
      parts.by_parts_ = {(choice & 1) != 0, (choice & 2) != 0, (choice & 4) != 0};
      parts.multiprocessors_ = facts.multiprocessors;
      if (!may_input && (parts.by_parts_.dx || parts.by_parts_.dkernel)) continue;
      std::int64_t const rows = parts.fitting_steps(p, fixed_bytes, step_bytes) * p.batch;
      if (parts.any() && rows < least_rows) continue;
      auto const predicted_rows = static_cast<double>(std::max(p.batch, rows));
      double const time = predict_gradients(p, predicted_rows, parts.by_parts_) / predicted_rows;
      if (time >= least_time) continue;
      least_time = parts.any() ? time : kLeastGain * time;
      best = parts;
    }
    return best;
  }

  bool any() const { return by_parts_.any(); }
  bool dx() const { return by_parts_.dx; }
  bool dkernel() const { return by_parts_.dkernel; }
  bool makes(WeightBlocks blocks) const {
    return blocks == WeightBlocks::kKernel ? by_parts_.dkernel : by_parts_.drecurrent;
  }

  Scratch lay_out(Carver& carver, Problem const& p, std::int64_t steps) const {
    Scratch scratch;
    if (!any()) return scratch;
    std::int64_t const rows = steps * p.batch;
    std::int64_t const C = p.input_size;
    std::int64_t const H = p.hidden_size;
    auto const take = [&](std::int64_t row_count, std::int64_t width) {
      return carver.take<__nv_bfloat16>(SharedParts::room(row_count, width));
    };
    scratch.gradients = take(rows, 3 * H);
    if (by_parts_.drecurrent) scratch.fourth = take(rows, H);
    if (by_parts_.dkernel || by_parts_.drecurrent) {
      scratch.operand =
          take(rows, std::max(by_parts_.dkernel ? C : 0, by_parts_.drecurrent ? H : 0));
    }
    if (by_parts_.dx) scratch.kernel = take(C, 3 * H);
    std::int64_t values = 0;
    for (WeightBlocks const blocks : {WeightBlocks::kKernel, WeightBlocks::kRecurrentGates,
                                      WeightBlocks::kRecurrentCandidate}) {
      std::int64_t const most = makes(blocks) ? sums(p, blocks, kLargestExtent) : 1;
      if (most > 1) {
        values = std::max(values, most * block_rows(p, blocks) * block_columns(p, blocks));
      }
    }
    scratch.sums = carver.take<float>(values);
    return scratch;
  }

  /// Sums that are made at the same time for a weight gradient of so many rows.
  std::int64_t sums(Problem const& p, WeightBlocks blocks, std::int64_t rows) const {
    std::int64_t const in = block_rows(p, blocks);
    std::int64_t const out = block_columns(p, blocks);
    return by_input(p) ? SharedProduct::wanted_sums(in, out, rows, multiprocessors_)
                       : SharedProduct::wanted_sums(out, in, rows, multiprocessors_);
  }

  /// Enqueues the split of a chunk's gradients, before all products by parts.
  template <typename T>
  void split_gradients(cudaStream_t stream, Problem const& p, std::int64_t steps,
                       T const* gradients, Scratch const& scratch) const {
    if (!any()) return;
    if constexpr (std::is_same_v<T, float>) {
      std::int64_t const H = p.hidden_size;
      SplitSource source;
      source.data = gradients;
      source.rows = {4 * H, 0};
      source.row_count = steps * p.batch;
      source.depth = 3 * H;
      SharedParts const dp{source.row_count, source.depth};
      dp.split(stream, source, PartOrder::kLargeFirst, scratch.gradients);
      if (!by_parts_.drecurrent) return;
      // Reset after: a gradient; before: what multiplied R.
      bool const after = p.variant == Variant::kResetAfter;
      source.data = gradients + 3 * H;
      source.depth = H;
      SharedParts const fourth{source.row_count, source.depth};
      fourth.split(stream, source, after ? PartOrder::kLargeFirst : PartOrder::kSmallFirst,
                   scratch.fourth);
    }
  }

  /// Enqueues the split of x from the chunk's first row on, before dW.
  template <typename T>
  void split_input(cudaStream_t stream, Problem const& p, std::int64_t steps, T const* x,
                   Scratch const& scratch) const {
    if (!by_parts_.dkernel) return;
    Rows const rows = sequence_rows(p, p.pitch.x, p.input_size);
    split_operand(stream, p, steps, x, rows, p.input_size, scratch);
  }

  /// Enqueues the split of what multiplied R, [steps, N, H], after dW and before dR.
  template <typename T>
  void split_recurrent_operands(cudaStream_t stream, Problem const& p, std::int64_t steps,
                                T const* operands, Scratch const& scratch) const {
    if (!by_parts_.drecurrent) return;
    Rows const rows = dense_rows(p.batch, p.hidden_size);
    split_operand(stream, p, steps, operands, rows, p.hidden_size, scratch);
  }

 private:
  /// Steps of a chunk, at most T; 0 where not even one fits.
  std::int64_t fitting_steps(Problem const& p, std::size_t fixed_bytes,
                             std::size_t step_bytes) const {
    auto const bytes = [&](std::int64_t steps) {
      Carver carver;
      lay_out(carver, p, steps);
      return carver.bytes();
    };
    std::size_t const fixed = fixed_bytes + bytes(0);
    std::size_t const step = step_bytes + bytes(1) - bytes(0);
    if (fixed >= p.workspace_limit) return 0;
    if (step == 0) return p.steps;
    return static_cast<std::int64_t>(
        std::min((p.workspace_limit - fixed) / step, static_cast<std::size_t>(p.steps)));
  }

  template <typename T>
  static void split_operand(cudaStream_t stream, Problem const& p, std::int64_t steps,
                            T const* data, Rows rows, std::int64_t width, Scratch const& scratch) {
    if constexpr (std::is_same_v<T, float>) {
      SplitSource source;
      source.data = data;
      source.rows = rows;
      source.batch = p.batch;
      source.row_count = steps * p.batch;
      source.depth = width;
      SharedParts const parts{source.row_count, width};
      parts.split(stream, source, PartOrder::kSmallFirst, scratch.operand);
    }
  }

  GradientsByParts by_parts_;
  int multiprocessors_ = 0;
};

/// dx [steps, N, C] = dp [steps * N, 3H] W^T + beta dx.
template <typename T>
class InputGradient {
 public:
  InputGradient() = default;

  InputGradient(Problem const& p, GradientParts const& parts, std::int64_t steps,
                DeviceFacts const& facts, std::size_t most_workspace) {
    std::int64_t const C = p.input_size;
    std::int64_t const H = p.hidden_size;
    SequenceSplit const split{p, sequence_rows(p, p.pitch.dx, C), steps, 1};  // counts rows
    // Many small matrices would leave tiles half empty.
    constexpr std::int64_t kLeastRows = 128;
    by_parts_ = parts.dx() && (split.batch == 1 || split.rows >= kLeastRows);
    if (!by_parts_) {
      plain_ = input_gradient_product<T>(p, steps, facts, most_workspace);
      return;
    }
    bool const in_rows = by_input(p);
    kernel_.rows.step = in_rows ? kernel_pitch(p) : 1;
    kernel_.depth_stride = in_rows ? 1 : kernel_pitch(p);
    kernel_.row_count = C;
    kernel_.depth = 3 * H;
    ProductShape shape;
    shape.m = split.rows;
    shape.n = C;
    shape.a = split.buffer;
    shape.d = split.sequence;
    shape.batch = split.batch;
    shared_ = SharedProduct::along_width(shape, {steps * p.batch, 3 * H}, kernel_parts(), facts,
                                         most_workspace);
  }

  /// Without the parts.
  std::size_t workspace_bytes() const {
    return std::max(plain_.workspace_bytes(), shared_.workspace_bytes());
  }

  /// Enqueues the product of the chunk's gradients; `dx` is its first row.
  void run(Execution const& execution, T const* gradients, WeightMatrix<T> const& kernel,
           double beta, T* dx, GradientParts::Scratch const& parts, void* workspace) const {
    if (!by_parts_) {
      plain_.run(execution, 1, gradients, kernel.data, beta, dx, workspace);
      return;
    }
    if constexpr (std::is_same_v<T, float>) {
      SplitSource source = kernel_;
      source.data = kernel.data;
      kernel_parts().split(execution.stream, source, PartOrder::kSmallFirst, parts.kernel);
      shared_.run(execution, parts.gradients, parts.kernel, beta, dx, nullptr, workspace);
    }
  }

 private:
  SharedParts kernel_parts() const { return {kernel_.row_count, kernel_.depth}; }

  bool by_parts_ = false;
  Product plain_;
  SharedProduct shared_;
  SplitSource kernel_;  // its rows are of W, as [C, 3H]
};

/// The gradient of blocks of a weight matrix, in^T gradients + beta times what is there.
template <typename T>
class WeightGradient {
 public:
  WeightGradient() = default;

  /// `in_pitch` and `out_type` are the plain product's.
  WeightGradient(Problem const& p, GradientParts const& parts, WeightBlocks blocks,
                 std::int64_t steps, std::int64_t in_pitch, std::int64_t out_pitch,
                 cudaDataType_t out_type, DeviceFacts const& facts, std::size_t most_workspace)
      : by_parts_{parts.makes(blocks)}, by_input_{by_input(p)} {
    std::int64_t const H = p.hidden_size;
    std::int64_t const rows = steps * p.batch;
    std::int64_t const in = block_rows(p, blocks);
    std::int64_t const out = block_columns(p, blocks);
    if (!by_parts_) {
      plain_ = WeightGradientProduct::make<T>(p, rows, in, in_pitch, out / H, out_pitch, out_type,
                                              facts, most_workspace);
      return;
    }
    bool const candidate = blocks == WeightBlocks::kRecurrentCandidate;
    bool const after = p.variant == Variant::kResetAfter;
    fourth_is_gradient_ = candidate && after;
    fourth_is_operand_ = candidate && !after;
    first_column_ = fourth_is_operand_ ? GateColumns::g * H : 0;
    SharedParts const operand{rows, in};
    SharedParts const gradients{rows, fourth_is_gradient_ ? H : 3 * H};
    ProductShape shape;
    shape.m = by_input_ ? in : out;
    shape.n = by_input_ ? out : in;
    shape.d = {out_pitch};
    std::int64_t const sums = parts.sums(p, blocks, rows);
    shared_ = by_input_
                  ? SharedProduct::along_rows(shape, operand, gradients, PartOrder::kSmallFirst,
                                              sums, facts, most_workspace)
                  : SharedProduct::along_rows(shape, gradients, operand, PartOrder::kLargeFirst,
                                              sums, facts, most_workspace);
  }

  /// Without the parts.
  std::size_t workspace_bytes() const {
    return std::max(plain_.workspace_bytes(), shared_.workspace_bytes());
  }

  /// Enqueues the product. By parts, `in` and `gradients` are those that were split last.
  void run(Execution const& execution, T const* in, T const* gradients, double beta, void* out,
           GradientParts::Scratch const& parts, void* workspace) const {
    if (!by_parts_) {
      plain_.run(execution, 1, in, gradients, beta, out, workspace);
      return;
    }
    auto const* const left = fourth_is_operand_ ? parts.fourth : parts.operand;
    auto const* const right = fourth_is_gradient_ ? parts.fourth : parts.gradients + first_column_;
    shared_.run(execution, by_input_ ? left : right, by_input_ ? right : left, beta,
                static_cast<float*>(out), parts.sums, workspace);
  }

 private:
  bool by_parts_ = false;
  bool by_input_ = true;
  bool fourth_is_gradient_ = false;
  bool fourth_is_operand_ = false;
  std::int64_t first_column_ = 0;  // of the gradients
  WeightGradientProduct plain_;
  SharedProduct shared_;
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
