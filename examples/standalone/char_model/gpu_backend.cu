// SPDX-License-Identifier: Apache-2.0
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <gru/gru.cuh>

#include <cmath>
#include <limits>
#include <stdexcept>

#include "backend.hpp"
#include "passes.hpp"

namespace char_model {
namespace {

// ---- Errors -------------------------------------------------------------------------------------

void check(cudaError_t status, char const* what) {
  if (status == cudaSuccess) return;
  throw std::runtime_error{std::string{what} + ": " + cudaGetErrorString(status)};
}

void check(cublasStatus_t status, char const* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw std::runtime_error{std::string{what} + ": " + cublasGetStatusString(status)};
}

void check_launch(char const* kernel) {
  check(cudaGetLastError(), kernel);
}

// ---- Kernels: no atomics, so that a run can be repeated bit by bit ------------------------------

constexpr int kThreads = 256;  // a block's
constexpr int kWarp = 32;
constexpr int kPartialSums = 128;

__device__ std::int64_t global_thread() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

__global__ void read_window_kernel(WindowRead w) {
  std::int64_t const row = global_thread();
  if (row >= w.steps * w.batch) return;
  std::int64_t const column = (w.cursor + row / w.batch) % w.text.stream_length;
  std::int64_t const position = row % w.batch * w.text.stream_length + column;
  w.tokens[row] = w.text.tokens[position];
  w.targets[row] = w.text.tokens[position + 1];
  w.starts[row] = column == 0 || w.text.starts[position] != 0;
}

__global__ void read_lines_kernel(LinesRead r) {
  std::int64_t const row = global_thread();
  if (row >= r.steps * r.batch) return;
  std::int64_t const t = row / r.batch;
  std::int64_t const n = row % r.batch;
  std::int64_t const line = (r.first + n) % r.lines.count;
  std::int64_t const position = r.lines.begins[line] + t;
  std::int32_t const length = r.lines.lengths[line];
  r.tokens[row] = t < length ? r.lines.tokens[position] : 0;
  r.targets[row] = t < length ? r.lines.tokens[position + 1] : kNoTarget;
  if (t == 0) r.lengths[n] = length;
}

__global__ void embed_kernel(Embedding e) {
  std::int64_t const i = global_thread();
  if (i >= e.rows * e.width) return;
  e.output[i] = e.table[e.tokens[i / e.width] * e.width + i % e.width];
}

/// One thread a value of the table, which looks through all rows for its token.
__global__ void embed_backward_kernel(EmbeddingBackward e) {
  std::int64_t const i = global_thread();
  if (i >= e.vocabulary * e.width) return;
  std::int64_t const token = i / e.width;
  std::int64_t const column = i % e.width;
  float sum = 0;
  for (std::int64_t row = 0; row < e.rows; ++row) {
    if (e.tokens[row] == token) sum += e.doutput[row * e.width + column];
  }
  e.dtable[i] = sum;
}

__global__ void broadcast_kernel(float const* row, std::int64_t width, std::int64_t count,
                                 float* output) {
  std::int64_t const i = global_thread();
  if (i < count) output[i] = row[i % width];
}

__device__ float warp_max(float value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, distance));
  }
  return value;
}

__device__ float warp_sum(float value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  }
  return value;
}

/// One warp a row.
__global__ void cross_entropy_kernel(CrossEntropy c) {
  std::int64_t const row = global_thread() / kWarp;
  int const lane = threadIdx.x % kWarp;
  if (row >= c.rows) return;
  float* const logits = c.logits + row * c.classes;
  int const target = c.targets[row];
  if (target == kNoTarget) {
    if (lane == 0) c.row_losses[row] = 0;
    for (std::int64_t i = lane; i < c.classes; i += kWarp) logits[i] = 0;
    return;
  }
  float const target_logit = logits[target];
  float largest = -INFINITY;
  for (std::int64_t i = lane; i < c.classes; i += kWarp) largest = fmaxf(largest, logits[i]);
  largest = warp_max(largest);
  float sum = 0;
  for (std::int64_t i = lane; i < c.classes; i += kWarp) sum += expf(logits[i] - largest);
  sum = warp_sum(sum);
  if (lane == 0) c.row_losses[row] = static_cast<double>(logf(sum) - (target_logit - largest));
  __syncwarp();  // every lane has read target_logit
  for (std::int64_t i = lane; i < c.classes; i += kWarp) {
    float const probability = expf(logits[i] - largest) / sum;
    logits[i] = probability - (i == target ? 1.0f : 0.0f);
  }
}

/// The sum over a block's threads, in thread 0.
__device__ double block_sum(double value) {
  __shared__ double sums[kThreads];
  sums[threadIdx.x] = value;
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  return sums[0];
}

/// output[block] = the sum of the squares of the block's share of the values.
__global__ void squares_kernel(float const* values, std::int64_t count, double* output) {
  std::int64_t const stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  double sum = 0;
  for (std::int64_t i = global_thread(); i < count; i += stride) {
    double const value = values[i];
    sum += value * value;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) output[blockIdx.x] = sum;
}

/// One block: *output = scale * the sum of the values.
__global__ void sum_kernel(double const* values, std::int64_t count, double scale, double* output) {
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < count; i += blockDim.x) sum += values[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *output = scale * sum;
}

/// What is the same for all values in a step of Adam.
struct AdamScales {
  float rate;
  float second_scale;
};

__global__ void adam_kernel(AdamStep a, AdamScales scales, double const* squared_norm) {
  std::int64_t const i = global_thread();
  if (i >= a.count) return;
  double const norm = a.gradient_scale * sqrt(*squared_norm);
  bool const clipped = a.clip > 0 && norm > a.clip;
  double const scale = a.gradient_scale * (clipped ? a.clip / norm : 1.0);
  float const g = a.gradient[i] * static_cast<float>(scale);
  auto const beta1 = static_cast<float>(a.beta1);
  auto const beta2 = static_cast<float>(a.beta2);
  float const first = beta1 * a.first_moment[i] + (1 - beta1) * g;
  float const second = beta2 * a.second_moment[i] + (1 - beta2) * g * g;
  a.first_moment[i] = first;
  a.second_moment[i] = second;
  a.value[i] -=
      scales.rate * first / (sqrtf(scales.second_scale * second) + static_cast<float>(a.epsilon));
}

template <typename From, typename To>
__global__ void convert_kernel(From const* from, To* to, std::int64_t count) {
  std::int64_t const i = global_thread();
  if (i < count) to[i] = static_cast<To>(from[i]);
}

unsigned blocks_for(std::int64_t threads) {
  std::int64_t const blocks = (threads + kThreads - 1) / kThreads;
  if (blocks > std::numeric_limits<int>::max()) throw std::runtime_error{"too large for one grid"};
  return static_cast<unsigned>(blocks);
}

int extent(std::int64_t size) {
  if (size > std::numeric_limits<int>::max()) throw std::runtime_error{"too large for cuBLAS"};
  return static_cast<int>(size);
}

// ---- Stream and cuBLAS handle, destroyed with the backend ---------------------------------------

class Stream {
 public:
  Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream"); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(Stream const&) = delete;
  Stream& operator=(Stream const&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class Blas {
 public:
  explicit Blas(cudaStream_t stream) {
    check(cublasCreate(&handle_), "a cuBLAS handle");
    try {
      check(cublasSetStream(handle_, stream), "cublasSetStream");
    } catch (...) {
      cublasDestroy(handle_);
      throw;
    }
  }
  ~Blas() { cublasDestroy(handle_); }
  Blas(Blas const&) = delete;
  Blas& operator=(Blas const&) = delete;
  cublasHandle_t get() const { return handle_; }

 private:
  cublasHandle_t handle_ = nullptr;
};

// ---- The backend --------------------------------------------------------------------------------

/// The library's device passes.
struct GpuLibrary {
  template <typename T>
  using ForwardPass = gru::ForwardPass<T>;
  template <typename T>
  using BackwardPass = gru::BackwardPass<T>;

  gru::Execution execution;

  template <typename From, typename To>
  void convert(From const* from, To* to, std::int64_t count) const {
    convert_kernel<<<blocks_for(count), kThreads, 0, execution.stream>>>(from, to, count);
    check_launch("convert_kernel");
  }
};

class GpuBackend final : public Backend {
 public:
  explicit GpuBackend(gru::Engine engine)
      : engine_{engine}, partial_sums_{*this, kPartialSums}, squared_norm_{*this, 1} {}

  std::string description() const override {
    int device = 0;
    cudaDeviceProp properties{};
    check(cudaGetDevice(&device), "cudaGetDevice");
    check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
    return properties.name;
  }

  void* allocate(std::size_t bytes) override {
    if (bytes == 0) return nullptr;
    void* memory = nullptr;
    check(cudaMalloc(&memory, bytes), "cudaMalloc");
    check(cudaMemsetAsync(memory, 0, bytes, stream_.get()), "cudaMemsetAsync");
    return memory;
  }

  void release(void* memory) noexcept override { cudaFree(memory); }

  void upload(void* to, void const* from, std::size_t bytes) override {
    copy(to, from, bytes, cudaMemcpyHostToDevice);
  }

  void download(void* to, void const* from, std::size_t bytes) override {
    copy(to, from, bytes, cudaMemcpyDeviceToHost);
  }

  std::unique_ptr<GruPasses> make_gru(gru::Problem const& layer, DataType type) override {
    gru::Problem problem = layer;
    problem.engine = engine_;
    GpuLibrary library;
    library.execution.blas = blas_.get();
    library.execution.stream = stream_.get();
    return make_passes<__half, __nv_bfloat16>(*this, library, problem, type);
  }

  void read_window(WindowRead const& w) override {
    read_window_kernel<<<blocks_for(w.steps * w.batch), kThreads, 0, stream_.get()>>>(w);
    check_launch("read_window_kernel");
  }

  void read_lines(LinesRead const& r) override {
    read_lines_kernel<<<blocks_for(r.steps * r.batch), kThreads, 0, stream_.get()>>>(r);
    check_launch("read_lines_kernel");
  }

  void embed(Embedding const& e) override {
    embed_kernel<<<blocks_for(e.rows * e.width), kThreads, 0, stream_.get()>>>(e);
    check_launch("embed_kernel");
  }

  void embed_backward(EmbeddingBackward const& e) override {
    embed_backward_kernel<<<blocks_for(e.vocabulary * e.width), kThreads, 0, stream_.get()>>>(e);
    check_launch("embed_backward_kernel");
  }

  // cuBLAS is column-major: it sees each of our row-major matrices transposed.

  void linear(Linear const& l) override {
    std::int64_t const count = l.rows * l.outputs;
    broadcast_kernel<<<blocks_for(count), kThreads, 0, stream_.get()>>>(l.bias, l.outputs, count,
                                                                        l.y);
    check_launch("broadcast_kernel");
    float const one = 1;
    check(cublasSgemm(blas_.get(), CUBLAS_OP_T, CUBLAS_OP_N, extent(l.outputs), extent(l.rows),
                      extent(l.inputs), &one, l.weight, extent(l.inputs), l.x, extent(l.inputs),
                      &one, l.y, extent(l.outputs)),
          "the linear layer");
  }

  void linear_backward(LinearBackward const& l) override {
    int const rows = extent(l.rows);
    int const inputs = extent(l.inputs);
    int const outputs = extent(l.outputs);
    float const one = 1;
    float const zero = 0;
    check(cublasSgemm(blas_.get(), CUBLAS_OP_N, CUBLAS_OP_N, inputs, rows, outputs, &one, l.weight,
                      inputs, l.dy, outputs, &zero, l.dx, inputs),
          "the linear layer's input gradient");
    check(cublasSgemm(blas_.get(), CUBLAS_OP_N, CUBLAS_OP_T, inputs, outputs, rows, &one, l.x,
                      inputs, l.dy, outputs, &zero, l.dweight, inputs),
          "the linear layer's weight gradient");
    check(cublasSgemv(blas_.get(), CUBLAS_OP_N, outputs, rows, &one, l.dy, outputs, ones(l.rows), 1,
                      &zero, l.dbias, 1),
          "the linear layer's bias gradient");
  }

  void cross_entropy(CrossEntropy const& c) override {
    cross_entropy_kernel<<<blocks_for(c.rows * kWarp), kThreads, 0, stream_.get()>>>(c);
    check_launch("cross_entropy_kernel");
    double const scale = 1.0 / static_cast<double>(c.target_count);
    sum_kernel<<<1, kThreads, 0, stream_.get()>>>(c.row_losses, c.rows, scale, c.loss);
    check_launch("sum_kernel");
  }

  void adam(AdamStep const& a) override {
    squares_kernel<<<kPartialSums, kThreads, 0, stream_.get()>>>(a.gradient, a.count,
                                                                 partial_sums_.data());
    check_launch("squares_kernel");
    sum_kernel<<<1, kThreads, 0, stream_.get()>>>(partial_sums_.data(), kPartialSums, 1,
                                                  squared_norm_.data());
    check_launch("sum_kernel");
    auto const step = static_cast<double>(a.iteration);
    AdamScales const scales{static_cast<float>(a.rate / (1 - std::pow(a.beta1, step))),
                            static_cast<float>(1 / (1 - std::pow(a.beta2, step)))};
    adam_kernel<<<blocks_for(a.count), kThreads, 0, stream_.get()>>>(a, scales,
                                                                     squared_norm_.data());
    check_launch("adam_kernel");
  }

 private:
  void copy(void* to, void const* from, std::size_t bytes, cudaMemcpyKind kind) {
    if (bytes == 0) return;
    check(cudaMemcpyAsync(to, from, bytes, kind, stream_.get()), "cudaMemcpyAsync");
    check(cudaStreamSynchronize(stream_.get()), "cudaStreamSynchronize");
  }

  float const* ones(std::int64_t count) {
    if (ones_.size() < count) {
      ones_ = Buffer<float>{*this, std::vector<float>(static_cast<std::size_t>(count), 1.0f)};
    }
    return ones_.data();
  }

  gru::Engine engine_;
  Stream stream_;
  Blas blas_{stream_.get()};
  Buffer<double> partial_sums_;
  Buffer<double> squared_norm_;
  Buffer<float> ones_;
};

}  // namespace

std::unique_ptr<Backend> make_gpu_backend(gru::Engine engine, std::string& reason) {
  int devices = 0;
  cudaError_t const status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess || devices == 0) {
    reason = status != cudaSuccess ? cudaGetErrorString(status) : "no CUDA device";
    cudaGetLastError();  // forget the error
    return nullptr;
  }
  cudaFuncAttributes attributes{};
  if (cudaFuncGetAttributes(&attributes, adam_kernel) != cudaSuccess) {
    reason = "built for other GPUs";
    cudaGetLastError();
    return nullptr;
  }
  return std::make_unique<GpuBackend>(engine);
}

}  // namespace char_model
