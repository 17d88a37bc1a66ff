// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the language cannot say: the same function compiled for host and device.
#if defined(__CUDACC__)
#define GRU_HOST_DEVICE __host__ __device__
#else
#define GRU_HOST_DEVICE
#endif
