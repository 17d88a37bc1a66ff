// SPDX-License-Identifier: Apache-2.0
#include "backend.hpp"

// Stands in for gpu_backend.cu where the build has no CUDA compiler.
namespace char_model {

std::unique_ptr<Backend> make_gpu_backend(gru::Engine, std::string& reason) {
  reason = "built without CUDA";
  return nullptr;
}

}  // namespace char_model
