// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gru/version.hpp>

// Code that holds or launches kernels lives in an inline namespace that names the library's version
// and the architectures it was compiled for. Two libraries of one process that were built for
// different ones then keep their own, instead of the loader merging them. nvcc names sm_90 and
// sm_90a alike: what must differ between those is hidden.
#if !defined(__CUDA_ARCH_LIST__)
#error "gru: compile this header as CUDA, with nvcc 12.4 or later"
#endif

// Joins up to 25 tokens with underscores: five, and 20 architectures (CUDA 13.0 has 12).
#define GRU_JOIN(a, b) GRU_JOIN_EXPANDED(a, b)
#define GRU_JOIN_EXPANDED(a, b) a##_##b
#define GRU_CAT_1(a) a
#define GRU_CAT_2(a, ...) GRU_JOIN(a, GRU_CAT_1(__VA_ARGS__))
#define GRU_CAT_3(a, ...) GRU_JOIN(a, GRU_CAT_2(__VA_ARGS__))
#define GRU_CAT_4(a, ...) GRU_JOIN(a, GRU_CAT_3(__VA_ARGS__))
#define GRU_CAT_5(a, ...) GRU_JOIN(a, GRU_CAT_4(__VA_ARGS__))
#define GRU_CAT_6(a, ...) GRU_JOIN(a, GRU_CAT_5(__VA_ARGS__))
#define GRU_CAT_7(a, ...) GRU_JOIN(a, GRU_CAT_6(__VA_ARGS__))
#define GRU_CAT_8(a, ...) GRU_JOIN(a, GRU_CAT_7(__VA_ARGS__))
#define GRU_CAT_9(a, ...) GRU_JOIN(a, GRU_CAT_8(__VA_ARGS__))
#define GRU_CAT_10(a, ...) GRU_JOIN(a, GRU_CAT_9(__VA_ARGS__))
#define GRU_CAT_11(a, ...) GRU_JOIN(a, GRU_CAT_10(__VA_ARGS__))
#define GRU_CAT_12(a, ...) GRU_JOIN(a, GRU_CAT_11(__VA_ARGS__))
#define GRU_CAT_13(a, ...) GRU_JOIN(a, GRU_CAT_12(__VA_ARGS__))
#define GRU_CAT_14(a, ...) GRU_JOIN(a, GRU_CAT_13(__VA_ARGS__))
#define GRU_CAT_15(a, ...) GRU_JOIN(a, GRU_CAT_14(__VA_ARGS__))
#define GRU_CAT_16(a, ...) GRU_JOIN(a, GRU_CAT_15(__VA_ARGS__))
#define GRU_CAT_17(a, ...) GRU_JOIN(a, GRU_CAT_16(__VA_ARGS__))
#define GRU_CAT_18(a, ...) GRU_JOIN(a, GRU_CAT_17(__VA_ARGS__))
#define GRU_CAT_19(a, ...) GRU_JOIN(a, GRU_CAT_18(__VA_ARGS__))
#define GRU_CAT_20(a, ...) GRU_JOIN(a, GRU_CAT_19(__VA_ARGS__))
#define GRU_CAT_21(a, ...) GRU_JOIN(a, GRU_CAT_20(__VA_ARGS__))
#define GRU_CAT_22(a, ...) GRU_JOIN(a, GRU_CAT_21(__VA_ARGS__))
#define GRU_CAT_23(a, ...) GRU_JOIN(a, GRU_CAT_22(__VA_ARGS__))
#define GRU_CAT_24(a, ...) GRU_JOIN(a, GRU_CAT_23(__VA_ARGS__))
#define GRU_CAT_25(a, ...) GRU_JOIN(a, GRU_CAT_24(__VA_ARGS__))
#define GRU_CAT_SELECT(a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15, a16, a17, \
                       a18, a19, a20, a21, a22, a23, a24, a25, name, ...)                          \
  name
#define GRU_CAT_ALL(...)                                                                           \
  GRU_CAT_SELECT(__VA_ARGS__, GRU_CAT_25, GRU_CAT_24, GRU_CAT_23, GRU_CAT_22, GRU_CAT_21,          \
                 GRU_CAT_20, GRU_CAT_19, GRU_CAT_18, GRU_CAT_17, GRU_CAT_16, GRU_CAT_15,           \
                 GRU_CAT_14, GRU_CAT_13, GRU_CAT_12, GRU_CAT_11, GRU_CAT_10, GRU_CAT_9, GRU_CAT_8, \
                 GRU_CAT_7, GRU_CAT_6, GRU_CAT_5, GRU_CAT_4, GRU_CAT_3, GRU_CAT_2, GRU_CAT_1, )    \
  (__VA_ARGS__)

/// gru_0_1_0_sm_750_900, for example.
#define GRU_DEVICE_NAMESPACE \
  GRU_CAT_ALL(gru, GRU_VERSION_MAJOR, GRU_VERSION_MINOR, GRU_VERSION_PATCH, sm, __CUDA_ARCH_LIST__)

/// A kernel that no other shared library of the process sees.
#define GRU_KERNEL [[gnu::visibility("hidden")]] __global__
