// SPDX-License-Identifier: Apache-2.0
//
// The CPU kernels of both ops: gru's host engine on PyTorch's intra-op threads.
#include <functional>

#include <ATen/Parallel.h>
#include <torch/library.h>

#include "kernels.hpp"

namespace gru_torch {
namespace {

struct Cpu {
  explicit Cpu(at::Tensor const&) {}

  gru::adapter::host::Place place(gru::adapter::Allocate allocate) const {
    gru::adapter::host::Place result;
    if (at::get_num_threads() > 1 && !at::in_parallel_region()) {
      result.parallel_for = [](std::int64_t count, std::function<void(std::int64_t)> const& task) {
        at::parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t i = begin; i < end; ++i) task(i);
        });
      };
    }
    result.allocate = std::move(allocate);
    return result;
  }

  static constexpr auto forward = gru::adapter::host::forward;
  static constexpr auto backward = gru::adapter::host::backward;
};

}  // namespace
}  // namespace gru_torch

TORCH_LIBRARY_IMPL(gru_torch, CPU, library) {
  library.impl("forward", &gru_torch::Kernels<gru_torch::Cpu>::forward);
  library.impl("backward", &gru_torch::Kernels<gru_torch::Cpu>::backward);
}
