// SPDX-License-Identifier: Apache-2.0
#include "cudnn_peer.hpp"

#include <cudnn.h>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <stdexcept>

#include "device.cuh"

namespace gru::bench {
namespace {

void check(cudnnStatus_t status, char const* what) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  static_cast<void>(cudaGetLastError());  // the status says it all
  std::string const message = std::string{what} + ": " + cudnnGetErrorString(status);
  // 3000 to 3999: this one and its kinds.
  bool const refuses = status / 1000 == CUDNN_STATUS_NOT_SUPPORTED / 1000;
  if (refuses) throw PeerRefuses{message};
  throw std::runtime_error{message};
}

/// A descriptor or handle of cuDNN that is created and destroyed by the functions given.
template <typename Handle, cudnnStatus_t (*create)(Handle*), cudnnStatus_t (*destroy)(Handle)>
class Owned {
 public:
  Owned() { check(create(&handle_), "creating a descriptor of cuDNN"); }
  Owned(Owned const&) = delete;
  Owned& operator=(Owned const&) = delete;
  ~Owned() { destroy(handle_); }

  operator Handle() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};

using Handle = Owned<cudnnHandle_t, cudnnCreate, cudnnDestroy>;
using RnnDescriptor =
    Owned<cudnnRNNDescriptor_t, cudnnCreateRNNDescriptor, cudnnDestroyRNNDescriptor>;
using DropoutDescriptor =
    Owned<cudnnDropoutDescriptor_t, cudnnCreateDropoutDescriptor, cudnnDestroyDropoutDescriptor>;
using DataDescriptor =
    Owned<cudnnRNNDataDescriptor_t, cudnnCreateRNNDataDescriptor, cudnnDestroyRNNDataDescriptor>;
using TensorDescriptor =
    Owned<cudnnTensorDescriptor_t, cudnnCreateTensorDescriptor, cudnnDestroyTensorDescriptor>;

struct Algorithm {
  char const* name;
  cudnnRNNAlgo_t value;
};

constexpr Algorithm kAlgorithms[] = {
    {"standard", CUDNN_RNN_ALGO_STANDARD},
    {"persist_static", CUDNN_RNN_ALGO_PERSIST_STATIC},
    {"persist_dynamic", CUDNN_RNN_ALGO_PERSIST_DYNAMIC},
    {"persist_small_h", CUDNN_RNN_ALGO_PERSIST_STATIC_SMALL_H},
};

cudnnRNNAlgo_t algorithm_named(std::string const& name) {
  for (Algorithm const& algorithm : kAlgorithms) {
    if (name == algorithm.name) return algorithm.value;
  }
  throw std::runtime_error{"cuDNN has no algorithm " + name};
}

cudnnDataType_t data_type(Type type) {
  switch (type) {
    case Type::kFp16:
      return CUDNN_DATA_HALF;
    case Type::kBf16:
      return CUDNN_DATA_BFLOAT16;
    default:
      return CUDNN_DATA_FLOAT;
  }
}

constexpr int kGates = 3;
/// cuDNN's number of the gates z, r, g.
constexpr int kGateInCudnn[kGates] = {1, 0, 2};

/// Copies one gate between ours [rows, 3H], at the gate's first column, and cuDNN's [H, rows].
template <typename Word>
__global__ void copy_gate_kernel(Word* ours, Word* cudnn, std::int64_t rows, std::int64_t H,
                                 bool to_cudnn) {
  std::int64_t const i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
  if (i >= rows * H) return;
  std::int64_t const row = i / H;
  std::int64_t const unit = i % H;
  Word& here = ours[row * kGates * H + unit];
  Word& there = cudnn[unit * rows + row];
  if (to_cudnn) {
    there = here;
  } else {
    here = there;
  }
}

/// Where the matrix and the bias of one gate lie in cuDNN's block of weights.
struct GateAddresses {
  void* matrix = nullptr;
  void* bias = nullptr;
};

class CudnnRun : public PeerRun {
 public:
  CudnnRun(cudnnHandle_t handle, cudnnRNNDescriptor_t rnn, Type type, Shape const& shape,
           DeviceBuffer<std::byte> const& weights, DeviceBuffer<std::byte> const& dweights,
           PeerTensors const& tensors)
      : handle_{handle}, rnn_{rnn}, weights_{weights}, dweights_{dweights}, tensors_{tensors} {
    int const T = static_cast<int>(shape.steps);
    int const N = static_cast<int>(shape.batch);
    int const H = static_cast<int>(shape.hidden_size);
    std::vector<int> const lengths(shape.batch, T);
    auto const describe_data = [&](cudnnRNNDataDescriptor_t descriptor, std::int64_t width) {
      check(cudnnSetRNNDataDescriptor(descriptor, data_type(type),
                                      CUDNN_RNN_DATA_LAYOUT_SEQ_MAJOR_PACKED, T, N,
                                      static_cast<int>(width), lengths.data(), nullptr),
            "cudnnSetRNNDataDescriptor");
    };
    describe_data(x_, shape.input_size);
    describe_data(h_, shape.hidden_size);
    int const extents[] = {1, N, H};
    int const strides[] = {N * H, H, 1};
    check(cudnnSetTensorNdDescriptor(state_, data_type(type), 3, extents, strides),
          "cudnnSetTensorNdDescriptor");
    std::size_t none = 0;
    check(cudnnGetRNNTempSpaceSizes(handle, rnn, CUDNN_FWD_MODE_INFERENCE, x_,
                                    &inference_workspace_bytes_, &none),
          "cudnnGetRNNTempSpaceSizes");
    std::size_t training_bytes = 0;
    std::size_t reserve_bytes = 0;
    check(cudnnGetRNNTempSpaceSizes(handle, rnn, CUDNN_FWD_MODE_TRAINING, x_, &training_bytes,
                                    &reserve_bytes),
          "cudnnGetRNNTempSpaceSizes");
    workspace_.emplace(
        static_cast<std::int64_t>(std::max(inference_workspace_bytes_, training_bytes)));
    reserve_.emplace(static_cast<std::int64_t>(reserve_bytes));
    lengths_.emplace(shape.batch);
    bench::check(
        cudaMemcpy(lengths_->data(), lengths.data(), lengths_->bytes(), cudaMemcpyHostToDevice),
        "cudaMemcpy");
  }

  void enqueue(Work work) const override {
    if (work == Work::kInference) forward(CUDNN_FWD_MODE_INFERENCE);
    if (work == Work::kForward || work == Work::kTrainingStep) forward(CUDNN_FWD_MODE_TRAINING);
    if (goes_backward(work)) backward();
  }

  Memory memory_of(Work work) const override {
    if (work == Work::kInference) return {inference_workspace_bytes_, 0};
    return {workspace_->bytes(), reserve_->bytes()};
  }

 private:
  void forward(cudnnForwardMode_t mode) const {
    bool const training = mode == CUDNN_FWD_MODE_TRAINING;
    check(
        cudnnRNNForward(handle_, rnn_, mode, lengths_->data(), x_, tensors_.x, h_, tensors_.h,
                        state_, tensors_.h0, tensors_.final_state, nullptr, nullptr, nullptr,
                        weights_.bytes(), weights_.data(), workspace_->bytes(), workspace_->data(),
                        training ? reserve_->bytes() : 0, training ? reserve_->data() : nullptr),
        "cudnnRNNForward");
  }

  void backward() const {
    check(cudnnRNNBackwardData_v8(handle_, rnn_, lengths_->data(), h_, tensors_.h, tensors_.dh, x_,
                                  tensors_.dx, state_, tensors_.h0, tensors_.dfinal_state,
                                  tensors_.dh0, nullptr, nullptr, nullptr, nullptr,
                                  weights_.bytes(), weights_.data(), workspace_->bytes(),
                                  workspace_->data(), reserve_->bytes(), reserve_->data()),
          "cudnnRNNBackwardData_v8");
    check(cudnnRNNBackwardWeights_v8(handle_, rnn_, CUDNN_WGRAD_MODE_ADD, lengths_->data(), x_,
                                     tensors_.x, state_, tensors_.h0, h_, tensors_.h,
                                     dweights_.bytes(), dweights_.data(), workspace_->bytes(),
                                     workspace_->data(), reserve_->bytes(), reserve_->data()),
          "cudnnRNNBackwardWeights_v8");
  }

  cudnnHandle_t handle_;
  cudnnRNNDescriptor_t rnn_;
  DeviceBuffer<std::byte> const& weights_;
  DeviceBuffer<std::byte> const& dweights_;
  PeerTensors tensors_;
  DataDescriptor x_;
  DataDescriptor h_;
  TensorDescriptor state_;
  std::size_t inference_workspace_bytes_ = 0;
  std::optional<DeviceBuffer<std::byte>> workspace_;
  std::optional<DeviceBuffer<std::byte>> reserve_;
  std::optional<DeviceBuffer<int>> lengths_;
};

class CudnnPeer : public Peer {
 public:
  CudnnPeer(cudnnHandle_t handle, cudaStream_t stream, cudnnRNNAlgo_t algorithm, Type type,
            Shape const& shape, PeerWeights const& weights)
      : handle_{handle}, stream_{stream}, type_{type}, shape_{shape} {
    int const C = static_cast<int>(shape.input_size);
    int const H = static_cast<int>(shape.hidden_size);
    check(cudnnSetDropoutDescriptor(dropout_, handle, 0, nullptr, 0, 0),
          "cudnnSetDropoutDescriptor");
    // Sums and the cell are in float for every type.
    check(cudnnSetRNNDescriptor_v8(rnn_, algorithm, CUDNN_GRU, CUDNN_RNN_DOUBLE_BIAS,
                                   CUDNN_UNIDIRECTIONAL, CUDNN_LINEAR_INPUT, data_type(type),
                                   CUDNN_DATA_FLOAT,
                                   type == Type::kFp32 ? CUDNN_FMA_MATH : CUDNN_TENSOR_OP_MATH, C,
                                   H, H, 1, dropout_, CUDNN_RNN_PADDED_IO_DISABLED),
          "cudnnSetRNNDescriptor_v8");
    if (algorithm == CUDNN_RNN_ALGO_PERSIST_DYNAMIC) {
      check(cudnnBuildRNNDynamic(handle, rnn_, static_cast<int>(shape.batch)),
            "cudnnBuildRNNDynamic");
    }
    std::size_t bytes = 0;
    check(cudnnGetRNNWeightSpaceSize(handle, rnn_, &bytes), "cudnnGetRNNWeightSpaceSize");
    weights_.emplace(static_cast<std::int64_t>(bytes));
    dweights_.emplace(static_cast<std::int64_t>(bytes));
    clear_weight_gradients();
    // The copies write cuDNN's block alone.
    copy_all(*weights_,
             {const_cast<void*>(weights.kernel), const_cast<void*>(weights.recurrent_kernel),
              const_cast<void*>(weights.bias), const_cast<void*>(weights.recurrent_bias)},
             true);
  }

  std::unique_ptr<PeerRun> bind(std::int64_t steps, PeerTensors const& tensors) const override {
    Shape shape = shape_;
    shape.steps = steps;
    return std::make_unique<CudnnRun>(handle_, rnn_, type_, shape, *weights_, *dweights_, tensors);
  }

  void clear_weight_gradients() const override {
    bench::check(cudaMemsetAsync(dweights_->data(), 0, dweights_->bytes(), stream_),
                 "cudaMemsetAsync");
  }

  void read_weight_gradients(PeerWeightGradients const& gradients) const override {
    copy_all(*dweights_, gradients, false);
  }

 private:
  /// Converts between a block of cuDNN's and our four tensors.
  void copy_all(DeviceBuffer<std::byte> const& block, PeerWeightGradients const& ours,
                bool to_cudnn) const {
    for (int gate = 0; gate < kGates; ++gate) {
      GateAddresses const input = addresses(block, kGateInCudnn[gate]);
      GateAddresses const recurrent = addresses(block, kGateInCudnn[gate] + kGates);
      copy_gate(ours.dkernel, input.matrix, shape_.input_size, gate, to_cudnn);
      copy_gate(ours.drecurrent_kernel, recurrent.matrix, shape_.hidden_size, gate, to_cudnn);
      copy_gate(ours.dbias, input.bias, 1, gate, to_cudnn);
      copy_gate(ours.drecurrent_bias, recurrent.bias, 1, gate, to_cudnn);
    }
  }

  GateAddresses addresses(DeviceBuffer<std::byte> const& block, int matrix_number) const {
    TensorDescriptor matrix;
    TensorDescriptor bias;
    GateAddresses found;
    check(cudnnGetRNNWeightParams(handle_, rnn_, 0, block.bytes(), block.data(), matrix_number,
                                  matrix, &found.matrix, bias, &found.bias),
          "cudnnGetRNNWeightParams");
    return found;
  }

  void copy_gate(void* ours, void* cudnn, std::int64_t rows, int gate, bool to_cudnn) const {
    if (bytes_of(type_) == 2) {
      copy_gate_words<std::uint16_t>(ours, cudnn, rows, gate, to_cudnn);
    } else {
      copy_gate_words<std::uint32_t>(ours, cudnn, rows, gate, to_cudnn);
    }
  }

  template <typename Word>
  void copy_gate_words(void* ours, void* cudnn, std::int64_t rows, int gate, bool to_cudnn) const {
    std::int64_t const H = shape_.hidden_size;
    constexpr unsigned kThreads = 256;
    auto const blocks = static_cast<unsigned>((rows * H + kThreads - 1) / kThreads);
    copy_gate_kernel<<<blocks, kThreads, 0, stream_>>>(
        static_cast<Word*>(ours) + gate * H, static_cast<Word*>(cudnn), rows, H, to_cudnn);
    bench::check(cudaGetLastError(), "copy_gate_kernel");
  }

  cudnnHandle_t handle_;
  cudaStream_t stream_;
  Type type_;
  Shape shape_;
  DropoutDescriptor dropout_;
  RnnDescriptor rnn_;
  std::optional<DeviceBuffer<std::byte>> weights_;
  std::optional<DeviceBuffer<std::byte>> dweights_;
};

class Cudnn : public PeerLibrary {
 public:
  explicit Cudnn(cudaStream_t stream) : stream_{stream} {
    check(cudnnSetStream(handle_, stream), "cudnnSetStream");
  }

  std::string version() const override {
    std::size_t const packed = cudnnGetVersion();  // 91900 is 9.19.0
    return std::to_string(packed / 10000) + '.' + std::to_string(packed / 100 % 100) + '.' +
           std::to_string(packed % 100);
  }

  std::vector<std::string> algorithms() const override {
    std::vector<std::string> names;
    for (Algorithm const& algorithm : kAlgorithms) names.emplace_back(algorithm.name);
    return names;
  }

  std::unique_ptr<Peer> make(std::string const& algorithm, Type type, Shape const& shape,
                             PeerWeights const& weights) const override {
    return std::make_unique<CudnnPeer>(handle_, stream_, algorithm_named(algorithm), type, shape,
                                       weights);
  }

 private:
  cudaStream_t stream_;
  Handle handle_;
};

}  // namespace

std::unique_ptr<PeerLibrary> make_cudnn(cudaStream_t stream) {
  return std::make_unique<Cudnn>(stream);
}

}  // namespace gru::bench
