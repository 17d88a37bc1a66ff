// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gru/problem.hpp>
#include <gru/tensors.hpp>

/// What the model needs from an engine: memory, the GRU's passes, and a few small operations around
/// them. There are two backends, the host and the GPU; model and trainer are written once on top.
///
/// T steps, N batch, V vocabulary, E embedding, H hidden; rows = T * N. Pointers are the backend's
/// memory. Operations run in the order of the calls; only `upload` and `download` wait for them.
namespace char_model {

/// The type that the GRU layers compute in. The model's weights, gradients and states are float.
enum class DataType { kFloat, kHalf, kBfloat16 };

/// A row without a target.
constexpr std::uint8_t kNoTarget = 255;

/// The encoded text, cut into N streams of equal length that are read side by side.
struct TextView {
  std::uint8_t const* tokens = nullptr;  // [at least N * stream_length + 1]
  std::uint8_t const* starts = nullptr;  // the same, 1 where a file begins
  std::int64_t stream_length = 0;
};

/// T characters of each stream, from `cursor` (modulo the stream's length) on.
struct WindowRead {
  TextView text;
  std::int64_t cursor = 0;
  std::int64_t steps = 0;
  std::int64_t batch = 0;
  std::uint8_t* tokens = nullptr;   // out [T, N]
  std::uint8_t* targets = nullptr;  // out [T, N], the next characters
  std::uint8_t* starts = nullptr;   // out [T, N], 1 where a file or the stream begins
};

/// Lines of a text, each a sequence of its own.
struct LinesView {
  std::uint8_t const* tokens = nullptr;
  std::int64_t const* begins = nullptr;   // [count], each line's first character
  std::int32_t const* lengths = nullptr;  // [count], characters that have a next one
  std::int64_t count = 0;
};

/// N lines, from `first` (modulo their count) on.
struct LinesRead {
  LinesView lines;
  std::int64_t first = 0;
  std::int64_t steps = 0;
  std::int64_t batch = 0;
  std::uint8_t* tokens = nullptr;   // out [T, N], any behind a line's end
  std::uint8_t* targets = nullptr;  // out [T, N], the next characters, kNoTarget behind the end
  std::int32_t* lengths = nullptr;  // out [N]
};

/// output[row] = table[tokens[row]].
struct Embedding {
  std::int64_t rows = 0;
  std::int64_t vocabulary = 0;
  std::int64_t width = 0;
  std::uint8_t const* tokens = nullptr;  // [rows]
  float const* table = nullptr;          // [V, E]
  float* output = nullptr;               // out [rows, E]
};

struct EmbeddingBackward {
  std::int64_t rows = 0;
  std::int64_t vocabulary = 0;
  std::int64_t width = 0;
  std::uint8_t const* tokens = nullptr;  // [rows]
  float const* doutput = nullptr;        // [rows, E]
  float* dtable = nullptr;               // out [V, E]
};

/// y = x weight^T + bias.
struct Linear {
  std::int64_t rows = 0;
  std::int64_t inputs = 0;
  std::int64_t outputs = 0;
  float const* x = nullptr;       // [rows, inputs]
  float const* weight = nullptr;  // [outputs, inputs]
  float const* bias = nullptr;    // [outputs]
  float* y = nullptr;             // out [rows, outputs]
};

struct LinearBackward {
  std::int64_t rows = 0;
  std::int64_t inputs = 0;
  std::int64_t outputs = 0;
  float const* x = nullptr;       // [rows, inputs]
  float const* weight = nullptr;  // [outputs, inputs]
  float const* dy = nullptr;      // [rows, outputs]
  float* dx = nullptr;            // out [rows, inputs]
  float* dweight = nullptr;       // out [outputs, inputs]
  float* dbias = nullptr;         // out [outputs]
};

/// The mean of -log softmax(logits)[target] over the rows that have a target, and the gradient of
/// their sum: 16 bits have no room for the mean's.
struct CrossEntropy {
  std::int64_t rows = 0;
  std::int64_t classes = 0;
  std::int64_t target_count = 0;          // rows that have a target
  std::uint8_t const* targets = nullptr;  // [rows]
  float* logits = nullptr;                // in [rows, V]; out: the sum's gradient
  double* row_losses = nullptr;           // scratch [rows]
  double* loss = nullptr;                 // out, one value
};

/// One step of Adam (1412.6980) by the gradient times `gradient_scale`, once that is scaled so that
/// its norm is at most `clip`.
struct AdamStep {
  std::int64_t count = 0;
  std::int64_t iteration = 0;  // from 1
  double rate = 0;
  double gradient_scale = 1;
  double clip = 0;  // 0 = no clipping
  double beta1 = 0.9;
  double beta2 = 0.99;
  double epsilon = 1e-8;
  float const* gradient = nullptr;  // [count]
  float* value = nullptr;           // [count], updated, as are the two moments
  float* first_moment = nullptr;    // [count]
  float* second_moment = nullptr;   // [count]
};

/// The passes of one GRU layer for one Problem, with the workspace and the reserve that they need.
class GruPasses {
 public:
  virtual ~GruPasses() = default;
  virtual std::string engine() const = 0;

  /// With a reserve of its own.
  virtual void forward(gru::Weights<float> const&, gru::ForwardTensors<float> const&) = 0;
  /// After `forward`, with the reserve that it filled.
  virtual void backward(gru::Weights<float> const&, gru::BackwardTensors<float> const&) = 0;
  virtual void step(gru::Weights<float> const&, gru::StepTensors<float> const&) = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string description() const = 0;

  /// Zeros, aligned to 256 bytes.
  virtual void* allocate(std::size_t bytes) = 0;
  virtual void release(void* memory) noexcept = 0;
  virtual void upload(void* to, void const* from, std::size_t bytes) = 0;
  virtual void download(void* to, void const* from, std::size_t bytes) = 0;

  virtual std::unique_ptr<GruPasses> make_gru(gru::Problem const&, DataType) = 0;

  virtual void read_window(WindowRead const&) = 0;
  virtual void read_lines(LinesRead const&) = 0;
  virtual void embed(Embedding const&) = 0;
  virtual void embed_backward(EmbeddingBackward const&) = 0;
  virtual void linear(Linear const&) = 0;
  virtual void linear_backward(LinearBackward const&) = 0;
  virtual void cross_entropy(CrossEntropy const&) = 0;
  virtual void adam(AdamStep const&) = 0;
};

/// The CPU; `threads` 0 = as many as there are.
std::unique_ptr<Backend> make_host_backend(int threads);

/// The current CUDA device, with the library's engine that is to run there; null and the reason
/// where there is no device that can be used.
std::unique_ptr<Backend> make_gpu_backend(gru::Engine engine, std::string& reason);

/// Memory of a backend, at first zero.
template <typename T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(Backend& backend, std::int64_t size)
      : backend_{&backend},
        size_{size},
        data_{static_cast<T*>(backend.allocate(static_cast<std::size_t>(size) * sizeof(T)))} {}
  Buffer(Backend& backend, std::vector<T> const& values)
      : Buffer{backend, static_cast<std::int64_t>(values.size())} {
    upload(values);
  }
  Buffer(Buffer&& other) noexcept { swap(*this, other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(*this, other);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) backend_->release(data_);
  }

  friend void swap(Buffer& a, Buffer& b) noexcept {
    std::swap(a.backend_, b.backend_);
    std::swap(a.size_, b.size_);
    std::swap(a.data_, b.data_);
  }

  T* data() const { return data_; }
  std::int64_t size() const { return size_; }
  std::size_t bytes() const { return static_cast<std::size_t>(size_) * sizeof(T); }

  void upload(std::vector<T> const& values) {
    backend_->upload(data_, values.data(), values.size() * sizeof(T));
  }
  /// The first `count` values.
  std::vector<T> download(std::int64_t count) const {
    std::vector<T> values(static_cast<std::size_t>(count));
    backend_->download(values.data(), data_, values.size() * sizeof(T));
    return values;
  }
  std::vector<T> download() const { return download(size_); }

 private:
  Backend* backend_ = nullptr;
  std::int64_t size_ = 0;
  T* data_ = nullptr;
};

}  // namespace char_model
