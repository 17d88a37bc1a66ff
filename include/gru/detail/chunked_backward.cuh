// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include <gru/detail/carver.hpp>
#include <gru/detail/chunk_plan.cuh>
#include <gru/detail/chunks.hpp>
#include <gru/detail/engine.cuh>
#include <gru/detail/event.cuh>
#include <gru/detail/gradient_products.cuh>
#include <gru/detail/layer_products.cuh>
#include <gru/detail/overlap.hpp>
#include <gru/detail/stepwise_forward.cuh>
#include <gru/detail/stepwise_kernels.cuh>

/// What every device engine does going backward: chunk by chunk from the last, the steps of a chunk
/// leave the gradients of its pre-activations; then dx and dW in one product each, dR in two. How
/// the steps are done is the engine's.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// Where a weight gradient's products put their sums.
enum class SumsIn {
  kPlace,      ///< in the caller's buffer, added up there over the chunks
  kWorkspace,  ///< in the accumulation type in the workspace, then converted, masked and moved
};

/// A chunk of steps.
struct BackwardChunk {
  std::int64_t first_time = 0;  // least time index
  std::int64_t steps = 0;
};

/// What the parts of one run share. Internal buffers are dense and time-major.
template <typename T>
struct BackwardRun {
  using A = Accumulator<T>;
  Execution const& execution;
  Weights<T> const& weights;
  BackwardTensors<T> const& tensors;
  LayerView<T> layer;
  EnteringState<T> entering;
  WeightMatrix<T> recurrent;  // R, with DropConnect's mask applied where on
  std::uint32_t* status = nullptr;
  A* direct = nullptr;     // [N, H] carried gradient along everything but R
  A* through_r = nullptr;  // [Steps::through_parts(), N, H] carried gradient through R, in parts
  A* bias_sums = nullptr;  // [N, 4H] or null
  void* product_workspace = nullptr;
};

/// What the steps of a chunk read and write.
template <typename T>
struct BackwardSteps {
  BackwardChunk chunk;
  T const* kept = nullptr;      // [steps, N, 4H] the reserve's rows
  T const* entering = nullptr;  // [steps, N, H] the states that entered
  T* gradients = nullptr;       // [steps, N, 4H] out
};

/// The products of a chunk of so many steps.
template <typename T>
struct ChunkProducts {
  InputGradient<T> dx;
  WeightGradient<T> dkernel;
  WeightGradient<T> drecurrent_gates;      // of z and r
  WeightGradient<T> drecurrent_candidate;  // of g
  Product input;                           // recompute
  Product recompute_gates;
  Product recompute_candidate;

  std::size_t workspace_bytes() const {
    return std::max({dx.workspace_bytes(), dkernel.workspace_bytes(),
                     drecurrent_gates.workspace_bytes(), drecurrent_candidate.workspace_bytes(),
                     input.workspace_bytes(), recompute_gates.workspace_bytes(),
                     recompute_candidate.workspace_bytes()});
  }
};

/// Backward with the steps of a chunk done by `Steps`, a class with
///     using Value = T;
///     Steps(Problem const&, DeviceFacts const&);
///     void plan(DeviceFacts const&, std::size_t most_workspace);    its products
///     std::size_t product_workspace_bytes() const;
///     std::int64_t through_parts() const;            of the gradient that they carry through R
///     OverlapCosts overlap_costs(DeviceFacts const&) const;
///     struct Scratch;                                               pointers into the workspace
///     void lay_out(Carver&, std::int64_t chunk_steps, Scratch&) const;
///     void start(BackwardRun<T> const&, Scratch const&) const;      enqueues what a run needs once
///     void run(BackwardRun<T> const&, BackwardSteps<T> const&, Scratch const&,
///              cudaEvent_t started) const;       the steps; records `started`, unless null, once
///                                                they have their multiprocessors
///     void finish(BackwardRun<T> const&, Scratch const&) const;     leaves run.through_r
///
/// With a second stream, the products of a chunk run on it while the next chunk's steps are done,
/// on the multiprocessors that these leave idle.
template <typename Steps>
class ChunkedBackward final : public BackwardEngine<typename Steps::Value> {
  using T = typename Steps::Value;
  using A = Accumulator<T>;

 public:
  ChunkedBackward(Problem const& p, DeviceFacts const& facts) : problem_{p}, steps_{p, facts} {
    OverlapCosts const costs = steps_.overlap_costs(facts);
    // Computing the gates again takes products of its own, on the first stream.
    bool const overlaps = p.reserve != ReservePolicy::kRecompute &&
                          cut_for_overlap(p.steps, p.steps, costs).size() > 1;
    if (overlaps) sides_ = 2;
    parts_ = choose_parts(facts);
    ChunkPlan const plan = plan_backward();
    if (plan.chunks.count == 0) return;
    std::vector<std::int64_t> sizes;
    for (std::int64_t chunk = 0; chunk < plan.chunks.count; ++chunk) {
      sizes.push_back(plan.chunks.size_of(chunk));
    }
    if (overlaps) {
      // The first chunk's steps are done last: a small one, whose products nothing hides.
      sizes = cut_for_overlap(p.steps, plan.chunks.size, costs);
      events_ = std::make_unique<OverlapEvents>();
    }
    kernel_sums_ = sums_in(p, sizes.size(), false);
    recurrent_sums_ = sums_in(p, sizes.size(), drops(p, p.dropconnect));
    steps_.plan(facts, plan.most_product_workspace);
    product_workspace_ = steps_.product_workspace_bytes();
    std::int64_t begin = 0;
    for (std::int64_t const size : sizes) {
      bool const reverse = p.direction == Direction::kReverse;
      chunks_.push_back({reverse ? p.steps - begin - size : begin, size});
      begin += size;
      chunk_steps_ = std::max(chunk_steps_, size);
      if (products_.count(size) > 0) continue;
      ChunkProducts<T> products = plan_products(size, facts, plan.most_product_workspace);
      product_workspace_ = std::max(product_workspace_, products.workspace_bytes());
      products_.emplace(size, std::move(products));
    }
  }

  std::size_t workspace_bytes() const override {
    Carver carver;
    lay_out(carver, chunk_steps_, product_workspace_, kernel_sums_, recurrent_sums_);
    return carver.bytes();
  }

  double chunking_us() const override {
    if (chunks_.size() < 2) return 0;
    std::int64_t const kernel = kernel_sums_ == SumsIn::kWorkspace ? problem_.input_size : 0;
    std::int64_t const recurrent = recurrent_sums_ == SumsIn::kWorkspace ? problem_.hidden_size : 0;
    double const sums = 3.0 * static_cast<double>((kernel + recurrent) * problem_.hidden_size);
    return static_cast<double>(chunks_.size() - 1) * sums * kChunkUsPerSum;
  }

  void run(Execution const& execution, Weights<T> const& weights, BackwardTensors<T> const& tensors,
           Schedule const& schedule, Masks const& masks, Workspace workspace) const override {
    Problem const& p = problem_;
    if (chunks_.empty()) clear_weight_gradients(execution.stream, tensors);
    if (p.batch == 0) return;
    Carver carver{workspace.data};
    Buffers const buffers =
        lay_out(carver, chunk_steps_, product_workspace_, kernel_sums_, recurrent_sums_);
    BackwardRun<T> run{execution,
                       weights,
                       tensors,
                       make_layer_view(p, weights, schedule, masks),
                       entering_state(p, tensors),
                       {},
                       buffers.status,
                       buffers.direct,
                       buffers.through_r,
                       wants_biases(tensors) ? buffers.bias_sums : nullptr,
                       buffers.product_workspace};
    start(run);
    if (!chunks_.empty()) {
      run.recurrent = prepare_recurrent_kernel(p, run.layer, weights.recurrent_kernel,
                                               buffers.dropped_weights, execution.stream);
      steps_.start(run, buffers.scratch);
      run_chunks(run, buffers);
      steps_.finish(run, buffers.scratch);
    }
    finish(run, buffers);
  }

 private:
  /// What a chunk leaves for its products. There are two where these are done beside other steps.
  struct Side {
    T* operands = nullptr;   // [chunk, N, H] what multiplied R
    T* gradients = nullptr;  // [chunk, N, 4H] unless written over the reserve
  };

  struct Buffers {
    std::uint32_t* status = nullptr;
    A* direct = nullptr;
    A* through_r = nullptr;
    A* bias_sums = nullptr;
    Side sides[2];
    T* entering = nullptr;  // [chunk, N, H] with recurrent dropout: the states that entered
    T* x = nullptr;         // [chunk, N, C] batch-major: x made dense and time-major
    GradientParts::Scratch parts;
    A* p = nullptr;                // [chunk, N, 3H] recompute: x W
    A* q = nullptr;                // [chunk, N, 3H] recompute: s R
    A* kernel_sums = nullptr;      // as W, tight
    A* recurrent_sums = nullptr;   // as R, tight
    T* dropped_weights = nullptr;  // as R, tight
    typename Steps::Scratch scratch;
    void* product_workspace = nullptr;
  };

  static bool is_after(Problem const& p) { return p.variant == Variant::kResetAfter; }

  static bool weight_gradients_are_sums(Problem const& p) {
    return std::is_same_v<T, A> || p.weight_gradient_type == WeightGradientType::kFloat;
  }

  static SumsIn sums_in(Problem const& p, std::size_t chunk_count, bool masked) {
    bool const direct = !masked && (weight_gradients_are_sums(p) || chunk_count <= 1);
    return direct ? SumsIn::kPlace : SumsIn::kWorkspace;
  }

  /// Whether x must be copied for dW, since its rows do not lie like those of the gradients.
  bool gathers_x() const {
    Problem const& p = problem_;
    bool const lies_otherwise = p.layout == Layout::kBatchMajor && p.batch > 1 && p.steps > 1;
    return lies_otherwise && !parts_.dkernel();
  }

  /// Rows of x in dW's product.
  std::int64_t x_pitch() const {
    if (gathers_x()) return problem_.input_size;
    Rows const rows = sequence_rows(problem_, problem_.pitch.x, problem_.input_size);
    return problem_.batch == 1 ? rows.step : rows.sample;
  }

  cudaDataType_t sums_type(SumsIn where) const {
    bool const sums = where == SumsIn::kWorkspace || weight_gradients_are_sums(problem_);
    return sums ? kCudaType<A> : kCudaType<T>;
  }

  std::int64_t tight_kernel_pitch() const {
    return by_input(problem_) ? 3 * problem_.hidden_size : problem_.input_size;
  }

  std::int64_t tight_recurrent_pitch() const {
    return by_input(problem_) ? 3 * problem_.hidden_size : problem_.hidden_size;
  }

  Buffers lay_out(Carver& carver, std::int64_t chunk_steps, std::size_t product_workspace,
                  SumsIn kernel_sums, SumsIn recurrent_sums) const {
    Problem const& p = problem_;
    std::int64_t const C = p.input_size;
    std::int64_t const H = p.hidden_size;
    std::int64_t const values = p.batch * H;
    bool const recomputes = p.reserve == ReservePolicy::kRecompute;
    bool const rewrites = p.reserve == ReservePolicy::kOverwrite;
    bool const scales_operands = drops(p, p.recurrent_dropout);
    Buffers buffers;
    buffers.status = carver.take<std::uint32_t>(1);
    buffers.direct = carver.take<A>(values);
    buffers.through_r = carver.take<A>(steps_.through_parts() * values);
    buffers.bias_sums = carver.take<A>(4 * values);
    for (std::size_t i = 0; i < sides_; ++i) {
      buffers.sides[i].operands = carver.take<T>(chunk_steps * values);
      buffers.sides[i].gradients = carver.take<T>(rewrites ? 0 : chunk_steps * 4 * values);
    }
    buffers.entering = carver.take<T>(scales_operands ? chunk_steps * values : 0);
    buffers.x = carver.take<T>(gathers_x() ? chunk_steps * p.batch * C : 0);
    buffers.parts = parts_.lay_out(carver, p, chunk_steps);
    buffers.p = carver.take<A>(recomputes ? chunk_steps * 3 * values : 0);
    buffers.q = carver.take<A>(recomputes ? chunk_steps * 3 * values : 0);
    bool const sums_kernel = kernel_sums == SumsIn::kWorkspace;
    bool const sums_recurrent = recurrent_sums == SumsIn::kWorkspace;
    buffers.kernel_sums = carver.take<A>(sums_kernel ? 3 * C * H : 0);
    buffers.recurrent_sums = carver.take<A>(sums_recurrent ? 3 * H * H : 0);
    buffers.dropped_weights = carver.take<T>(dropped_weights_size(p));
    steps_.lay_out(carver, chunk_steps, buffers.scratch);
    buffers.product_workspace =
        carver.take<std::byte>(static_cast<std::int64_t>(product_workspace));
    return buffers;
  }

  /// The workspace for chunks of so many steps, without the products' scratch, as a function.
  auto bytes_for(std::size_t chunk_count) const {
    SumsIn const kernel_sums = sums_in(problem_, chunk_count, false);
    SumsIn const recurrent_sums =
        sums_in(problem_, chunk_count, drops(problem_, problem_.dropconnect));
    return [this, kernel_sums, recurrent_sums](std::int64_t steps) {
      Carver carver;
      lay_out(carver, steps, 0, kernel_sums, recurrent_sums);
      return carver.bytes();
    };
  }

  GradientParts choose_parts(DeviceFacts const& facts) const {
    auto const bytes = bytes_for(2);
    return GradientParts::choose<T>(problem_, facts, bytes(0), bytes(1) - bytes(0));
  }

  /// In one chunk 16-bit weight gradients need no sums in the workspace.
  ChunkPlan plan_backward() const {
    if (sides_ > 1) return plan_chunks(problem_, bytes_for(2));
    return plan_chunks(problem_, bytes_for(1), bytes_for(2));
  }

  ChunkProducts<T> plan_products(std::int64_t steps, DeviceFacts const& facts,
                                 std::size_t most) const {
    Problem const& p = problem_;
    std::int64_t const H = p.hidden_size;
    bool const after = is_after(p);
    ChunkProducts<T> products;
    products.dx = {p, parts_, steps, facts, most};
    bool const places_kernel = kernel_sums_ == SumsIn::kPlace;
    products.dkernel = {p,
                        parts_,
                        WeightBlocks::kKernel,
                        steps,
                        x_pitch(),
                        places_kernel ? kernel_pitch(p) : tight_kernel_pitch(),
                        sums_type(kernel_sums_),
                        facts,
                        most};
    bool const places_recurrent = recurrent_sums_ == SumsIn::kPlace;
    auto const drecurrent = [&](WeightBlocks blocks, std::int64_t operand_pitch) {
      return WeightGradient<T>{
          p,
          parts_,
          blocks,
          steps,
          operand_pitch,
          places_recurrent ? recurrent_kernel_pitch(p) : tight_recurrent_pitch(),
          sums_type(recurrent_sums_),
          facts,
          most};
    };
    products.drecurrent_gates = drecurrent(WeightBlocks::kRecurrentGates, H);
    products.drecurrent_candidate =
        drecurrent(WeightBlocks::kRecurrentCandidate, after ? H : 4 * H);
    if (p.reserve != ReservePolicy::kRecompute) return products;
    products.input = input_product<T>(p, steps, facts, most);
    products.recompute_gates =
        recurrent_product<T>(p, steps * p.batch, after ? 3 : 2, H, 1, facts, most);
    if (after) return products;
    products.recompute_candidate =
        recurrent_product<T>(p, steps * p.batch, 1, 4 * H, 1, facts, most);
    return products;
  }

  static EnteringState<T> entering_state(Problem const& p, BackwardTensors<T> const& tensors) {
    EnteringState<T> entering;
    entering.h = tensors.h;
    entering.h_rows = sequence_rows(p, p.pitch.h, p.hidden_size);
    entering.h0 = tensors.h0;
    entering.h0_pitch = pitch_or(p.pitch.h0, p.hidden_size);
    return entering;
  }

  /// Zeros in the weight and bias gradients that are overwritten, for a pass without steps.
  void clear_weight_gradients(cudaStream_t stream, BackwardTensors<T> const& t) const {
    Problem const& p = problem_;
    auto const clear = [&](OrFloat<T> to, bool accumulate, std::int64_t rows, std::int64_t columns,
                           std::int64_t pitch) {
      if (!to || accumulate) return;
      auto const size = static_cast<std::int64_t>(to.is_float() ? sizeof(float) : sizeof(T));
      GRU_CUDA_TRY(cudaMemset2DAsync(to.data(), static_cast<std::size_t>(pitch * size), 0,
                                     static_cast<std::size_t>(columns * size),
                                     static_cast<std::size_t>(rows), stream));
    };
    std::int64_t const gates = 3 * p.hidden_size;
    bool const in_rows = by_input(p);
    clear(t.dkernel, p.accumulate.dkernel, in_rows ? p.input_size : gates,
          in_rows ? gates : p.input_size, kernel_pitch(p));
    clear(t.drecurrent_kernel, p.accumulate.drecurrent_kernel, in_rows ? p.hidden_size : gates,
          in_rows ? gates : p.hidden_size, recurrent_kernel_pitch(p));
    clear(t.dbias, p.accumulate.dbias, 1, gates, gates);
    clear(t.drecurrent_bias, p.accumulate.drecurrent_bias, 1, gates, gates);
  }

  static bool wants_biases(BackwardTensors<T> const& t) { return t.dbias || t.drecurrent_bias; }

  /// The carried gradient after the last step is the final state's.
  void start(BackwardRun<T> const& run) const {
    Problem const& p = problem_;
    Start<T> start;
    start.h0 = run.tensors.dfinal_state;
    start.h0_pitch = pitch_or(p.pitch.dfinal_state, p.hidden_size);
    start.state = run.direct;
    start.status = run.status;
    launch_elementwise(start_kernel<T>, run.execution.stream, p.batch, p.hidden_size, run.layer,
                       start);
    std::size_t const bytes = static_cast<std::size_t>(p.batch * p.hidden_size) * sizeof(A);
    auto const parts = static_cast<std::size_t>(steps_.through_parts());
    GRU_CUDA_TRY(cudaMemsetAsync(run.through_r, 0, parts * bytes, run.execution.stream));
    if (run.bias_sums == nullptr) return;
    GRU_CUDA_TRY(cudaMemsetAsync(run.bias_sums, 0, 4 * bytes, run.execution.stream));
  }

  void run_chunks(BackwardRun<T> const& run, Buffers const& buffers) const {
    cudaStream_t const stream = run.execution.stream;
    Execution beside = run.execution;
    beside.stream = run.execution.second_stream;
    bool const overlaps = events_ != nullptr && beside.stream != nullptr;
    std::unique_lock<std::mutex> lock;
    cudaEvent_t started = nullptr;
    if (overlaps) {
      lock = std::unique_lock<std::mutex>{events_->mutex};
      // As in RecurrenceForwardEngine.
      if (!is_capturing(stream)) started = events_->started.get();
    }
    std::size_t const last = chunks_.size() - 1;
    for (std::size_t i = 0; i <= last; ++i) {
      std::size_t const chunk = last - i;
      Side const& side = buffers.sides[chunk % sides_];
      // The products that still read this side's buffers.
      if (overlaps && i >= 2) wait(stream, events_->multiplied);
      BackwardSteps<T> const steps = prepare_chunk(run, buffers, side, chunk);
      steps_.run(run, steps, buffers.scratch, i > 0 ? started : nullptr);
      if (!overlaps) {
        add_products(run.execution, run, buffers, side, chunk);
        continue;
      }
      if (i > 0) {
        wait(beside.stream, events_->ready);
        if (started != nullptr) wait(beside.stream, events_->started);
        add_products(beside, run, buffers, buffers.sides[(chunk + 1) % sides_], chunk + 1);
        record(events_->multiplied, beside.stream);
      }
      record(events_->ready, stream);
    }
    if (!overlaps) return;
    if (last > 0) wait(stream, events_->multiplied);
    add_products(run.execution, run, buffers, buffers.sides[0], 0);
  }

  /// Enqueues what a chunk's steps and products need beforehand.
  BackwardSteps<T> prepare_chunk(BackwardRun<T> const& run, Buffers const& buffers,
                                 Side const& side, std::size_t index) const {
    Problem const& p = problem_;
    BackwardChunk const& chunk = chunks_[index];
    copy_entering(run, run.layer, chunk, side.operands);
    BackwardSteps<T> steps;
    steps.chunk = chunk;
    steps.entering = side.operands;
    if (run.layer.masks.recurrent_dropout.on) {
      LayerView<T> unscaled = run.layer;
      unscaled.masks.recurrent_dropout.on = false;
      copy_entering(run, unscaled, chunk, buffers.entering);
      steps.entering = buffers.entering;
    }
    steps.kept = side.gradients;
    steps.gradients = gradients_of(run, side, index);
    if (p.reserve == ReservePolicy::kKeep) {
      steps.kept = static_cast<T const*>(run.tensors.reserve.data) + reserve_offset(index);
    } else if (p.reserve == ReservePolicy::kOverwrite) {
      steps.kept = steps.gradients;
    } else {
      recompute(run, buffers, side, index);
    }
    return steps;
  }

  /// Enqueues the copy of the states that entered a chunk's steps, as they multiplied R.
  void copy_entering(BackwardRun<T> const& run, LayerView<T> const& layer,
                     BackwardChunk const& chunk, T* to) const {
    constexpr std::int64_t kUnits = kCopiedUnits<T>;
    EnteringState<T> const& from = run.entering;
    bool const wide = problem_.hidden_size % kUnits == 0 && from.h_rows.step % kUnits == 0 &&
                      from.h_rows.sample % kUnits == 0 &&
                      reinterpret_cast<std::uintptr_t>(from.h) % 16 == 0;
    std::int64_t const step_groups = (chunk.steps + kCopiedSteps - 1) / kCopiedSteps;
    launch_elementwise(entering_operand_kernel<T>, run.execution.stream,
                       step_groups * problem_.batch, (problem_.hidden_size + kUnits - 1) / kUnits,
                       layer, from, chunk.first_time, chunk.steps, wide, to);
  }

  std::int64_t reserve_offset(std::size_t index) const {
    return chunks_[index].first_time * problem_.batch * 4 * problem_.hidden_size;
  }

  T* gradients_of(BackwardRun<T> const& run, Side const& side, std::size_t index) const {
    if (problem_.reserve != ReservePolicy::kOverwrite) return side.gradients;
    return static_cast<T*>(run.tensors.overwritten_reserve.data) + reserve_offset(index);
  }

  /// Fills the chunk's reserve rows in the workspace from x and h.
  void recompute(BackwardRun<T> const& run, Buffers const& buffers, Side const& side,
                 std::size_t index) const {
    Problem const& p = problem_;
    std::int64_t const H = p.hidden_size;
    double const scale = recurrent_scale(p);
    ChunkProducts<T> const& products = products_.at(chunks_[index].steps);
    Recompute<T> work;
    work.first_time = chunks_[index].first_time;
    work.steps = chunks_[index].steps;
    work.p = buffers.p;
    work.q = buffers.q;
    work.reserve = side.gradients;
    std::int64_t const rows = work.steps * p.batch;
    Rows const x_rows = sequence_rows(p, p.pitch.x, p.input_size);
    products.input.run(run.execution, 1, run.tensors.x + x_rows.at(work.first_time, 0),
                       run.weights.kernel, 0, buffers.p, buffers.product_workspace);
    products.recompute_gates.run(run.execution, scale, side.operands, run.recurrent.data, 0,
                                 buffers.q, buffers.product_workspace);
    if (is_after(p)) {
      launch_elementwise(recompute_kernel<T, Variant::kResetAfter>, run.execution.stream, rows, H,
                         run.layer, work);
      return;
    }
    launch_elementwise(recompute_reset_kernel<T>, run.execution.stream, rows, H, run.layer,
                       run.entering, work);
    products.recompute_candidate.run(run.execution, scale, side.gradients + 3 * H,
                                     run.recurrent.gates_from(GateColumns::g), 0,
                                     buffers.q + GateColumns::g * H, buffers.product_workspace);
    launch_elementwise(recompute_kernel<T, Variant::kResetBefore>, run.execution.stream, rows, H,
                       run.layer, work);
  }

  /// dx, dW and dR of a chunk whose gradients of the pre-activations are known.
  void add_products(Execution const& execution, BackwardRun<T> const& run, Buffers const& buffers,
                    Side const& side, std::size_t index) const {
    Problem const& p = problem_;
    BackwardTensors<T> const& t = run.tensors;
    ChunkProducts<T> const& products = products_.at(chunks_[index].steps);
    T const* const gradients = gradients_of(run, side, index);
    std::int64_t const H = p.hidden_size;
    bool const first = index + 1 == chunks_.size();  // the first that is done
    auto const beta_of = [&](SumsIn where, bool accumulate) {
      return !first || (where == SumsIn::kPlace && accumulate) ? 1.0 : 0.0;
    };
    cudaStream_t const stream = execution.stream;
    std::int64_t const steps = chunks_[index].steps;
    parts_.split_gradients(stream, p, steps, gradients, buffers.parts);
    if (t.dx != nullptr) {
      Rows const rows = sequence_rows(p, p.pitch.dx, p.input_size);
      products.dx.run(execution, gradients, kernel_matrix(p, run.weights.kernel),
                      p.accumulate.dx ? 1 : 0, t.dx + rows.at(chunks_[index].first_time, 0),
                      buffers.parts, buffers.product_workspace);
    }
    if (t.dkernel) {
      bool const placed = kernel_sums_ == SumsIn::kPlace;
      T const* const x = x_of_chunk(execution, run, buffers, index);
      parts_.split_input(stream, p, steps, x, buffers.parts);
      products.dkernel.run(execution, x, gradients, beta_of(kernel_sums_, p.accumulate.dkernel),
                           placed ? t.dkernel.data() : buffers.kernel_sums, buffers.parts,
                           buffers.product_workspace);
    }
    if (t.drecurrent_kernel) {
      bool const placed = recurrent_sums_ == SumsIn::kPlace;
      double const beta = beta_of(recurrent_sums_, p.accumulate.drecurrent_kernel);
      WeightMatrix<T> const place{
          nullptr, placed ? recurrent_kernel_pitch(p) : tight_recurrent_pitch(), by_input(p), H};
      auto const size = static_cast<std::int64_t>(size_of(sums_type(recurrent_sums_)));
      auto* const out =
          static_cast<std::byte*>(placed ? t.drecurrent_kernel.data() : buffers.recurrent_sums);
      std::int64_t const g = GateColumns::g;
      parts_.split_recurrent_operands(stream, p, steps, side.operands, buffers.parts);
      products.drecurrent_gates.run(execution, side.operands, gradients, beta, out, buffers.parts,
                                    buffers.product_workspace);
      products.drecurrent_candidate.run(execution, is_after(p) ? side.operands : gradients + 3 * H,
                                        gradients + (is_after(p) ? 3 : g) * H, beta,
                                        out + place.block(g) * size, buffers.parts,
                                        buffers.product_workspace);
    }
  }

  T const* x_of_chunk(Execution const& execution, BackwardRun<T> const& run, Buffers const& buffers,
                      std::size_t index) const {
    Problem const& p = problem_;
    Rows const rows = sequence_rows(p, p.pitch.x, p.input_size);
    BackwardChunk const& chunk = chunks_[index];
    if (!gathers_x()) return run.tensors.x + rows.at(chunk.first_time, 0);
    launch_elementwise(gather_rows_kernel<T>, execution.stream, chunk.steps * p.batch, p.input_size,
                       run.tensors.x, rows, chunk.first_time, chunk.steps, p.batch, p.input_size,
                       buffers.x);
    return buffers.x;
  }

  /// What remains once all steps are done.
  void finish(BackwardRun<T> const& run, Buffers const& buffers) const {
    Problem const& p = problem_;
    BackwardTensors<T> const& t = run.tensors;
    cudaStream_t const stream = run.execution.stream;
    if (t.dh0) {
      launch_elementwise(initial_gradient_kernel<T>, stream, p.batch, p.hidden_size, run.layer,
                         run.direct, run.through_r, steps_.through_parts(), t.dh0,
                         pitch_or(p.pitch.dh0, p.hidden_size), p.accumulate.dh0);
    }
    if (chunks_.empty()) return;
    if (wants_biases(t)) {
      auto const columns = static_cast<unsigned>(3 * p.hidden_size);
      bias_gradient_kernel<T><<<columns, kBiasThreads, 0, stream>>>(
          run.layer, run.bias_sums, is_after(p), t.dbias, p.accumulate.dbias, t.drecurrent_bias,
          p.accumulate.drecurrent_bias);
      GRU_CUDA_TRY(cudaGetLastError());
    }
    if (t.dkernel && kernel_sums_ == SumsIn::kWorkspace) {
      bool const in_rows = by_input(p);
      std::int64_t const gates = 3 * p.hidden_size;
      WeightView const view{p.hidden_size, in_rows ? p.input_size : gates,
                            in_rows ? gates : p.input_size, kernel_pitch(p), in_rows};
      Masks const unmasked;
      launch_elementwise(finish_weight_gradient_kernel<T>, stream, view.rows, view.columns,
                         unmasked, run.layer.columns, view, buffers.kernel_sums, t.dkernel,
                         p.accumulate.dkernel);
    }
    if (t.drecurrent_kernel && recurrent_sums_ == SumsIn::kWorkspace) {
      WeightView const view = recurrent_view<T>(p);
      launch_elementwise(finish_weight_gradient_kernel<T>, stream, view.rows, view.columns,
                         run.layer.masks, run.layer.columns, view, buffers.recurrent_sums,
                         t.drecurrent_kernel, p.accumulate.drecurrent_kernel);
    }
  }

  Problem problem_;
  Steps steps_;
  GradientParts parts_;
  std::vector<BackwardChunk> chunks_;  // in the order of forward's steps
  std::int64_t chunk_steps_ = 0;       // the most
  std::size_t sides_ = 1;
  SumsIn kernel_sums_ = SumsIn::kPlace;
  SumsIn recurrent_sums_ = SumsIn::kPlace;
  std::map<std::int64_t, ChunkProducts<T>> products_;  // by steps
  std::size_t product_workspace_ = 0;
  std::unique_ptr<OverlapEvents> events_;  // null: products wait their turn
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
