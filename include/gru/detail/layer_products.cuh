// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include <gru/detail/carver.hpp>
#include <gru/detail/chunks.hpp>
#include <gru/detail/cost_model.hpp>
#include <gru/detail/cuda_types.cuh>
#include <gru/detail/product.cuh>
#include <gru/detail/sequence.hpp>
#include <gru/detail/split_product.cuh>
#include <gru/problem.hpp>

/// The products of a GRU layer, for every weight format and layout.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// A weight matrix W [in, 3H], where it lies.
template <typename T>
struct WeightMatrix {
  T const* data = nullptr;
  std::int64_t pitch = 0;
  bool by_input = true;     // memory [in, 3H]; otherwise [3H, in]
  std::int64_t hidden = 0;  // H

  /// As the right operand W of a product.
  MatrixLayout layout() const { return {pitch, !by_input, 0}; }
  /// As the right operand of a product with the transpose of W.
  MatrixLayout transposed() const { return {pitch, by_input, 0}; }
  /// Where the blocks of the gates from `position` on begin.
  std::int64_t block(std::int64_t position) const {
    return position * hidden * (by_input ? 1 : pitch);
  }
  T const* gates_from(std::int64_t position) const { return data + block(position); }
};

inline bool by_input(Problem const& p) {
  return p.weight_format.shape == WeightFormat::Shape::kInputByGates;
}

template <typename T>
WeightMatrix<T> kernel_matrix(Problem const& p, T const* data) {
  return {data, kernel_pitch(p), by_input(p), p.hidden_size};
}

/// R as the products see it: the caller's, or the tight copy that DropConnect made.
template <typename T>
WeightMatrix<T> recurrent_matrix(Problem const& p, T const* data) {
  bool const tight = drops(p, p.dropconnect);
  std::int64_t const tight_pitch = by_input(p) ? 3 * p.hidden_size : p.hidden_size;
  return {data, tight ? tight_pitch : recurrent_kernel_pitch(p), by_input(p), p.hidden_size};
}

template <typename T>
ProductShape product_shape(Problem const& p, std::int64_t m, std::int64_t n, std::int64_t k) {
  ProductShape shape;
  shape.m = m;
  shape.n = n;
  shape.k = k;
  shape.input_type = kCudaType<T>;
  shape.output_type = kCudaType<Accumulator<T>>;
  shape.compute = compute_type<T>(p.precision);
  return shape;
}

/// How `steps` steps of a sequence tensor of the caller's (x or dx) meet the rows of a dense
/// time-major buffer in one product: as one matrix where the rows lie alike, otherwise as a batch
/// of matrices, one a sample or one a step, whichever are larger.
struct SequenceSplit {
  std::int64_t rows = 0;   // of one matrix
  std::int64_t batch = 1;  // matrices
  MatrixLayout sequence;   // the caller's
  MatrixLayout buffer;     // the dense one's

  SequenceSplit(Problem const& p, Rows rows_of, std::int64_t steps, std::int64_t buffer_width) {
    std::int64_t const N = p.batch;
    if (p.layout == Layout::kTimeMajor || N == 1 || steps == 1) {
      rows = steps * N;
      sequence = {N == 1 ? rows_of.step : rows_of.sample, false, 0};
      buffer = {buffer_width, false, 0};
    } else if (steps >= N) {
      rows = steps;
      batch = N;
      sequence = {rows_of.step, false, rows_of.sample};
      buffer = {N * buffer_width, false, buffer_width};
    } else {
      rows = N;
      batch = steps;
      sequence = {rows_of.sample, false, rows_of.step};
      buffer = {buffer_width, false, N * buffer_width};
    }
  }
};

/// P [steps * N, 3H] = x W, as one product.
template <typename T>
Product input_product(Problem const& p, std::int64_t steps, DeviceFacts const& facts,
                      std::size_t most_workspace) {
  std::int64_t const C = p.input_size;
  std::int64_t const H = p.hidden_size;
  SequenceSplit const split{p, sequence_rows(p, p.pitch.x, C), steps, 3 * H};
  ProductShape shape = product_shape<T>(p, split.rows, 3 * H, C);
  shape.a = split.sequence;
  shape.b = kernel_matrix<T>(p, nullptr).layout();
  shape.d = split.buffer;
  shape.batch = split.batch;
  return Product{shape, facts, most_workspace};
}

/// How the input product of a Problem is computed: by parts (see split_product.cuh), of all gates
/// at once or of one after the other, or plainly.
class InputParts {
 public:
  struct Scratch {
    __nv_bfloat16* x = nullptr;
    __nv_bfloat16* kernel = nullptr;
  };

  InputParts() = default;

  /// `fixed_bytes` of the workspace are taken.
  template <typename T>
  static InputParts choose(Problem const& p, DeviceFacts const& facts, std::size_t fixed_bytes) {
    InputParts parts;
    constexpr int kMeasuredOn = 90;  // compute capability
    bool const may = std::is_same_v<T, float> && p.precision == Precision::kFp32 &&
                     facts.compute_capability == kMeasuredOn && p.steps > 0 && p.batch > 0;
    // cuBLAS multiplies twice as slowly into rows that are no multiple of 8 wide.
    if (!may || p.hidden_size % 8 != 0) return parts;
    if (p.input_size > kLargestExtent / (2 * kSplitTerms)) return parts;
    // A chunk of fewer rows would leave the tensor cores idle.
    constexpr std::int64_t kLeastRows = 2048;
    std::int64_t const N = p.batch;
    std::int64_t const least_steps = std::min(p.steps, (kLeastRows + N - 1) / N);
    std::size_t const p_bytes =
        static_cast<std::size_t>(least_steps * N * 3 * p.hidden_size) * sizeof(float);
    for (std::int64_t const gates : {3, 1}) {
      parts.gates_ = gates;
      Carver carver;
      parts.lay_out(carver, p, least_steps);
      std::size_t const bytes = fixed_bytes + p_bytes + carver.bytes();
      // All gates at once as long as that leaves most of the workspace to the rows.
      std::size_t const limit = gates == 3 ? p.workspace_limit / 2 : p.workspace_limit;
      if (bytes <= limit) break;
      parts.gates_ = 0;
    }
    if (predict_split_product(p) >= predict_plain_product(p)) parts.gates_ = 0;
    return parts;
  }

  /// Gates whose columns of W are multiplied at once; 0: the product is plain.
  std::int64_t gates() const { return gates_; }

  Scratch lay_out(Carver& carver, Problem const& p, std::int64_t steps) const {
    Scratch scratch;
    if (gates_ == 0) return scratch;
    std::int64_t const C = p.input_size;
    scratch.x = carver.take<__nv_bfloat16>(SplitProduct::part_count(steps * p.batch, C));
    scratch.kernel =
        carver.take<__nv_bfloat16>(SplitProduct::part_count(gates_ * p.hidden_size, C));
    return scratch;
  }

 private:
  std::int64_t gates_ = 0;
};

/// P [steps * N, 3H] = x W.
template <typename T>
class InputProduct {
 public:
  InputProduct() = default;

  InputProduct(Problem const& p, InputParts const& parts, std::int64_t steps,
               DeviceFacts const& facts, std::size_t most_workspace)
      : gates_{parts.gates()} {
    if (gates_ == 0) {
      plain_ = input_product<T>(p, steps, facts, most_workspace);
      return;
    }
    x_.rows = sequence_rows(p, p.pitch.x, p.input_size);
    x_.batch = p.batch;
    x_.row_count = steps * p.batch;
    x_.depth = p.input_size;
    bool const in_rows = by_input(p);
    kernel_.rows.step = in_rows ? 1 : kernel_pitch(p);
    kernel_.depth_stride = in_rows ? kernel_pitch(p) : 1;
    kernel_.row_count = gates_ * p.hidden_size;
    kernel_.depth = p.input_size;
    split_ = SplitProduct{
        {x_.row_count, kernel_.row_count, p.input_size, 3 * p.hidden_size}, facts, most_workspace};
  }

  /// Without the parts.
  std::size_t workspace_bytes() const {
    return std::max(plain_.workspace_bytes(), split_.workspace_bytes());
  }

  /// Enqueues the product: x from the chunk's first row on.
  void run(Execution const& execution, T const* x, WeightMatrix<T> const& kernel,
           Accumulator<T>* product, InputParts::Scratch const& parts, void* workspace) const {
    if (gates_ == 0) {
      plain_.run(execution, 1, x, kernel.data, 0, product, workspace);
      return;
    }
    if constexpr (std::is_same_v<T, float>) {
      SplitSource source = x_;
      source.data = x;
      SplitProduct::split(execution.stream, source, SplitSide::kLeft, parts.x);
      for (std::int64_t position = 0; position < 3; position += gates_) {
        source = kernel_;
        source.data = kernel.gates_from(position);
        SplitProduct::split(execution.stream, source, SplitSide::kRight, parts.kernel);
        split_.run(execution, parts.x, parts.kernel, product + position * kernel.hidden, workspace);
      }
    }
  }

 private:
  std::int64_t gates_ = 0;
  Product plain_;
  SplitProduct split_;
  SplitSource x_;
  SplitSource kernel_;  // of the gates that are multiplied at once
};

/// Whether a step's product has so few rows that cublasLt's heuristic leaves most multiprocessors
/// idle. One row is a product of its own, and better served.
inline bool has_few_rows(Problem const& p) {
  return p.batch > 1 && p.batch <= kFewRows;
}

/// Parts of the depth that a step's product s R is best cut into, where cublasLt's heuristic leaves
/// multiprocessors idle. H200, TF32, in 1, 2 and 4 parts: H 2816, N 32 30.2, 30.9, 27.7 us; H 2048,
/// N 64 25.8, 20.1, 19.3; H 1024, N 128 11.8, 10.2; float: H 1024, N 4 11.8, 9.3, 4.7; H 768, N 8
/// 11.9, 5.9, 5.0; H 2048, N 8 40.9, 25.1, 24.9. In 16 bits it does not pay: 11.5, 11.7, 12.0.
template <typename T>
std::int64_t recurrent_parts(Problem const& p) {
  if (!std::is_same_v<T, float>) return 1;
  std::int64_t parts = 1;
  if (p.precision != Precision::kTf32) {
    if (has_few_rows(p)) parts = 4;
  } else if (p.hidden_size >= 1024 && 3 * p.hidden_size * ((p.batch + 127) / 128) <= 8448) {
    parts = p.hidden_size < 2048 ? 2 : 4;
  }
  return p.hidden_size % (8 * parts) == 0 ? parts : 1;
}

/// [rows, width * H] = s [rows, H] times the blocks of R of `width` gates, in parts of the same
/// share of the depth: [parts, rows, 3H].
template <typename T>
Product recurrent_product(Problem const& p, std::int64_t rows, std::int64_t width,
                          std::int64_t s_pitch, std::int64_t parts, DeviceFacts const& facts,
                          std::size_t most_workspace) {
  std::int64_t const H = p.hidden_size;
  std::int64_t const depth = H / parts;
  ProductShape shape = product_shape<T>(p, rows, width * H, depth);
  shape.a = {s_pitch, false, depth};
  shape.b = recurrent_matrix<T>(p, nullptr).layout();
  shape.b.batch_stride = shape.b.transposed ? depth : depth * shape.b.pitch;
  shape.d = {3 * H, false, rows * 3 * H};
  shape.batch = parts;
  return Product{shape, facts, most_workspace};
}

/// Parts of the depth that the product below is best cut into: it has few outputs and much depth,
/// and cublasLt's heuristic leaves multiprocessors idle. H200, H 2816, N 32: half 15.3 to 10.8 us
/// (in 3 parts 12.5), TF32 34.0 to 27.7, float 61.6 to 54.3; H 2048, N 64: 9.4 to 7.4 (7.2), 21.4
/// to 16.7, 58 to 46.5. Few rows, in 4 parts: H 768, N 8: half 7.0 to 3.3, float 17.4 to 6.5.
template <typename T>
std::int64_t state_gradient_parts(Problem const& p, std::int64_t width) {
  constexpr std::int64_t kLeastHidden = 1024;
  if (std::is_same_v<T, double>) return 1;
  bool const fp32 = std::is_same_v<T, float> && p.precision != Precision::kTf32;
  bool const is_large = p.hidden_size >= kLeastHidden;
  if (!is_large && !has_few_rows(p)) return 1;
  std::int64_t const parts = !is_large ? 4 : fp32 ? 12 : 2;
  return width * p.hidden_size % (8 * parts) == 0 ? parts : 1;
}

/// Parts of ds [N, H] = dq [N, width * H] times the transposed blocks of R of `width` gates, each
/// of the same share of the depth: [parts, N, H]. Rows of dq have 3H values.
template <typename T>
Product state_gradient_product(Problem const& p, std::int64_t width, std::int64_t parts,
                               DeviceFacts const& facts, std::size_t most_workspace) {
  std::int64_t const H = p.hidden_size;
  std::int64_t const depth = width * H / parts;
  ProductShape shape = product_shape<T>(p, p.batch, H, depth);
  shape.a = {3 * H, false, depth};
  shape.b = recurrent_matrix<T>(p, nullptr).transposed();
  shape.b.batch_stride = shape.b.transposed ? depth : depth * shape.b.pitch;
  shape.d = {H, false, p.batch * H};
  shape.batch = parts;
  return Product{shape, facts, most_workspace};
}

/// A product planned for chunks of the usual size and for the last one.
template <typename P>
struct PerChunk {
  P usual;
  P last;

  PerChunk() = default;

  /// `make(steps)` plans the product for a chunk of that many steps.
  template <typename Make>
  PerChunk(Chunks const& chunks, Make make) {
    if (chunks.count == 0) return;
    usual = make(chunks.size);
    last = chunks.last_size() == chunks.size ? usual : make(chunks.last_size());
  }

  P const& of(Chunks const& chunks, std::int64_t chunk) const {
    return chunk == chunks.count - 1 ? last : usual;
  }

  std::size_t workspace_bytes() const {
    return std::max(usual.workspace_bytes(), last.workspace_bytes());
  }
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
