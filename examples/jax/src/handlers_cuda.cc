// SPDX-License-Identifier: Apache-2.0
//
// XLA's handlers for CUDA: gru's passes on XLA's stream.
#include <cstdint>
#include <utility>

#include <cuda_runtime_api.h>

#include "buffers.h"
#include "device_passes.hpp"
#include "launch.hpp"
#include "layer.h"
#include "xla/ffi/api/ffi.h"

namespace gru_jax {
namespace {

namespace device = gru::adapter::device;

/// Makes the thread's cuBLAS handle before anything runs: the passes may be captured into a command
/// buffer, where nothing can be allocated.
ffi::Error initialize() {
  return guarded([] { device::blas_handle(); });
}

ffi::Error forward_on_cuda(cudaStream_t stream, ffi::RemainingArgs operands,
                           ffi::RemainingRets results, ffi::Dictionary attributes) {
  return guarded([&] {
    forward(operands, results, attributes,
            [&](LayerCall const& call, gru::adapter::ForwardOutputs const& outputs,
                gru::adapter::Allocate allocate) {
              device::forward(call.type, call.problem, call.weights, call.inputs, outputs,
                              {stream, std::move(allocate)});
            });
  });
}

ffi::Error backward_on_cuda(cudaStream_t stream, ffi::RemainingArgs operands,
                            ffi::RemainingRets results, ffi::Dictionary attributes) {
  return guarded([&] {
    backward(operands, results, attributes,
             [&](LayerCall const& call, gru::adapter::BackwardInputs const& incoming,
                 gru::adapter::Gradients const& gradients, gru::adapter::Allocate allocate) {
               device::backward(call.type, call.problem, call.weights, call.inputs, incoming,
                                gradients, {stream, std::move(allocate)});
             });
  });
}

}  // namespace
}  // namespace gru_jax

#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(gru_jax_initialize, gru_jax::initialize,
                              xla::ffi::Ffi::Bind<xla::ffi::ExecutionStage::kInitialize>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(gru_jax_forward, gru_jax::forward_on_cuda,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::PlatformStream<cudaStream_t>>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attrs(),
                              {xla::ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER_SYMBOL(gru_jax_backward, gru_jax::backward_on_cuda,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::PlatformStream<cudaStream_t>>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attrs(),
                              {xla::ffi::Traits::kCmdBufferCompatible});

/// As gru_jax::workspace_bytes, for the device that is current.
extern "C" std::int64_t gru_jax_workspace_bytes(int is_backward, int type,
                                                gru_jax::Layer const* layer, char* message,
                                                std::int64_t message_bytes) {
  using gru::adapter::Allocate;
  using gru::adapter::Type;
  return gru_jax::workspace_bytes(
      is_backward != 0, static_cast<Type>(type), *layer, message, message_bytes,
      [](Type t, gru::Problem const& problem, Allocate const& allocate) {
        gru::adapter::device::forward(t, problem, {}, {}, {}, {nullptr, allocate});
      },
      [](Type t, gru::Problem const& problem, Allocate const& allocate) {
        gru::adapter::device::backward(t, problem, {}, {}, {}, {}, {nullptr, allocate});
      });
}

#pragma GCC visibility pop
