// SPDX-License-Identifier: Apache-2.0
#include "cudnn_peer.hpp"

namespace gru::bench {

std::unique_ptr<PeerLibrary> make_cudnn(cudaStream_t) {
  return nullptr;
}

}  // namespace gru::bench
