// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "support/backend.hpp"
#include "support/layer.hpp"

namespace gru::test {

/// How a layer is run step by step.
struct Streaming {
  bool in_place = false;  ///< The new state is written over the old one.
  bool with_h = true;     ///< Each step asks for h.
};

/// An engine for one type as checks see it: canonical layers in, canonical results out.
///
/// Every run poisons workspace, reserve, outputs and the gaps between rows with NaN, and fails the
/// test where a pass writes into a gap, past a buffer's end or into an input, or asks for more
/// workspace than the Problem's limit.
class Engine {
 public:
  virtual ~Engine() = default;

  virtual std::string name() const = 0;
  virtual DataType type() const = 0;

  /// Forward and, where the Problem keeps what it needs, backward.
  virtual Results run(Layer const& layer) const = 0;

  /// The layer by single-step calls; gives h, if asked for, and final_state. Takes no lengths.
  virtual Results stream(Layer const& layer, Streaming streaming = {}) const = 0;

  /// The bytes that the two passes ask for.
  virtual PassBytes forward_bytes(Problem const& problem) const = 0;
  virtual PassBytes backward_bytes(Problem const& problem) const = 0;
};

/// The Problem with about the least workspace limit that its passes accept.
template <typename T>
Problem with_small_workspace(Backend<T> const& backend, Problem problem);

/// See Engine::run. Defined for float, double, Eigen::half and Eigen::bfloat16.
template <typename T>
Results run_layer(Backend<T> const& backend, Layer const& layer);

/// What the two directions of one layer write together and apart.
struct BidirectionalResults {
  Values h;         // [T, N, 2H]
  Values dx;        // [T, N, C], both directions' sum
  Results forward;  ///< but h and dx
  Results reverse;
};

/// Both directions over the same x: their passes write the halves of one [T, N, 2H] tensor by its
/// row pitch and read the halves of its gradient; the second adds to the dx of the first.
template <typename T>
BidirectionalResults run_bidirectional(Backend<T> const& backend, Layer forward, Layer reverse);

/// See Engine::stream.
template <typename T>
Results stream_layer(Backend<T> const& backend, Layer const& layer, Streaming streaming);

template <typename T>
struct DataTypeOf;
template <>
struct DataTypeOf<float> {
  static constexpr DataType value = DataType::kFloat;
};
template <>
struct DataTypeOf<double> {
  static constexpr DataType value = DataType::kDouble;
};
template <>
struct DataTypeOf<Eigen::half> {
  static constexpr DataType value = DataType::kHalf;
};
template <>
struct DataTypeOf<Eigen::bfloat16> {
  static constexpr DataType value = DataType::kBfloat16;
};

/// The Engine of a Backend.
template <typename T>
class BackendEngine final : public Engine {
 public:
  BackendEngine(std::string place, Backend<T> const& backend)
      : place_{std::move(place)}, backend_{&backend} {}

  std::string name() const override { return place_ + ' ' + to_string(type()); }
  DataType type() const override { return DataTypeOf<T>::value; }
  Results run(Layer const& layer) const override { return run_layer(*backend_, layer); }
  Results stream(Layer const& layer, Streaming streaming) const override {
    return stream_layer(*backend_, layer, streaming);
  }
  PassBytes forward_bytes(Problem const& problem) const override {
    return backend_->forward_bytes(problem);
  }
  PassBytes backward_bytes(Problem const& problem) const override {
    return backend_->backward_bytes(problem);
  }

 private:
  std::string place_;
  Backend<T> const* backend_;
};

}  // namespace gru::test
