// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <cuda_runtime_api.h>

#include "measure.hpp"
#include "shapes.hpp"
#include "type.hpp"

/// cuDNN's GRU (reset after), called directly. No header of cuDNN is needed here.
namespace gru::bench {

/// The peer does not support the layer or the work.
struct PeerRefuses : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Device pointers to values of the layer's type, in this library's formats.
struct PeerWeights {
  void const* kernel = nullptr;            // [C, 3H]
  void const* recurrent_kernel = nullptr;  // [H, 3H]
  void const* bias = nullptr;              // [3H]
  void const* recurrent_bias = nullptr;    // [3H]
};

struct PeerWeightGradients {
  void* dkernel = nullptr;            // [C, 3H]
  void* drecurrent_kernel = nullptr;  // [H, 3H]
  void* dbias = nullptr;              // [3H]
  void* drecurrent_bias = nullptr;    // [3H]
};

struct PeerTensors {
  void const* x = nullptr;             // [T, N, C]
  void const* h0 = nullptr;            // [N, H]
  void const* dh = nullptr;            // [T, N, H]
  void const* dfinal_state = nullptr;  // [N, H]
  void* h = nullptr;                   // [T, N, H]
  void* final_state = nullptr;         // [N, H]
  void* dx = nullptr;                  // [T, N, C]
  void* dh0 = nullptr;                 // [N, H]
};

/// One algorithm, bound to sequences of T steps.
class PeerRun {
 public:
  virtual ~PeerRun() = default;
  /// Enqueues the work. Weight gradients stay in cuDNN's format, added to what is there: the one
  /// mode that it has.
  virtual void enqueue(Work work) const = 0;
  virtual Memory memory_of(Work work) const = 0;
};

/// One algorithm for one layer, with the layer's weights in its own format.
class Peer {
 public:
  virtual ~Peer() = default;
  /// The Peer outlives what it returns.
  virtual std::unique_ptr<PeerRun> bind(std::int64_t steps, PeerTensors const& tensors) const = 0;
  virtual void clear_weight_gradients() const = 0;
  virtual void read_weight_gradients(PeerWeightGradients const& gradients) const = 0;
};

class PeerLibrary {
 public:
  virtual ~PeerLibrary() = default;
  virtual std::string version() const = 0;
  virtual std::vector<std::string> algorithms() const = 0;
  /// Throws PeerRefuses where the algorithm cannot do the layer.
  virtual std::unique_ptr<Peer> make(std::string const& algorithm, Type type, Shape const& shape,
                                     PeerWeights const& weights) const = 0;
};

/// cuDNN on the stream; null where the benchmark was built without it.
std::unique_ptr<PeerLibrary> make_cudnn(cudaStream_t stream);

}  // namespace gru::bench
