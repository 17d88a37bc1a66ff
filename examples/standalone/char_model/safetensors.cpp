// SPDX-License-Identifier: Apache-2.0
#include "safetensors.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace char_model {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kLengthBytes = 8;

std::size_t value_bytes(std::string const& type) {
  static std::map<std::string, std::size_t> const kBytes{{"F32", 4}, {"F64", 8}, {"U8", 1}};
  auto const found = kBytes.find(type);
  if (found == kBytes.end()) throw std::runtime_error{"holds values of type " + type};
  return found->second;
}

std::string to_string(std::vector<std::int64_t> const& shape) {
  return Json(shape).dump();
}

/// The bytes that values of this type and shape take. Throws where that overflows.
std::size_t tensor_bytes(std::string const& type, std::vector<std::int64_t> const& shape) {
  std::size_t bytes = value_bytes(type);
  for (std::int64_t const extent : shape) {
    auto const size = static_cast<std::size_t>(extent);
    if (extent < 0 || (size > 0 && bytes > std::numeric_limits<std::size_t>::max() / size)) {
      throw std::runtime_error{"holds a tensor of shape " + to_string(shape)};
    }
    bytes *= size;
  }
  return bytes;
}

bool fits(std::vector<std::int64_t> const& shape, std::vector<std::int64_t> const& wanted) {
  if (shape.size() != wanted.size()) return false;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (wanted[i] != -1 && wanted[i] != shape[i]) return false;
  }
  return true;
}

/// The header's length, 8 bytes, least significant first.
std::array<char, kLengthBytes> length_bytes(std::uint64_t length) {
  std::array<char, kLengthBytes> bytes{};
  for (std::size_t i = 0; i < kLengthBytes; ++i) bytes[i] = static_cast<char>(length >> (8 * i));
  return bytes;
}

std::uint64_t header_length(std::vector<char> const& file) {
  if (file.size() < kLengthBytes) throw std::runtime_error{"is too short"};
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < kLengthBytes; ++i) {
    length |= std::uint64_t{static_cast<std::uint8_t>(file[i])} << (8 * i);
  }
  if (length > file.size() - kLengthBytes) throw std::runtime_error{"is cut off in its header"};
  return length;
}

std::vector<char> read_bytes(std::string const& path) {
  std::ifstream in{path, std::ios::binary};
  if (!in) throw std::runtime_error{"cannot be read"};
  return {std::istreambuf_iterator<char>{in}, {}};
}

/// Throws unless all are whole numbers: JSON's conversion would cut others off.
Json const& whole_numbers(Json const& list) {
  for (Json const& number : list) {
    if (!number.is_number_integer()) {
      throw std::runtime_error{"holds a shape or offsets of " + list.dump()};
    }
  }
  return list;
}

}  // namespace

std::string const& SafeTensors::text(std::string const& key) const {
  auto const found = metadata.find(key);
  if (found == metadata.end()) throw std::runtime_error{"the file has no metadata '" + key + "'"};
  return found->second;
}

void SafeTensors::insert(std::string const& name, Tensor tensor) {
  if (tensor.data.size() != tensor_bytes(tensor.type, tensor.shape)) {
    throw std::logic_error{name + " has not as many values as its shape says"};
  }
  tensors_[name] = std::move(tensor);
}

SafeTensors::Tensor const& SafeTensors::find(std::string const& name, std::string const& type,
                                             std::vector<std::int64_t> const& shape) const {
  auto const found = tensors_.find(name);
  if (found == tensors_.end()) throw std::runtime_error{"the file has no tensor '" + name + "'"};
  Tensor const& tensor = found->second;
  if (tensor.type != type || !fits(tensor.shape, shape)) {
    throw std::runtime_error{"the file's tensor '" + name + "' is " + tensor.type +
                             to_string(tensor.shape) + ", not " + type + to_string(shape)};
  }
  return tensor;
}

void SafeTensors::write(std::string const& path) const {
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::size_t offset = 0;
  for (auto const& [name, tensor] : tensors_) {
    std::size_t const end = offset + tensor.data.size();
    header[name] = {
        {"dtype", tensor.type}, {"shape", tensor.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');

  std::string const part = temporary(path);
  std::ofstream out{part, std::ios::binary};
  std::array<char, kLengthBytes> const length = length_bytes(text.size());
  out.write(length.data(), length.size());
  out.write(text.data(), static_cast<std::streamsize>(text.size()));
  for (auto const& [name, tensor] : tensors_) {
    out.write(reinterpret_cast<char const*>(tensor.data.data()),
              static_cast<std::streamsize>(tensor.data.size()));
  }
  out.close();
  if (!out) throw std::runtime_error{"cannot write " + part};
  std::filesystem::rename(part, path);
}

SafeTensors SafeTensors::read(std::string const& path) try {
  std::vector<char> const file = read_bytes(path);
  std::size_t const length = header_length(file);
  char const* const text = file.data() + kLengthBytes;
  char const* const data = text + length;
  std::size_t const data_bytes = file.size() - kLengthBytes - length;

  SafeTensors result;
  std::size_t data_end = 0;  // of the last tensor
  Json const header = Json::parse(text, data);
  for (auto const& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      result.metadata = entry.get<std::map<std::string, std::string>>();
      continue;
    }
    Tensor tensor{entry.at("dtype"), whole_numbers(entry.at("shape")), {}};
    Json const& offsets = whole_numbers(entry.at("data_offsets"));
    std::size_t const begin = offsets.at(0);
    std::size_t const end = offsets.at(1);
    if (begin > end || end > data_bytes || end - begin != tensor_bytes(tensor.type, tensor.shape)) {
      throw std::runtime_error{"has wrong offsets for '" + name + "'"};
    }
    auto const* const bytes = reinterpret_cast<std::byte const*>(data);
    tensor.data.assign(bytes + begin, bytes + end);
    result.tensors_[name] = std::move(tensor);
    data_end = std::max(data_end, end);
  }
  if (data_end != data_bytes) {
    throw std::runtime_error{"has " + std::to_string(data_bytes - data_end) +
                             " bytes behind its last tensor"};
  }
  return result;
} catch (std::exception const& error) {
  throw std::runtime_error{path + " cannot be used as safetensors: " + error.what()};
}

}  // namespace char_model
