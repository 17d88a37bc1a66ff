// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace gru {

/// Base of everything that this library throws.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The caller's descriptor, pointer or size is wrong. Nothing was enqueued, no output was touched.
struct InvalidArgument : Error {
  using Error::Error;
};

/// This device, type, engine or build cannot do what was asked. Nothing was enqueued.
struct Unsupported : Error {
  using Error::Error;
};

/// A CUDA or cuBLAS call failed, or a kernel reported a failure.
struct DeviceError : Error {
  DeviceError(std::string const& what, int status_code) : Error{what}, status{status_code} {}

  int status;  ///< The cudaError_t or cublasStatus_t.
};

namespace detail {

/// Joins its arguments into one message that ends with the place that raised it.
template <typename... Parts>
std::string message(char const* file, int line, Parts const&... parts) {
  std::ostringstream out;
  out << "gru: ";
  (out << ... << parts);
  out << " [" << file << ':' << line << ']';
  return out.str();
}

}  // namespace detail
}  // namespace gru

/// Throws `exception` with a message made of the remaining arguments unless `condition` holds.
#define GRU_EXPECT(condition, exception, ...)                                   \
  do {                                                                          \
    if (!(condition)) {                                                         \
      throw exception{::gru::detail::message(__FILE__, __LINE__, __VA_ARGS__)}; \
    }                                                                           \
  } while (false)
