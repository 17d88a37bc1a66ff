// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gru/version.hpp>

// Code that holds or launches kernels lives in an inline namespace that names the library's version
// and the architectures it was compiled for. Two libraries of one process that were built for
// different ones then keep their own, instead of the loader merging them.
#if !defined(__CUDA_ARCH_LIST__)
#error "gru: compile this header as CUDA, with nvcc 12.4 or later"
#endif

#define GRU_CAT_1(a) a
#define GRU_CAT_2(a, b) a##_##b
#define GRU_CAT_3(a, b, c) a##_##b##_##c
#define GRU_CAT_4(a, b, c, d) a##_##b##_##c##_##d
#define GRU_CAT_5(a, b, c, d, e) a##_##b##_##c##_##d##_##e
#define GRU_CAT_6(a, b, c, d, e, f) a##_##b##_##c##_##d##_##e##_##f
#define GRU_CAT_7(a, b, c, d, e, f, g) a##_##b##_##c##_##d##_##e##_##f##_##g
#define GRU_CAT_8(a, b, c, d, e, f, g, h) a##_##b##_##c##_##d##_##e##_##f##_##g##_##h
#define GRU_CAT_9(a, b, c, d, e, f, g, h, i) a##_##b##_##c##_##d##_##e##_##f##_##g##_##h##_##i
#define GRU_CAT_10(a, b, c, d, e, f, g, h, i, j) \
  a##_##b##_##c##_##d##_##e##_##f##_##g##_##h##_##i##_##j
#define GRU_CAT_11(a, b, c, d, e, f, g, h, i, j, k) \
  a##_##b##_##c##_##d##_##e##_##f##_##g##_##h##_##i##_##j##_##k
#define GRU_CAT_12(a, b, c, d, e, f, g, h, i, j, k, l) \
  a##_##b##_##c##_##d##_##e##_##f##_##g##_##h##_##i##_##j##_##k##_##l
#define GRU_CAT_13(a, b, c, d, e, f, g, h, i, j, k, l, m) \
  a##_##b##_##c##_##d##_##e##_##f##_##g##_##h##_##i##_##j##_##k##_##l##_##m
#define GRU_CAT_14(a, b, c, d, e, f, g, h, i, j, k, l, m, n) \
  a##_##b##_##c##_##d##_##e##_##f##_##g##_##h##_##i##_##j##_##k##_##l##_##m##_##n
#define GRU_CAT_SELECT(a, b, c, d, e, f, g, h, i, j, k, l, m, n, name, ...) name
#define GRU_CAT_ALL(...)                                                                      \
  GRU_CAT_SELECT(__VA_ARGS__, GRU_CAT_14, GRU_CAT_13, GRU_CAT_12, GRU_CAT_11, GRU_CAT_10,     \
                 GRU_CAT_9, GRU_CAT_8, GRU_CAT_7, GRU_CAT_6, GRU_CAT_5, GRU_CAT_4, GRU_CAT_3, \
                 GRU_CAT_2, GRU_CAT_1, )                                                      \
  (__VA_ARGS__)

/// gru_0_1_0_sm_750_900, for example.
#define GRU_DEVICE_NAMESPACE \
  GRU_CAT_ALL(gru, GRU_VERSION_MAJOR, GRU_VERSION_MINOR, GRU_VERSION_PATCH, sm, __CUDA_ARCH_LIST__)

/// A kernel that no other shared library of the process sees.
#define GRU_KERNEL [[gnu::visibility("hidden")]] __global__
