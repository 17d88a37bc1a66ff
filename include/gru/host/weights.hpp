// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include <gru/detail/sequence.hpp>
#include <gru/host/execution.hpp>
#include <gru/host/parallel.hpp>
#include <gru/host/products.hpp>
#include <gru/problem.hpp>
#include <gru/tensors.hpp>

/// Weights as the products read them, and their gradients as the caller wants them.
namespace gru::detail::host {

/// How W or R is stored: `rows` rows of `columns` elements.
struct WeightStorage {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t pitch = 0;
  bool gates_by_input = false;

  std::int64_t size() const { return rows * columns; }

  /// The matrix [in, 3H] that is stored at `data`, with this pitch or tight.
  template <typename A>
  MatrixView<A> view(A* data, bool tight) const {
    return {data, tight ? columns : pitch, gates_by_input};
  }
};

inline WeightStorage weight_storage(Problem const& p, std::int64_t inputs, std::int64_t pitch) {
  bool const gates_by_input = p.weight_format.shape == WeightFormat::Shape::kGatesByInput;
  std::int64_t const gates = 3 * p.hidden_size;
  if (gates_by_input) return {gates, inputs, pitch, true};
  return {inputs, gates, pitch, false};
}

inline WeightStorage kernel_storage(Problem const& p) {
  return weight_storage(p, p.input_size, kernel_pitch(p));
}

inline WeightStorage recurrent_kernel_storage(Problem const& p) {
  return weight_storage(p, p.hidden_size, recurrent_kernel_pitch(p));
}

/// The factor that DropConnect puts on the weights of R: 0 or 1 / (1 - rate).
template <typename A>
class WeightDropping {
 public:
  WeightDropping(Problem const& p, Masks const& masks)
      : masks_{masks},
        columns_{gate_columns(p)},
        storage_{recurrent_kernel_storage(p)},
        scale_{static_cast<A>(masks.dropconnect.scale)} {}

  /// Of the weight in row i and column j as R is stored.
  A factor(std::int64_t i, std::int64_t j) const {
    std::int64_t const H = masks_.hidden;
    std::int64_t const k = storage_.gates_by_input ? j : i;
    std::int64_t const column = storage_.gates_by_input ? i : j;
    std::int64_t const gate = columns_.gate_at(column / H);
    bool const kept = masks_.keeps_weight(k, gate, column % H, i * storage_.columns + j);
    return kept ? scale_ : A(0);
  }

 private:
  Masks masks_;
  GateColumns columns_;
  WeightStorage storage_;
  A scale_;
};

/// Copies W or R, tight and converted to A.
template <typename T, typename A>
void convert_weights(gru::host::Execution const& execution, WeightStorage const& storage,
                     T const* from, A* to) {
  for_each_row_range(execution, storage.rows, storage.columns,
                     [&](std::int64_t begin, std::int64_t end) {
                       for (std::int64_t i = begin; i < end; ++i) {
                         T const* const row = from + i * storage.pitch;
                         for (std::int64_t j = 0; j < storage.columns; ++j) {
                           to[i * storage.columns + j] = static_cast<A>(row[j]);
                         }
                       }
                     });
}

/// Multiplies R or its gradient, tight, by DropConnect's factors.
template <typename A>
void drop_weights(gru::host::Execution const& execution, WeightStorage const& storage,
                  WeightDropping<A> const& dropping, A* weights) {
  for_each_row_range(execution, storage.rows, storage.columns,
                     [&](std::int64_t begin, std::int64_t end) {
                       for (std::int64_t i = begin; i < end; ++i) {
                         for (std::int64_t j = 0; j < storage.columns; ++j) {
                           weights[i * storage.columns + j] *= dropping.factor(i, j);
                         }
                       }
                     });
}

/// Overwrites `to` with `from`, or adds it, rounding to the type pointed to.
template <typename T, typename A>
void store_gradient(OrFloat<T> to, std::int64_t index, A value, bool accumulate) {
  to.store(index, accumulate ? to.template load<A>(index) + value : value);
}

/// Stores the gradient of W or R, given tight in A; null stands for zeros.
template <typename T, typename A>
void store_weight_gradient(gru::host::Execution const& execution, WeightStorage const& storage,
                           A const* from, OrFloat<T> to, bool accumulate) {
  for_each_row_range(execution, storage.rows, storage.columns,
                     [&](std::int64_t begin, std::int64_t end) {
                       for (std::int64_t i = begin; i < end; ++i) {
                         for (std::int64_t j = 0; j < storage.columns; ++j) {
                           A const value = from == nullptr ? A(0) : from[i * storage.columns + j];
                           store_gradient(to, i * storage.pitch + j, value, accumulate);
                         }
                       }
                     });
}

/// The weights in the accumulation type, as they enter the products: the caller's memory where that
/// holds them so, else copies in the workspace.
template <typename T>
class PreparedWeights {
  using A = Accumulator<T>;
  static constexpr bool kInPlace = std::is_same_v<T, A>;

 public:
  template <typename Carver>
  PreparedWeights(Carver& carver, Problem const& p)
      : kernel_storage_{kernel_storage(p)},
        recurrent_storage_{recurrent_kernel_storage(p)},
        hidden_{p.hidden_size},
        copies_recurrent_{!kInPlace || drops(p, p.dropconnect)} {
    kernel_copy_ = carver.template take<A>(kInPlace ? 0 : kernel_storage_.size());
    recurrent_copy_ = carver.template take<A>(copies_recurrent_ ? recurrent_storage_.size() : 0);
    biases_ = carver.template take<A>(6 * hidden_);
  }

  /// Makes the copies. DropConnect's mask and scale enter here.
  void prepare(gru::host::Execution const& execution, Problem const& p, Masks const& masks,
               Weights<T> const& weights) {
    if constexpr (kInPlace) {
      kernel_ = kernel_storage_.view(weights.kernel, false);
      recurrent_ = recurrent_storage_.view(weights.recurrent_kernel, false);
    } else {
      convert_weights(execution, kernel_storage_, weights.kernel, kernel_copy_);
      kernel_ = kernel_storage_.view<A const>(kernel_copy_, true);
    }
    if (copies_recurrent_) {
      convert_weights(execution, recurrent_storage_, weights.recurrent_kernel, recurrent_copy_);
      recurrent_ = recurrent_storage_.view<A const>(recurrent_copy_, true);
    }
    if (masks.dropconnect.on) {
      drop_weights(execution, recurrent_storage_, WeightDropping<A>{p, masks}, recurrent_copy_);
    }
    for (std::int64_t i = 0; i < 3 * hidden_; ++i) {
      biases_[i] = weights.bias == nullptr ? A(0) : static_cast<A>(weights.bias[i]);
      biases_[3 * hidden_ + i] =
          weights.recurrent_bias == nullptr ? A(0) : static_cast<A>(weights.recurrent_bias[i]);
    }
  }

  MatrixView<A const> kernel() const { return kernel_; }               // W [C, 3H]
  MatrixView<A const> recurrent_kernel() const { return recurrent_; }  // R [H, 3H]
  A const* bias() const { return biases_; }                            // bx [3H]
  A const* recurrent_bias() const { return biases_ + 3 * hidden_; }    // br [3H]

 private:
  WeightStorage kernel_storage_;
  WeightStorage recurrent_storage_;
  std::int64_t hidden_;
  bool copies_recurrent_;
  A* kernel_copy_;
  A* recurrent_copy_;
  A* biases_;
  MatrixView<A const> kernel_;
  MatrixView<A const> recurrent_;
};

}  // namespace gru::detail::host
