// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include <Eigen/Core>

#include <gru/detail/carver.hpp>
#include <gru/host/pack.hpp>
#include <gru/host/parallel.hpp>
#include <gru/host/products.hpp>
#include <gru/problem.hpp>

/// Products with few rows and a matrix that many of them share: R, copied once a run into the order
/// in which a kernel reads it.
namespace gru::detail::host {

/// Rows that the kernel multiplies at once: their sums stay in registers, three packs of each.
#ifdef EIGEN_VECTORIZE_AVX512
inline constexpr int kKernelRows = 8;
#else
inline constexpr int kKernelRows = 2;
#endif

/// out (+)= lhs * panel, for `rows` rows and `packs` packs of columns. Every element is a sum over
/// the depth in ascending order, in however many rows and panels a product is cut.
template <typename A>
struct PanelProduct {
  MatrixView<A const> lhs;  // [rows, depth]
  A const* panel;           // [depth, packs, Pack::kSize]
  std::int64_t depth;
  A* out;                  // [rows, packs, Pack::kSize]
  std::int64_t out_pitch;  // elements from row to row
  std::int64_t out_step;   // elements from pack to pack
  bool accumulate;

  template <int kPacks>
  void run(std::int64_t rows) const {
    if (lhs.transposed) {
      run_blocks<kKernelRows, kPacks, true>(0, rows);
    } else {
      run_blocks<kKernelRows, kPacks, false>(0, rows);
    }
  }

 private:
  using Packet = typename Eigen::internal::packet_traits<A>::type;
  static constexpr int kPacketSize = Eigen::internal::packet_traits<A>::size;
  static constexpr int kPacketsPerPack = Pack<A>::kSize / kPacketSize;

  /// As many blocks of kRows rows as there are, then smaller ones.
  template <int kRows, int kPacks, bool kTransposed>
  void run_blocks(std::int64_t row, std::int64_t rows) const {
    for (; row + kRows <= rows; row += kRows) run_block<kRows, kPacks, kTransposed>(row);
    if constexpr (kRows > 1) run_blocks<kRows / 2, kPacks, kTransposed>(row, rows);
  }

  template <int kRows, int kPacks, bool kTransposed>
  void run_block(std::int64_t row) const {
    using namespace Eigen::internal;
    constexpr int kPackets = kPacks * kPacketsPerPack;
    A const* const left = lhs.from_row(row).data;
    A* const result = out + row * out_pitch;
    auto const address = [&](int i, int j) {
      return result + i * out_pitch + j / kPacketsPerPack * out_step +
             j % kPacketsPerPack * kPacketSize;
    };
    Packet sums[kRows][kPackets];
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < kPackets; ++j) {
        sums[i][j] = accumulate ? ploadu<Packet>(address(i, j)) : pset1<Packet>(A(0));
      }
    }
    for (std::int64_t k = 0; k < depth; ++k) {
      A const* const from = panel + k * kPackets * kPacketSize;
      for (int i = 0; i < kRows; ++i) {
        Packet const factor =
            pset1<Packet>(kTransposed ? left[k * lhs.pitch + i] : left[i * lhs.pitch + k]);
        for (int j = 0; j < kPackets; ++j) {
          sums[i][j] = pmadd(factor, pload<Packet>(from + j * kPacketSize), sums[i][j]);
        }
      }
    }
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < kPackets; ++j) pstoreu(address(i, j), sums[i][j]);
    }
  }
};

/// H in whole packs.
template <typename A>
std::int64_t padded_units(Problem const& p) {
  constexpr std::int64_t kSize = Pack<A>::kSize;
  return divide_up(p.hidden_size, kSize) * kSize;
}

/// Whether a pass packs R: not where that, which takes as long as a few products with one row, does
/// not pay, nor where Problem::workspace_limit has no room for it. Buffers is a pass's workspace.
template <typename Buffers>
bool packs_recurrent_kernel(Problem const& p) {
  if (p.steps < 2 || p.steps * p.batch < 4) return false;
  Carver counting;
  Buffers{counting, p, 1, true};
  return counting.bytes() <= p.workspace_limit;
}

/// Columns of a matrix of `columns` columns.
template <typename A>
struct ColumnBlock {
  MatrixView<A const> matrix;  // [depth, columns]
  std::int64_t columns;
};

/// Copies the transpose of a square of as many elements each way as a Packet of Eigen's holds.
template <typename Packet, typename A>
void transpose_block(A const* from, std::int64_t from_pitch, A* to, std::int64_t to_pitch) {
  using namespace Eigen::internal;
  constexpr int kBlock = unpacket_traits<Packet>::size;
  PacketBlock<Packet, kBlock> block;
  for (int i = 0; i < kBlock; ++i) block.packet[i] = ploadu<Packet>(from + i * from_pitch);
  ptranspose(block);
  for (int i = 0; i < kBlock; ++i) pstoreu(to + i * to_pitch, block.packet[i]);
}

/// Copies a pack of columns, from the first, to rows `step` elements apart; zeros beyond the last.
template <typename A>
void copy_pack(ColumnBlock<A> const& from, std::int64_t depth, A* to, std::int64_t step) {
  constexpr std::int64_t kSize = Pack<A>::kSize;
  std::int64_t const width = std::clamp<std::int64_t>(from.columns, 0, kSize);
  if (width < kSize) {
    for (std::int64_t k = 0; k < depth; ++k) std::fill_n(to + k * step, kSize, A(0));
  }
  A const* const data = from.matrix.data;
  std::int64_t const pitch = from.matrix.pitch;
  if (!from.matrix.transposed) {
    for (std::int64_t k = 0; k < depth; ++k) {
      if (width == kSize) {
        std::copy_n(data + k * pitch, kSize, to + k * step);
      } else {
        std::copy_n(data + k * pitch, width, to + k * step);
      }
    }
    return;
  }
  using Packet = typename Eigen::internal::packet_traits<A>::type;
  constexpr std::int64_t kBlock = Eigen::internal::packet_traits<A>::size;
  std::int64_t k = 0;
  for (; width == kSize && k + kBlock <= depth; k += kBlock) {
    for (std::int64_t j = 0; j < kSize; j += kBlock) {
      transpose_block<Packet>(data + j * pitch + k, pitch, to + k * step + j, step);
    }
  }
  for (; k < depth; ++k) {
    for (std::int64_t j = 0; j < width; ++j) to[k * step + j] = data[j * pitch + k];
  }
}

/// Copies blocks of columns to panels [depth, blocks, Pack::kSize]: pack j of panel i is what block
/// j has from column i * panel_step on.
template <typename A>
void pack_panels(gru::host::Execution const& execution,
                 std::initializer_list<ColumnBlock<A>> blocks, std::int64_t depth,
                 std::int64_t panels, std::int64_t panel_step, A* to) {
  std::int64_t const step = static_cast<std::int64_t>(blocks.size()) * Pack<A>::kSize;
  for_each_task(execution, panels, [&](std::int64_t i) {
    A* pack = to + i * depth * step;
    for (ColumnBlock<A> const& block : blocks) {
      std::int64_t const column = i * panel_step;
      copy_pack<A>({block.matrix.from_column(column), block.columns - column}, depth, pack, step);
      pack += Pack<A>::kSize;
    }
  });
}

}  // namespace gru::detail::host
