// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <gru/detail/device_namespace.cuh>

/// The instructions that CUDA C++ has no names for. Shared-memory addresses are 32-bit: of this
/// block's own window, or of a window in the cluster where said so.
namespace gru::detail::ptx {
inline namespace GRU_DEVICE_NAMESPACE {

__device__ inline std::uint32_t shared_address(void const* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

struct Words4 {
  std::uint32_t x, y, z, w;
};

/// 16 bytes of shared memory, aligned to 16.
__device__ inline Words4 load_shared_16(std::uint32_t address) {
  Words4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address));
  return v;
}

__device__ inline float4 as_floats(Words4 const& v) {
  return make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z),
                     __uint_as_float(v.w));
}

/// A pair of floats of shared memory, aligned to 8.
__device__ inline float2 load_shared_pair(std::uint32_t address) {
  float2 v;
  asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(address) : "memory");
  return v;
}

__device__ inline float load_shared(std::uint32_t address) {
  float v;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(address) : "memory");
  return v;
}

__device__ inline void store_shared(std::uint32_t address, std::uint32_t word) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(word) : "memory");
}
__device__ inline void store_shared(std::uint32_t address, uint2 words) {
  asm volatile("st.shared.v2.u32 [%0], {%1,%2};" ::"r"(address), "r"(words.x), "r"(words.y)
               : "memory");
}

__device__ inline void store_shared_pair(std::uint32_t address, float first, float second) {
  asm volatile("st.shared.v2.f32 [%0], {%1,%2};" ::"r"(address), "f"(first), "f"(second)
               : "memory");
}

/// Keeps a value in a register, where the compiler would compute it again and again.
__device__ inline void keep(std::uint32_t& value) {
  asm volatile("" : "+r"(value));
}

/// A byte of global memory. The load is not waited for where it stands, but where it is used.
__device__ inline std::uint32_t load_byte(std::uint8_t const* from) {
  std::uint32_t value;
  asm volatile("ld.global.nc.u8 %0, [%1];" : "=r"(value) : "l"(from));
  return value;
}

/// Brings the line of an address into the L2 cache.
__device__ inline void prefetch(void const* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

/// In a kernel that was launched early: waits until the kernel enqueued before it has ended, and
/// all that this waited for, and sees what they wrote. Otherwise returns at once.
__device__ inline void wait_for_kernel_before() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Starts a copy of `kBytes` (4, 8 or 16) bytes from global to shared memory.
template <int kBytes>
__device__ void copy_async(std::uint32_t to, void const* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from), "n"(kBytes)
               : "memory");
}

/// The same where `copies`, without a branch.
template <int kBytes>
__device__ void copy_async_if(bool copies, std::uint32_t to, void const* from) {
  asm volatile(
      "{\n"
      ".reg .pred copies;\n"
      "setp.ne.b32 copies, %3, 0;\n"
      "@copies cp.async.ca.shared.global [%0], [%1], %2;\n"
      "}" ::"r"(to),
      "l"(from), "n"(kBytes), "r"(static_cast<int>(copies))
      : "memory");
}

/// Ends the group of copies begun since the last one.
__device__ inline void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

/// Waits until at most the last `kGroups` groups of this thread are under way.
template <int kGroups>
__device__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

/// Lets `threads` threads meet at named barrier `id` (1 to 15).
__device__ inline void meet(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/// c += a b as warp fragments: a is 16 x 16 and b 16 x 8 for 16-bit types, 16 x 8 and 8 x 8 for
/// float, whose low 13 bits are ignored (TF32).
template <typename T>
__device__ void multiply_add(float (&c)[4], Words4 const& a, std::uint32_t b0, std::uint32_t b1) {
  if constexpr (std::is_same_v<T, __half>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
  } else if constexpr (std::is_same_v<T, float>) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
  }
}

/// The nearest value with TF32's 10 bits of fraction; sm_80 and later.
__device__ inline float round_to_tf32(float value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  std::uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(value));
  return __uint_as_float(rounded);
#else
  return value;
#endif
}

/// A float's bits without what a TF32 operand sees of it: x - truncated(x), exact. Volatile, since
/// the compiler would otherwise keep the rests of all weights in registers.
__device__ inline std::uint32_t tf32_rest(std::uint32_t x) {
  std::uint32_t rest;
  asm volatile("{ .reg .b32 seen; and.b32 seen, %1, 0xffffe000; sub.f32 %0, %1, seen; }"
               : "=r"(rest)
               : "r"(x));
  return rest;
}

// Words that blocks exchange through global memory, and barriers of a block: sm_80 and later.

/// 16 bytes of global memory that other blocks may be writing: each word is an old or a new one.
__device__ inline Words4 load_relaxed_16(void const* from) {
  Words4 v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from)
               : "memory");
  return v;
}

/// Words that other blocks may be reading.
__device__ inline void store_relaxed(void* to, std::uint32_t word) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(word) : "memory");
}
__device__ inline void store_relaxed(void* to, uint2 words) {
  asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1,%2};" ::"l"(to), "r"(words.x), "r"(words.y)
               : "memory");
}

/// Orders what this thread did and saw before against what it does after, for all of the device.
__device__ inline void fence_device() {
  asm volatile("fence.acq_rel.gpu;" ::: "memory");
}

/// A barrier in shared memory that `arrivals` arrivals complete, again and again.
__device__ inline void init_barrier(std::uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ inline void arrive(std::uint32_t barrier) {
  asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(barrier)
               : "memory");
}

/// Waits for the end of the phase of this parity. For warps of one block, of which all arrive.
__device__ inline void wait(std::uint32_t barrier, std::uint32_t parity) {
  std::uint32_t done = 0;
  while (done == 0) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile(
        "{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
#else
    asm volatile(
        "{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
#endif
  }
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// Takes registers from the block's pool, or gives them back: all of four neighbouring warps, so
/// that each thread has that many.
template <int kRegisters>
__device__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

#endif

// Thread-block clusters and transaction barriers: sm_90 and later.

__device__ inline std::uint32_t cluster_rank() {
  std::uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

/// All threads of the cluster meet; what they wrote before is seen after.
__device__ inline void meet_cluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/// The cluster address of `address` in the window of the block with this rank.
__device__ inline std::uint32_t in_block(std::uint32_t address, std::uint32_t rank) {
  std::uint32_t result;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(result) : "r"(address), "r"(rank));
  return result;
}

/// A barrier that one arrival and the announced bytes complete.
__device__ inline void init_barrier(std::uint32_t barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier));
}

/// Makes initialised barriers visible to the cluster.
__device__ inline void fence_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/// Arrives, and announces how many bytes the phase waits for.
__device__ inline void expect_bytes(std::uint32_t barrier, std::uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

/// Whether the phase of this parity is complete; may take a while to say no. What a transaction
/// barrier counted is seen by the block once the barrier says so: an acquire at the cluster's scope
/// would drop the L1 cache as well, in every step.
__device__ inline bool is_complete(std::uint32_t barrier, std::uint32_t parity) {
  std::uint32_t done;
  asm volatile(
      "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; "
      "selp.u32 %0, 1, 0, p; }"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
  return done != 0;
}

/// Stores 4, 8 or 16 bytes in a block of the cluster and counts them at its barrier; both are
/// cluster addresses.
__device__ inline void store_async(std::uint32_t to, std::uint32_t value, std::uint32_t barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(to),
      "r"(value), "r"(barrier)
      : "memory");
}
__device__ inline void store_async(std::uint32_t to, uint2 value, std::uint32_t barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1, %2}, [%3];" ::"r"(
          to),
      "r"(value.x), "r"(value.y), "r"(barrier)
      : "memory");
}
__device__ inline void store_async(std::uint32_t to, float4 value, std::uint32_t barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, "
      "[%5];" ::"r"(to),
      "r"(__float_as_uint(value.x)), "r"(__float_as_uint(value.y)), "r"(__float_as_uint(value.z)),
      "r"(__float_as_uint(value.w)), "r"(barrier)
      : "memory");
}

/// Copies a multiple of 16 bytes from global to this block's shared memory and counts them at its
/// barrier. What threads did there before comes before it where each has said so by fence_copies,
/// and then met the thread that copies.
__device__ inline void copy_bulk(std::uint32_t to, void const* from, std::uint32_t bytes,
                                 std::uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}
__device__ inline void fence_copies() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// Stores a word in a block of the cluster, or arrives at its barrier; both are cluster addresses.
__device__ inline void store_in_cluster(std::uint32_t to, std::uint32_t value) {
  asm volatile("st.relaxed.cluster.shared::cluster.u32 [%0], %1;" ::"r"(to), "r"(value) : "memory");
}
__device__ inline void arrive_in_cluster(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(barrier)
               : "memory");
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail::ptx
