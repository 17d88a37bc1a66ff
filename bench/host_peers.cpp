// SPDX-License-Identifier: Apache-2.0
//
// The host engine in float behind C functions, for host_peers.py: weights as PyTorch lays them,
// h0 zeros, memory and threads its own.
#include <algorithm>
#include <cstdint>

#include <gru/host.hpp>

#include "aligned_buffer.hpp"

namespace {

using gru::bench::AlignedBuffer;

gru::Problem problem(std::int64_t steps, std::int64_t batch, std::int64_t input_size,
                     std::int64_t hidden_size, bool keep) {
  gru::Problem p;
  p.steps = steps;
  p.batch = batch;
  p.input_size = input_size;
  p.hidden_size = hidden_size;
  p.weight_format = gru::WeightFormat::pytorch();
  p.keep_for_backward = keep;
  return p;
}

struct Layer {
  Layer(std::int64_t steps, std::int64_t batch, std::int64_t input_size, std::int64_t hidden_size,
        int threads)
      : inference{problem(steps, batch, input_size, hidden_size, false)},
        forward{problem(steps, batch, input_size, hidden_size, true)},
        backward{problem(steps, batch, input_size, hidden_size, true)},
        reserve{forward.reserve_bytes()},
        workspace{std::max(
            {inference.workspace_bytes(), forward.workspace_bytes(), backward.workspace_bytes()})},
        pool{threads} {}

  gru::host::ForwardPass<float> inference;
  gru::host::ForwardPass<float> forward;
  gru::host::BackwardPass<float> backward;
  AlignedBuffer reserve;
  AlignedBuffer workspace;
  gru::host::ThreadPool pool;
};

}  // namespace

extern "C" {

Layer* gru_layer(std::int64_t steps, std::int64_t batch, std::int64_t input_size,
                 std::int64_t hidden_size, int threads) {
  return new Layer{steps, batch, input_size, hidden_size, threads};
}

void gru_free(Layer* layer) {
  delete layer;
}

/// weights: W, R, bx, br.
void gru_inference(Layer* layer, float const* const* weights, float const* x, float* h) {
  gru::ForwardTensors<float> t;
  t.x = x;
  t.h = h;
  layer->inference.run(layer->pool.execution(), {weights[0], weights[1], weights[2], weights[3]}, t,
                       {layer->workspace.data(), layer->workspace.bytes()});
}

/// gradients: of W, R, bx, br, x.
void gru_training(Layer* layer, float const* const* weights, float const* x, float* h,
                  float const* dh, float* const* gradients) {
  gru::Weights<float> const w{weights[0], weights[1], weights[2], weights[3]};
  gru::Workspace const workspace{layer->workspace.data(), layer->workspace.bytes()};
  gru::ForwardTensors<float> f;
  f.x = x;
  f.h = h;
  f.reserve = {layer->reserve.data(), layer->reserve.bytes()};
  layer->forward.run(layer->pool.execution(), w, f, workspace);
  gru::BackwardTensors<float> b;
  b.x = x;
  b.h = h;
  b.dh = dh;
  b.reserve = {layer->reserve.data(), layer->reserve.bytes()};
  b.dkernel = gradients[0];
  b.drecurrent_kernel = gradients[1];
  b.dbias = gradients[2];
  b.drecurrent_bias = gradients[3];
  b.dx = gradients[4];
  layer->backward.run(layer->pool.execution(), w, b, workspace);
}

}  // extern "C"
