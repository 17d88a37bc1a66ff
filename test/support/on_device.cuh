// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <vector>

#include "support/device_backend.cuh"

namespace gru::test {

/// Device memory that holds these values.
template <typename T>
class OnDevice {
 public:
  explicit OnDevice(std::vector<T> const& values) : memory_{values.size() * sizeof(T)} {
    RawBytes bytes(values.size() * sizeof(T));
    std::memcpy(bytes.data(), values.data(), bytes.size());
    memory_.write(bytes);
  }

  T* data() const { return reinterpret_cast<T*>(memory_.data()); }

  std::vector<T> read() const {
    check_cuda(cudaDeviceSynchronize(), "the device");
    RawBytes const bytes = memory_.read();
    std::vector<T> values(bytes.size() / sizeof(T));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }

 private:
  DeviceMemory memory_;
};

}  // namespace gru::test
