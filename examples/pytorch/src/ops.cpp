// SPDX-License-Identifier: Apache-2.0
//
// The ops' schemas. The CPU kernels are in kernels_cpu.cpp, the CUDA kernels in kernels_cuda.cpp;
// what the tracers of PyTorch need to know of them (shapes, gradients) is in gru_torch/ops.py.
#include <torch/library.h>

// x is [T, N, C], or [N, T, C] where batch_first; weights and biases as nn.GRU has them. A gradient
// that is not in `wanted` (of x, w_ih, w_hh, b_ih, b_hh, h0) is an empty tensor.
TORCH_LIBRARY(gru_torch, library) {
  library.def(
      "forward(Tensor x, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? h0, "
      "Tensor? lengths, Tensor? episode_starts, Tensor? seed, float zoneout, float dropconnect, "
      "float recurrent_dropout, bool reset_after, bool reverse, bool batch_first, "
      "bool keep_reserve) -> (Tensor h, Tensor final_state, Tensor reserve)");
  library.def(
      "backward(Tensor x, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? h0, "
      "Tensor? lengths, Tensor? episode_starts, Tensor? seed, float zoneout, float dropconnect, "
      "float recurrent_dropout, bool reset_after, bool reverse, bool batch_first, "
      "bool keep_reserve, Tensor h, Tensor reserve, Tensor? dh, Tensor? dfinal_state, "
      "bool[6] wanted) -> (Tensor dx, Tensor dw_ih, Tensor dw_hh, Tensor db_ih, Tensor db_hh, "
      "Tensor dh0)");
}
