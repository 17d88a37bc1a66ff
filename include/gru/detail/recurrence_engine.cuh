// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <gru/detail/carver.hpp>
#include <gru/detail/chunk_plan.cuh>
#include <gru/detail/chunks.hpp>
#include <gru/detail/cost_model.hpp>
#include <gru/detail/device_policy.cuh>
#include <gru/detail/engine.cuh>
#include <gru/detail/event.cuh>
#include <gru/detail/layer_products.cuh>
#include <gru/detail/overlap.hpp>
#include <gru/detail/packed_input.cuh>
#include <gru/detail/recurrence.cuh>
#include <gru/detail/stepwise_forward.cuh>
#include <gru/policy.hpp>

namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// Whether the input product may run beside a Recurrence.
template <typename Recurrence, typename = void>
inline constexpr bool kMayOverlap = false;
template <typename Recurrence>
inline constexpr bool kMayOverlap<Recurrence, std::void_t<decltype(&Recurrence::blocks)>> = true;

/// Nothing is idle where the Problem does not ask for overlap.
template <typename Recurrence>
OverlapCosts overlap_costs(Recurrence const& recurrence, Problem const& p,
                           DeviceFacts const& facts) {
  using T = typename Recurrence::Value;
  OverlapCosts costs;
  costs.step_us = recurrence.step_us() + predict_many_rows<T>(p, Recurrence::kEngine, false);
  costs.input_us = predict_input_product<T>(p);
  if constexpr (kMayOverlap<Recurrence>) {
    int const idle = std::max(0, facts.multiprocessors - recurrence.blocks());
    if (p.overlap_products) costs.idle = double(idle) / facts.multiprocessors;
  }
  return costs;
}

/// Forward with the recurrence in one kernel a chunk. The input product of the chunk and, where an
/// option asks for them, the flags of its steps are done before it; with a second stream, while the
/// chunk before runs, on the multiprocessors that it leaves idle.
///
/// Recurrence is one way of doing the steps, a class with
///     using Value = T;
///     Recurrence(Problem const&, DeviceFacts const&);      throws only where CUDA fails
///     static constexpr Engine kEngine;
///     static constexpr int kLeastComputeCapability;        90 for 9.0
///     std::string const& obstacle() const;                 why it cannot run, or empty
///     double step_us() const;                              predicted, without the input product
///     bool drains_tiles() const;                           whether sorted rows spare it tiles
///     int groups() const;                                  of blocks, of a launch
///     void lay_out(Carver&, Scratch&) const;               carves what it needs of the workspace
///     struct Scratch;                                      pointers to it
///     void prepare(cudaStream_t, LayerView<T> const&, T const* recurrent_kernel,
///                  Scratch const&) const;                  enqueues what a run needs once
///     void run(cudaStream_t, RecurrentForward<T> const&, Scratch const&) const;
/// and, where the product may run beside it,
///     int blocks() const;                                  of a launch, one a multiprocessor
///     void run(cudaStream_t, RecurrentForward<T> const&, Scratch const&,
///              cudaEvent_t started) const;                 recorded once all blocks have begun
template <typename Recurrence>
class RecurrenceForwardEngine final : public ForwardEngine<typename Recurrence::Value> {
  using T = typename Recurrence::Value;

 public:
  RecurrenceForwardEngine(Problem const& p, DeviceFacts const& facts)
      : problem_{p}, recurrence_{p, facts} {
    auto const bytes = [&](std::int64_t steps) {
      Carver carver;
      lay_out(carver, steps, 0);
      return carver.bytes();
    };
    input_parts_ = InputParts::choose<T>(p, facts, bytes(0));
    auto const costs = overlap_costs(recurrence_, p, facts);
    bool const overlaps = cut_for_overlap(p.steps, p.steps, costs).size() > 1;
    if (overlaps) p_count_ = 2;
    ChunkPlan const plan = plan_chunks(p, bytes);
    if (plan.chunks.count == 0) return;
    std::vector<std::int64_t> sizes;
    for (std::int64_t chunk = 0; chunk < plan.chunks.count; ++chunk) {
      sizes.push_back(plan.chunks.size_of(chunk));
    }
    if (overlaps) {
      sizes = cut_for_overlap(p.steps, plan.chunks.size, costs);
      events_ = std::make_unique<OverlapEvents>();
    }
    std::int64_t begin = 0;
    for (std::int64_t const size : sizes) {
      bool const reverse = p.direction == Direction::kReverse;
      chunks_.push_back({reverse ? p.steps - begin - size : begin, size});
      begin += size;
      chunk_steps_ = std::max(chunk_steps_, size);
      if (input_.count(size) > 0) continue;
      InputProduct<T> product{p, input_parts_, size, facts, plan.most_product_workspace};
      product_workspace_ = std::max(product_workspace_, product.workspace_bytes());
      input_.emplace(size, std::move(product));
      if (!packs_rows()) continue;
      PackedInputProduct<T> packed{p, input_parts_, size, facts, plan.most_product_workspace};
      product_workspace_ = std::max(product_workspace_, packed.workspace_bytes());
      packed_input_.emplace(size, std::move(packed));
    }
  }

  std::size_t workspace_bytes() const override {
    Carver carver;
    lay_out(carver, chunk_steps_, product_workspace_);
    return carver.bytes();
  }

  void run(Execution const& execution, Weights<T> const& weights, ForwardTensors<T> const& tensors,
           Schedule const& schedule, Masks const& masks, Workspace workspace) const override {
    Problem const& p = problem_;
    if (p.batch == 0) return;
    Carver carver{workspace.data};
    Buffers const buffers = lay_out(carver, chunk_steps_, product_workspace_);
    auto const layer = make_layer_view(p, weights, schedule, masks);
    Start<T> start =
        make_start(p, tensors, schedule, buffers.state, buffers.operand, buffers.status);
    // A single step has none.
    bool const sorts = sorts_rows() && schedule.lengths != nullptr;
    // The final state of rows that do no step.
    if (sorts) start.final_state = tensors.final_state;
    launch_elementwise(start_kernel<T>, execution.stream, p.batch, p.hidden_size, layer, start);
    if (p.steps == 0) return;

    recurrence_.prepare(execution.stream, layer, weights.recurrent_kernel, buffers.scratch);
    RecurrentForward<T> pass = make_pass(layer, tensors, buffers);
    pass.most_polls = execution.most_polls;
    if (sorts) {
      launch_sort_rows(execution.stream, layer, buffers.row_order, recurrence_.groups());
      pass.deal.order = buffers.row_order.order;
      pass.deal.length = buffers.row_order.length;
    }
    bool const has_flags = needs_flags(schedule, masks);
    Rows const x_rows = sequence_rows(p, p.pitch.x, p.input_size);
    auto const kernel = kernel_matrix<T>(p, weights.kernel);
    // How many rows of a chunk are packed; none: all are multiplied as they lie.
    auto const packed_rows = [&](Chunk const& chunk) -> std::optional<std::int64_t> {
      if (!packs_rows()) return {};
      std::int64_t const rows = rows_within(p, tensors.host_lengths, chunk.first_time, chunk.steps);
      if (!packed_input_.at(chunk.steps).spares(rows)) return {};
      return rows;
    };
    auto const prepare = [&](Execution const& where, std::size_t chunk) {
      auto const [first_time, steps] = chunks_[chunk];
      std::size_t const turn = chunk % p_count_;
      if (has_flags) {
        launch_step_flags(where.stream, layer, Pass::kForward, first_time, static_cast<int>(steps),
                          buffers.flags[turn]);
      }
      T const* const x = tensors.x + x_rows.at(first_time, 0);
      if (auto const rows = packed_rows(chunks_[chunk])) {
        launch_pack_rows(where.stream, p, schedule, first_time, steps, x, buffers.packed_x,
                         buffers.p_rows[turn]);
        packed_input_.at(steps).run(where, buffers.packed_x, *rows, kernel, buffers.p[turn],
                                    buffers.input_parts, buffers.product_workspace);
      } else {
        input_.at(steps).run(where, x, kernel, buffers.p[turn], buffers.input_parts,
                             buffers.product_workspace);
      }
    };
    Execution beside = execution;
    beside.stream = execution.second_stream;
    bool const overlaps = events_ != nullptr && beside.stream != nullptr;
    std::unique_lock<std::mutex> lock;
    cudaEvent_t started = nullptr;
    if (overlaps) {
      lock = std::unique_lock<std::mutex>{events_->mutex};
      // On streams the product might take the multiprocessors first. A graph starts its branches in
      // the order of capture. H200, CUDA 13.0, float, 1000 64 512 512: 4.66 us a step in a graph,
      // 5.34 with this event in it; on streams 4.60, and 4.51 with it (half: 1.15 and 1.08).
      if (!is_capturing(execution.stream)) started = events_->started.get();
    }
    prepare(execution, 0);
    for (std::size_t chunk = 0; chunk < chunks_.size(); ++chunk) {
      pass.first_time = chunks_[chunk].first_time;
      pass.steps = static_cast<int>(chunks_[chunk].steps);
      bool const is_last = chunk + 1 == chunks_.size();
      pass.p = buffers.p[chunk % p_count_];
      pass.p_rows = packed_rows(chunks_[chunk]) ? buffers.p_rows[chunk % p_count_] : nullptr;
      pass.derive();
      if (has_flags) pass.flags = buffers.flags[chunk % p_count_];
      if (sorts && pass.h != nullptr) {
        launch_clear_past_lengths(execution.stream, layer, pass.first_time, pass.steps,
                                  pass.h + pass.h_rows.at(pass.first_time, 0), pass.h_rows,
                                  p.hidden_size);
      }
      if (overlaps && chunk > 0) wait(execution.stream, events_->multiplied);
      if (overlaps && !is_last) {
        record(events_->ready, execution.stream);
        if constexpr (kMayOverlap<Recurrence>) {
          recurrence_.run(execution.stream, pass, buffers.scratch, started);
        } else {
          recurrence_.run(execution.stream, pass, buffers.scratch);
        }
        wait(beside.stream, events_->ready);
        if (started != nullptr) wait(beside.stream, events_->started);
        prepare(beside, chunk + 1);
        record(events_->multiplied, beside.stream);
      } else {
        recurrence_.run(execution.stream, pass, buffers.scratch);
        if (!is_last) prepare(execution, chunk + 1);
      }
    }
  }

 private:
  struct Chunk {
    std::int64_t first_time;  // least time index
    std::int64_t steps;
  };

  struct Buffers {
    std::uint32_t* status = nullptr;
    float* p[2] = {};             // [chunk, N, 3H] x W, of chunks in turns
    std::uint8_t* flags[2] = {};  // [chunk, N, pitch] see step_flags; likewise
    float* state = nullptr;       // [N, H] carried
    T* operand = nullptr;         // [N, H] the state as it multiplies R
    RowOrder row_order;
    T* packed_x = nullptr;         // [rows of a chunk, C]
    std::int32_t* p_rows[2] = {};  // [N] where a sample's rows of p begin; likewise
    typename Recurrence::Scratch scratch;
    InputParts::Scratch input_parts;
    void* product_workspace = nullptr;
  };

  bool sorts_rows() const { return problem_.lengths && recurrence_.drains_tiles(); }
  bool packs_rows() const { return problem_.host_lengths && sorts_rows(); }

  Buffers lay_out(Carver& carver, std::int64_t chunk_steps, std::size_t product_workspace) const {
    std::int64_t const N = problem_.batch;
    std::int64_t const H = problem_.hidden_size;
    Buffers buffers;
    buffers.status = carver.take<std::uint32_t>(1);
    for (std::size_t i = 0; i < p_count_; ++i) {
      buffers.p[i] = carver.take<float>(chunk_steps * N * 3 * H);
      buffers.flags[i] = carver.take<std::uint8_t>(chunk_steps * N * step_flags::pitch(H));
    }
    buffers.state = carver.take<float>(N * H);
    buffers.operand = carver.take<T>(N * H);
    if (sorts_rows()) buffers.row_order.lay_out(carver, N);
    if (packs_rows()) {
      buffers.packed_x = carver.take<T>(chunk_steps * N * problem_.input_size);
      for (std::size_t i = 0; i < p_count_; ++i) buffers.p_rows[i] = carver.take<std::int32_t>(N);
    }
    recurrence_.lay_out(carver, buffers.scratch);
    buffers.input_parts = input_parts_.lay_out(carver, problem_, chunk_steps);
    buffers.product_workspace =
        carver.take<std::byte>(static_cast<std::int64_t>(product_workspace));
    return buffers;
  }

  /// What all chunks have in common.
  RecurrentForward<T> make_pass(LayerView<T> const& layer, ForwardTensors<T> const& tensors,
                                Buffers const& buffers) const {
    Problem const& p = problem_;
    Masks const& masks = layer.masks;
    RecurrentForward<T> pass;
    pass.batch = static_cast<int>(p.batch);
    pass.hidden = static_cast<int>(p.hidden_size);
    pass.columns = layer.columns;
    pass.bias = layer.bias;
    pass.recurrent_bias = layer.recurrent_bias;
    pass.recurrent_scale = static_cast<float>(recurrent_scale(p));
    if (masks.recurrent_dropout.on) {
      pass.operand_scale = static_cast<float>(masks.recurrent_dropout.scale);
    }
    pass.has_zoneout = masks.has_zoneout();
    if (masks.zoneout_expected) pass.new_weight = static_cast<float>(masks.zoneout.keep);
    pass.reverse = layer.schedule.reverse;
    pass.flags_pitch = step_flags::pitch(p.hidden_size);
    pass.state = buffers.state;
    pass.operand = buffers.operand;
    pass.h = tensors.h;
    pass.h_rows = sequence_rows(p, p.pitch.h, p.hidden_size);
    bool const even = p.hidden_size % 2 == 0;
    pass.wide_h = even && has_pairs(tensors.h, pass.h_rows);
    if (reserve_values(p) > 0) {
      pass.reserve = static_cast<T*>(tensors.reserve.data);
      pass.wide_reserve = even && has_pairs(pass.reserve);
    }
    pass.final_state = tensors.final_state;
    pass.final_pitch = pitch_or(p.pitch.final_state, p.hidden_size);
    pass.status = buffers.status;
    pass.derive();
    return pass;
  }

  Problem problem_;
  Recurrence recurrence_;
  InputParts input_parts_;
  std::vector<Chunk> chunks_;                                   // in the order of the steps
  std::int64_t chunk_steps_ = 0;                                // the most
  std::map<std::int64_t, InputProduct<T>> input_;               // by steps
  std::map<std::int64_t, PackedInputProduct<T>> packed_input_;  // likewise
  std::size_t product_workspace_ = 0;
  std::size_t p_count_ = 1;                // buffers for the input product and the flags
  std::unique_ptr<OverlapEvents> events_;  // null: the product waits its turn
};

/// An engine of persistent kernels as a candidate. Throws only where CUDA fails.
template <typename Recurrence>
Candidate recurrence_candidate(Problem const& p, DeviceFacts const& facts) {
  Candidate candidate;
  candidate.engine = Recurrence::kEngine;
  candidate.reason = lacking_code(facts, Recurrence::kLeastComputeCapability);
  if (!candidate.reason.empty()) return candidate;
  if (p.steps > std::numeric_limits<std::int32_t>::max() / 2) {
    candidate.reason = "counts steps in 32 bits";
  } else {
    Recurrence const recurrence{p, facts};
    candidate.can_run = recurrence.obstacle().empty();
    candidate.reason = candidate.can_run ? why_it_runs(recurrence, facts) : recurrence.obstacle();
    if (candidate.can_run) {
      OverlapCosts const costs = overlap_costs(recurrence, p, facts);
      candidate.predicted_us =
          predict_recurrence_start<typename Recurrence::Value>(p, Recurrence::kEngine) +
          predict_overlap(cut_for_overlap(p.steps, p.steps, costs), costs);
    }
  }
  return candidate;
}

/// Adds the engine of a Recurrence to the candidates and, where it can run, to the engines.
template <typename Recurrence>
void consider_recurrence(EngineMaker<ForwardEngine<typename Recurrence::Value>>& engines,
                         std::vector<Candidate>& candidates, Problem const& p,
                         DeviceFacts const& facts) {
  Candidate candidate = recurrence_candidate<Recurrence>(p, facts);
  engines.template make<RecurrenceForwardEngine<Recurrence>>(candidate);
  candidates.push_back(std::move(candidate));
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
