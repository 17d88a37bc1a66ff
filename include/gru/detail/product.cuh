// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>

#include <cublasLt.h>

#include <gru/detail/cuda_types.cuh>
#include <gru/detail/device.cuh>
#include <gru/problem.hpp>

namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// A row-major matrix as it lies in memory, or a batch of them.
struct MatrixLayout {
  std::int64_t pitch = 0;         // elements from row to row
  bool transposed = false;        // the memory holds the transpose
  std::int64_t batch_stride = 0;  // elements from one matrix to the next
};

/// D[m,n] = alpha * A[m,k] B[k,n] + beta * D, row-major, A and B of one type.
struct ProductShape {
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  MatrixLayout a;
  MatrixLayout b;
  MatrixLayout d;  // not transposed
  std::int64_t batch = 1;
  cudaDataType_t input_type = CUDA_R_32F;
  cudaDataType_t output_type = CUDA_R_32F;
  cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
};

/// The most scratch memory that a product may ask for; NVIDIA recommends it on Hopper.
inline constexpr std::size_t kMostProductWorkspace = std::size_t{32} << 20;

template <typename T>
cublasComputeType_t compute_type(Precision precision) {
  if constexpr (std::is_same_v<T, double>) return CUBLAS_COMPUTE_64F;
  if constexpr (std::is_same_v<T, float>) {
    if (precision == Precision::kTf32) return CUBLAS_COMPUTE_32F_FAST_TF32;
    if (precision == Precision::kFp32Strict) return CUBLAS_COMPUTE_32F_PEDANTIC;
  }
  return CUBLAS_COMPUTE_32F;
}

inline std::size_t size_of(cudaDataType_t type) {
  return type == CUDA_R_64F ? 8 : type == CUDA_R_32F ? 4 : 2;
}

/// A product planned for cublasLt: descriptors and algorithms are made at construction, so that
/// running it allocates and chooses nothing. One algorithm serves pointers aligned to 16 bytes and
/// one those aligned to their type alone.
class Product {
 public:
  Product() = default;

  Product(ProductShape const& shape, DeviceFacts const& facts, std::size_t most_workspace)
      : shape_{shape} {
    describe();
    aligned_ = choose(facts, kWideAlignment, most_workspace);
    unaligned_ = choose(facts, size_of(shape.input_type), most_workspace);
  }

  std::size_t workspace_bytes() const {
    return std::max(aligned_.workspaceSize, unaligned_.workspaceSize);
  }

  /// Enqueues the product. `workspace` is aligned to 256 bytes and workspace_bytes() long.
  void run(Execution const& execution, double alpha, void const* a, void const* b, double beta,
           void* d, void* workspace) const {
    auto const address = [](void const* p) { return reinterpret_cast<std::uintptr_t>(p); };
    bool const wide = (address(a) | address(b) | address(d)) % kWideAlignment == 0;
    Algorithm const& algorithm = wide ? aligned_ : unaligned_;
    float const alpha_float = static_cast<float>(alpha);
    float const beta_float = static_cast<float>(beta);
    bool const is_double = shape_.input_type == CUDA_R_64F;
    void const* const alpha_pointer = is_double ? static_cast<void const*>(&alpha) : &alpha_float;
    void const* const beta_pointer = is_double ? static_cast<void const*>(&beta) : &beta_float;
    // cuBLAS counts columns first: the transposes of all three matrices, in reverse order.
    Descriptors of = descriptors_;  // a copy, since cublasLt takes them without const
    GRU_CUBLAS_TRY(cublasLtMatmul(reinterpret_cast<cublasLtHandle_t>(execution.blas), &of.operation,
                                  alpha_pointer, b, &of.b, a, &of.a, beta_pointer, d, &of.d, d,
                                  &of.d, &algorithm.algo, workspace, algorithm.workspaceSize,
                                  execution.stream));
  }

 private:
  using Algorithm = cublasLtMatmulHeuristicResult_t;

  struct Descriptors {
    cublasLtMatmulDescOpaque_t operation = {};
    cublasLtMatrixLayoutOpaque_t a = {};
    cublasLtMatrixLayoutOpaque_t b = {};
    cublasLtMatrixLayoutOpaque_t d = {};
  };

  static constexpr std::size_t kWideAlignment = 16;

  static cublasLtMatrixLayoutOpaque_t describe(cudaDataType_t type, std::int64_t rows,
                                               std::int64_t columns, MatrixLayout layout,
                                               std::int64_t batch) {
    cublasLtMatrixLayoutOpaque_t result;
    std::int64_t const memory_rows = layout.transposed ? columns : rows;
    std::int64_t const memory_columns = layout.transposed ? rows : columns;
    GRU_CUBLAS_TRY(cublasLtMatrixLayoutInit(&result, type,
                                            static_cast<std::uint64_t>(memory_columns),
                                            static_cast<std::uint64_t>(memory_rows), layout.pitch));
    if (batch > 1) {
      auto const count = static_cast<std::int32_t>(batch);
      GRU_CUBLAS_TRY(cublasLtMatrixLayoutSetAttribute(&result, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                                                      &count, sizeof count));
      GRU_CUBLAS_TRY(
          cublasLtMatrixLayoutSetAttribute(&result, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                           &layout.batch_stride, sizeof layout.batch_stride));
    }
    return result;
  }

  void describe() {
    descriptors_.a = describe(shape_.input_type, shape_.m, shape_.k, shape_.a, shape_.batch);
    descriptors_.b = describe(shape_.input_type, shape_.k, shape_.n, shape_.b, shape_.batch);
    descriptors_.d = describe(shape_.output_type, shape_.m, shape_.n, shape_.d, shape_.batch);
    cudaDataType_t const scale = shape_.input_type == CUDA_R_64F ? CUDA_R_64F : CUDA_R_32F;
    GRU_CUBLAS_TRY(cublasLtMatmulDescInit(&descriptors_.operation, shape_.compute, scale));
    set_transpose(CUBLASLT_MATMUL_DESC_TRANSA, shape_.b.transposed);
    set_transpose(CUBLASLT_MATMUL_DESC_TRANSB, shape_.a.transposed);
  }

  void set_transpose(cublasLtMatmulDescAttributes_t which, bool transposed) {
    cublasOperation_t const operation = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    GRU_CUBLAS_TRY(cublasLtMatmulDescSetAttribute(&descriptors_.operation, which, &operation,
                                                  sizeof operation));
  }

  /// Asks cublasLt's heuristic, once a process for each shape. Only algorithms whose partial sums
  /// stay in the compute type are admitted.
  Algorithm choose(DeviceFacts const& facts, std::size_t alignment,
                   std::size_t most_workspace) const {
    using Key = std::array<std::int64_t, 18>;
    Key const key{facts.device,
                  shape_.m,
                  shape_.n,
                  shape_.k,
                  shape_.a.pitch,
                  shape_.a.transposed,
                  shape_.a.batch_stride,
                  shape_.b.pitch,
                  shape_.b.transposed,
                  shape_.b.batch_stride,
                  shape_.d.pitch,
                  shape_.d.batch_stride,
                  shape_.batch,
                  shape_.input_type,
                  shape_.output_type,
                  shape_.compute,
                  static_cast<std::int64_t>(alignment),
                  static_cast<std::int64_t>(most_workspace)};
    static std::mutex mutex;
    static std::map<Key, Algorithm> known;
    std::lock_guard<std::mutex> const lock{mutex};
    auto const found = known.find(key);
    if (found != known.end()) return found->second;
    Algorithm const algorithm = ask(facts, alignment, most_workspace);
    known.emplace(key, algorithm);
    return algorithm;
  }

  Algorithm ask(DeviceFacts const& facts, std::size_t alignment, std::size_t most_workspace) const {
    cublasLtMatmulPreferenceOpaque_t preference;
    GRU_CUBLAS_TRY(cublasLtMatmulPreferenceInit(&preference));
    auto const prefer = [&](cublasLtMatmulPreferenceAttributes_t which, auto value) {
      GRU_CUBLAS_TRY(
          cublasLtMatmulPreferenceSetAttribute(&preference, which, &value, sizeof value));
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, most_workspace);
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
           static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    auto const bytes = static_cast<std::uint32_t>(alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, bytes);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, bytes);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, bytes);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, bytes);
    Algorithm algorithm;
    int count = 0;
    Descriptors of = descriptors_;
    cublasStatus_t const status = cublasLtMatmulAlgoGetHeuristic(
        facts.blas, &of.operation, &of.b, &of.a, &of.d, &of.d, &preference, 1, &algorithm, &count);
    GRU_EXPECT(status == CUBLAS_STATUS_SUCCESS && count > 0, Unsupported,
               "cuBLAS has no algorithm for the product [", shape_.m, ", ", shape_.k, "] x [",
               shape_.k, ", ", shape_.n, "], batch ", shape_.batch, ", pitches ", shape_.a.pitch,
               ", ", shape_.b.pitch, ", ", shape_.d.pitch, ", alignment ", alignment, ": ",
               cublasLtGetStatusName(status));
    return algorithm;
  }

  ProductShape shape_;
  Descriptors descriptors_;
  Algorithm aligned_ = {};
  Algorithm unaligned_ = {};
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
