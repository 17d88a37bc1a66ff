// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "layer.cuh"

namespace gru::bench {

/// Errors are taken over the first steps: enough for rounding to settle, few enough to be cheap.
inline constexpr std::int64_t kErrorSteps = 50;

/// The largest absolute difference from float64 over the largest absolute value there, of h over
/// all steps and of each gradient. NaN: not compared, or not a number.
struct Errors {
  static constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

  double h = kNone;
  double dx = kNone;
  double dkernel = kNone;
  double drecurrent_kernel = kNone;
  double dbias = kNone;
  double drecurrent_bias = kNone;
  double dh0 = kNone;
};

template <typename T>
__global__ void to_double_kernel(T const* in, double* out, std::int64_t size) {
  std::int64_t const i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
  if (i < size) out[i] = static_cast<double>(static_cast<float>(in[i]));
}

/// The larger of the two in `largest`; NaN is larger than all. For values of at least 0.
__device__ inline void raise(unsigned long long* largest, double value) {
  atomicMax(largest, static_cast<unsigned long long>(__double_as_longlong(value)));
}

/// Raises largest[0] to the largest |value - reference|, largest[1] to the largest |reference|.
template <typename T>
__global__ void compare_kernel(T const* values, double const* reference, std::int64_t size,
                               unsigned long long* largest) {
  double difference = 0;
  double magnitude = 0;
  std::int64_t const stride = gridDim.x * std::int64_t{blockDim.x};
  for (std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x; i < size;
       i += stride) {
    double const d = fabs(static_cast<double>(static_cast<float>(values[i])) - reference[i]);
    difference = isnan(d) || isnan(difference) ? nan("") : fmax(d, difference);
    magnitude = fmax(magnitude, fabs(reference[i]));
  }
  raise(&largest[0], difference);
  raise(&largest[1], magnitude);
}

/// Compares outputs in T with those of the double engine on the same inputs.
template <typename T>
class ErrorMeter {
 public:
  /// Computes the reference: the Problem's first steps, on the data's inputs.
  ErrorMeter(Execution const& execution, LayerData<T> const& data, OptionTensors const* options,
             bool full_lengths, Problem const& problem, Work work)
      : stream_{execution.stream}, problem_{problem}, exact_{first_steps(data.shape)} {
    problem_.steps = exact_.shape.steps;
    convert(data.x, exact_.x);
    convert(data.h0, exact_.h0);
    convert(data.kernel, exact_.kernel);
    convert(data.recurrent_kernel, exact_.recurrent_kernel);
    convert(data.bias, exact_.bias);
    convert(data.recurrent_bias, exact_.recurrent_bias);
    convert(data.dh, exact_.dh);
    convert(data.dfinal_state, exact_.dfinal_state);
    Problem exact_problem = problem_;
    exact_problem.precision = Precision::kFp32;
    Layer<double> const layer{execution, exact_, options, full_lengths, exact_problem, {}, work};
    layer.enqueue();
    check(cudaStreamSynchronize(stream_), "the reference");
  }

  /// The Problem to run for a comparison: the first steps of the whole one.
  Problem const& problem() const { return problem_; }

  /// How far off the data's outputs are.
  Errors compare(LayerData<T> const& data, Work work) const {
    Errors errors;
    errors.h = error_of(data.h, exact_.h);
    if (!goes_backward(work)) return errors;
    errors.dx = error_of(data.dx, exact_.dx);
    errors.dkernel = error_of(data.dkernel, exact_.dkernel);
    errors.drecurrent_kernel = error_of(data.drecurrent_kernel, exact_.drecurrent_kernel);
    errors.dbias = error_of(data.dbias, exact_.dbias);
    errors.drecurrent_bias = error_of(data.drecurrent_bias, exact_.drecurrent_bias);
    errors.dh0 = error_of(data.dh0, exact_.dh0);
    return errors;
  }

 private:
  static Shape first_steps(Shape shape) {
    shape.steps = std::min(shape.steps, kErrorSteps);
    return shape;
  }

  static std::int64_t size_of(DeviceBuffer<double> const& buffer) {
    return static_cast<std::int64_t>(buffer.bytes() / sizeof(double));
  }

  void convert(DeviceBuffer<T> const& from, DeviceBuffer<double> const& to) const {
    std::int64_t const size = size_of(to);
    to_double_kernel<<<blocks_for(size), kThreads, 0, stream_>>>(from.data(), to.data(), size);
    check(cudaGetLastError(), "to_double_kernel");
  }

  double error_of(DeviceBuffer<T> const& values, DeviceBuffer<double> const& reference) const {
    std::int64_t const size = size_of(reference);
    check(cudaMemsetAsync(largest_.data(), 0, largest_.bytes(), stream_), "cudaMemsetAsync");
    unsigned const blocks = std::min(blocks_for(size), 1024u);
    compare_kernel<<<blocks, kThreads, 0, stream_>>>(values.data(), reference.data(), size,
                                                     largest_.data());
    check(cudaGetLastError(), "compare_kernel");
    double largest[2] = {};
    check(
        cudaMemcpyAsync(largest, largest_.data(), sizeof largest, cudaMemcpyDeviceToHost, stream_),
        "cudaMemcpyAsync");
    check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    return largest[0] == 0 ? 0 : largest[0] / largest[1];
  }

  cudaStream_t stream_;
  Problem problem_;
  LayerData<double> exact_;
  DeviceBuffer<unsigned long long> largest_{2};
};

}  // namespace gru::bench
