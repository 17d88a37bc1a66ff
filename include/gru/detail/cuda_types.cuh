// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <gru/detail/convert.hpp>

namespace gru::detail {

template <>
struct Converter<float, __half> {
  GRU_HOST_DEVICE static float apply(__half value) { return __half2float(value); }
};

template <>
struct Converter<__half, float> {
  GRU_HOST_DEVICE static __half apply(float value) { return __float2half_rn(value); }
};

template <>
struct Converter<float, __nv_bfloat16> {
  GRU_HOST_DEVICE static float apply(__nv_bfloat16 value) { return __bfloat162float(value); }
};

template <>
struct Converter<__nv_bfloat16, float> {
  GRU_HOST_DEVICE static __nv_bfloat16 apply(float value) { return __float2bfloat16_rn(value); }
};

template <typename T>
inline constexpr bool kIsDeviceType = false;
template <>
inline constexpr bool kIsDeviceType<float> = true;
template <>
inline constexpr bool kIsDeviceType<double> = true;
template <>
inline constexpr bool kIsDeviceType<__half> = true;
template <>
inline constexpr bool kIsDeviceType<__nv_bfloat16> = true;

/// cuBLAS's name of a type.
template <typename T>
inline constexpr cudaDataType_t kCudaType = CUDA_R_32F;
template <>
inline constexpr cudaDataType_t kCudaType<double> = CUDA_R_64F;
template <>
inline constexpr cudaDataType_t kCudaType<__half> = CUDA_R_16F;
template <>
inline constexpr cudaDataType_t kCudaType<__nv_bfloat16> = CUDA_R_16BF;

}  // namespace gru::detail
