// SPDX-License-Identifier: Apache-2.0
//
// The CUDA kernels of both ops: gru's passes on the current stream of x's device, with PyTorch's
// cuBLAS handle and memory.
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "kernels.hpp"

namespace gru_torch {
namespace {

class Cuda {
 public:
  explicit Cuda(at::Tensor const& x) : guard_{checked(x).device()} {}

  gru::adapter::device::Place place(gru::adapter::Allocate allocate) const {
    return {at::cuda::getCurrentCUDAStream().stream(), std::move(allocate),
            at::cuda::getCurrentCUDABlasHandle()};
  }

  static constexpr auto forward = gru::adapter::device::forward;
  static constexpr auto backward = gru::adapter::device::backward;

 private:
  /// x, which may be elsewhere than the tensors that had this kernel called.
  static at::Tensor const& checked(at::Tensor const& x) {
    GRU_EXPECT(x.is_cuda(), gru::InvalidArgument, "x is on ", x.device(),
               ", but other tensors are on a GPU");
    return x;
  }

  c10::cuda::CUDAGuard guard_;
};

}  // namespace
}  // namespace gru_torch

TORCH_LIBRARY_IMPL(gru_torch, CUDA, library) {
  library.impl("forward", &gru_torch::Kernels<gru_torch::Cuda>::forward);
  library.impl("backward", &gru_torch::Kernels<gru_torch::Cuda>::backward);
}
