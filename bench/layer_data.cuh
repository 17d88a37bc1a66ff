// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include <gru/random.hpp>
#include <gru/tensors.hpp>

#include "cudnn_peer.hpp"
#include "device.cuh"
#include "option_sets.hpp"
#include "shapes.hpp"

namespace gru::bench {

inline constexpr unsigned kThreads = 256;

inline unsigned blocks_for(std::int64_t size) {
  return static_cast<unsigned>((size + kThreads - 1) / kThreads);
}

/// Element i of a sequence of random words.
__device__ inline std::uint32_t random_word(std::uint64_t seed, std::int64_t i) {
  return philox(seed, 0, static_cast<std::uint64_t>(i)).word[0];
}

/// Values uniform in [-bound, bound).
template <typename T>
__global__ void fill_kernel(T* out, std::int64_t size, float bound, std::uint64_t seed) {
  std::int64_t const i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
  if (i >= size) return;
  out[i] =
      static_cast<T>(bound * (static_cast<float>(random_word(seed, i) >> 8) / 8388608.f - 1.f));
}

/// 1 with the probability `share`, else 0.
inline __global__ void fill_bits_kernel(std::uint8_t* out, std::int64_t size, double share,
                                        std::uint64_t seed) {
  std::int64_t const i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
  if (i < size) out[i] = random_word(seed, i) < share * 4294967296.0 ? 1 : 0;
}

/// Whole numbers uniform in [1, most].
inline __global__ void fill_lengths_kernel(std::int32_t* out, std::int64_t size, std::int32_t most,
                                           std::uint64_t seed) {
  std::int64_t const i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
  if (i < size) out[i] = 1 + static_cast<std::int32_t>(random_word(seed, i) % most);
}

inline __global__ void fill_same_kernel(std::int32_t* out, std::int64_t size, std::int32_t value) {
  std::int64_t const i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
  if (i < size) out[i] = value;
}

/// One layer's weights, inputs, outputs and gradients on the device. Who runs the layer reads the
/// same inputs and overwrites the same outputs.
template <typename T>
struct LayerData {
  explicit LayerData(Shape const& s) : shape{s} {}

  Shape shape;
  std::int64_t T_ = shape.steps;
  std::int64_t N = shape.batch;
  std::int64_t C = shape.input_size;
  std::int64_t H = shape.hidden_size;

  DeviceBuffer<T> x{T_ * N * C};                 // [T, N, C]
  DeviceBuffer<T> h0{N * H};                     // [N, H]
  DeviceBuffer<T> kernel{C * 3 * H};             // [C, 3H]
  DeviceBuffer<T> recurrent_kernel{H * 3 * H};   // [H, 3H]
  DeviceBuffer<T> bias{3 * H};                   // [3H]
  DeviceBuffer<T> recurrent_bias{3 * H};         // [3H]
  DeviceBuffer<T> dh{T_ * N * H};                // [T, N, H]
  DeviceBuffer<T> dfinal_state{N * H};           // [N, H]
  DeviceBuffer<T> h{T_ * N * H};                 // [T, N, H]
  DeviceBuffer<T> final_state{N * H};            // [N, H]
  DeviceBuffer<T> dx{T_ * N * C};                // [T, N, C]
  DeviceBuffer<T> dkernel{C * 3 * H};            // [C, 3H]
  DeviceBuffer<T> drecurrent_kernel{H * 3 * H};  // [H, 3H]
  DeviceBuffer<T> dbias{3 * H};                  // [3H]
  DeviceBuffer<T> drecurrent_bias{3 * H};        // [3H]
  DeviceBuffer<T> dh0{N * H};                    // [N, H]

  /// Random inputs, uniform in [-1, 1), and weights uniform in 1 / sqrt(H).
  void fill(cudaStream_t stream) {
    float const bound = 1 / std::sqrt(static_cast<float>(H));
    std::uint64_t seed = 0;
    for (auto const* buffer : {&x, &h0, &dh, &dfinal_state}) fill_one(*buffer, 1, ++seed, stream);
    for (auto const* buffer : {&kernel, &recurrent_kernel, &bias, &recurrent_bias}) {
      fill_one(*buffer, bound, ++seed, stream);
    }
  }

  /// Makes all outputs NaN, so that one that is not written shows.
  void clear_outputs(cudaStream_t stream) const {
    for (auto const* buffer :
         {&h, &final_state, &dx, &dkernel, &drecurrent_kernel, &dbias, &drecurrent_bias, &dh0}) {
      check(cudaMemsetAsync(buffer->data(), 0xff, buffer->bytes(), stream), "cudaMemsetAsync");
    }
  }

  Weights<T> weights() const {
    Weights<T> w;
    w.kernel = kernel.data();
    w.recurrent_kernel = recurrent_kernel.data();
    w.bias = bias.data();
    w.recurrent_bias = recurrent_bias.data();
    return w;
  }

  PeerWeights peer_weights() const {
    return {kernel.data(), recurrent_kernel.data(), bias.data(), recurrent_bias.data()};
  }

  PeerWeightGradients peer_weight_gradients() const {
    return {dkernel.data(), drecurrent_kernel.data(), dbias.data(), drecurrent_bias.data()};
  }

  PeerTensors peer_tensors() const {
    return {x.data(), h0.data(),          dh.data(), dfinal_state.data(),
            h.data(), final_state.data(), dx.data(), dh0.data()};
  }

 private:
  static void fill_one(DeviceBuffer<T> const& buffer, float bound, std::uint64_t seed,
                       cudaStream_t stream) {
    auto const size = static_cast<std::int64_t>(buffer.bytes() / sizeof(T));
    fill_kernel<T><<<blocks_for(size), kThreads, 0, stream>>>(buffer.data(), size, bound, seed);
    check(cudaGetLastError(), "fill_kernel");
  }
};

/// What the options bring to a run.
struct OptionTensors {
  OptionTensors(Shape const& s, cudaStream_t stream)
      : lengths{s.batch},
        host_lengths(static_cast<std::size_t>(s.batch)),
        full_lengths{s.batch},
        episode_starts{s.steps * s.batch},
        zoneout_mask{s.steps * s.batch * s.hidden_size} {
    auto const steps = static_cast<std::int32_t>(s.steps);
    fill_lengths_kernel<<<blocks_for(s.batch), kThreads, 0, stream>>>(lengths.data(), s.batch,
                                                                      steps, 1);
    fill_same_kernel<<<blocks_for(s.batch), kThreads, 0, stream>>>(full_lengths.data(), s.batch,
                                                                   steps);
    fill_bits(episode_starts, kEpisodeStartShare, 2, stream);
    fill_bits(zoneout_mask, 1 - kDropRate, 3, stream);
    check(cudaGetLastError(), "filling the options");
    check(cudaMemcpyAsync(host_lengths.data(), lengths.data(), lengths.bytes(),
                          cudaMemcpyDeviceToHost, stream),
          "cudaMemcpyAsync");
    check(cudaStreamSynchronize(stream), "filling the options");
  }

  DeviceBuffer<std::int32_t> lengths;         // [N], uniform in [1, T]
  std::vector<std::int32_t> host_lengths;     // the same
  DeviceBuffer<std::int32_t> full_lengths;    // [N], T each
  DeviceBuffer<std::uint8_t> episode_starts;  // [T, N]
  DeviceBuffer<std::uint8_t> zoneout_mask;    // [T, N, H]

 private:
  static void fill_bits(DeviceBuffer<std::uint8_t> const& buffer, double share, std::uint64_t seed,
                        cudaStream_t stream) {
    auto const size = static_cast<std::int64_t>(buffer.bytes());
    fill_bits_kernel<<<blocks_for(size), kThreads, 0, stream>>>(buffer.data(), size, share, seed);
  }
};

}  // namespace gru::bench
