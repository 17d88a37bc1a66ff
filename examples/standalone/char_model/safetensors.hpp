// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace char_model {

/// Named tensors and strings in one file, in the safetensors format: the length of a JSON header in
/// 8 bytes, the header, the values. Python reads it by `safetensors` or in a few lines of its own.
/// Little-endian machines only, as the values are copied as they are.
class SafeTensors {
 public:
  std::map<std::string, std::string> metadata;

  template <typename T>
  void add(std::string const& name, std::vector<std::int64_t> shape, std::vector<T> const& values) {
    Tensor tensor{type_name(T{}), std::move(shape), {}};
    tensor.data.resize(values.size() * sizeof(T));
    if (!values.empty()) std::memcpy(tensor.data.data(), values.data(), tensor.data.size());
    insert(name, std::move(tensor));
  }

  /// Throws unless there is such a tensor of this type and shape; an extent of -1 fits any.
  template <typename T>
  void check(std::string const& name, std::vector<std::int64_t> const& shape) const {
    find(name, type_name(T{}), shape);
  }

  /// Its values; throws where `check` does.
  template <typename T>
  std::vector<T> get(std::string const& name, std::vector<std::int64_t> const& shape) const {
    std::vector<std::byte> const& data = find(name, type_name(T{}), shape).data;
    std::vector<T> values(data.size() / sizeof(T));
    if (!values.empty()) std::memcpy(values.data(), data.data(), data.size());
    return values;
  }

  /// Throws, naming the key, where it is missing.
  std::string const& text(std::string const& key) const;

  /// The name under which `write` begins the file.
  static std::string temporary(std::string const& path) { return path + ".part"; }
  /// Writes to a temporary name first, so that a failure leaves an older file whole.
  void write(std::string const& path) const;
  /// Throws where the file is not a well-formed one.
  static SafeTensors read(std::string const& path);

 private:
  struct Tensor {
    std::string type;
    std::vector<std::int64_t> shape;
    std::vector<std::byte> data;
  };

  static char const* type_name(float) { return "F32"; }
  static char const* type_name(double) { return "F64"; }
  static char const* type_name(std::uint8_t) { return "U8"; }

  void insert(std::string const& name, Tensor tensor);
  Tensor const& find(std::string const& name, std::string const& type,
                     std::vector<std::int64_t> const& shape) const;

  std::map<std::string, Tensor> tensors_;
};

}  // namespace char_model
