// SPDX-License-Identifier: Apache-2.0
#include "support/engine.hpp"

#include <Eigen/Core>
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cstring>
#include <string>
#include <utility>

#include "support/placement.hpp"

namespace gru::test {
namespace {

/// Bytes of a value.
std::size_t size_of(DataType type) {
  switch (type) {
    case DataType::kFloat:
      return sizeof(float);
    case DataType::kDouble:
      return sizeof(double);
    case DataType::kHalf:
    case DataType::kBfloat16:
      return sizeof(std::uint16_t);
  }
  return 0;
}

/// Calls f with a value of the host's type.
template <typename Function>
void with_type(DataType type, Function f) {
  switch (type) {
    case DataType::kFloat:
      return f(float{});
    case DataType::kDouble:
      return f(double{});
    case DataType::kHalf:
      return f(Eigen::half{});
    case DataType::kBfloat16:
      return f(Eigen::bfloat16{});
  }
}

template <typename V>
void store(std::byte* at, double value) {
  V typed;
  if constexpr (std::is_same_v<V, double>) {
    typed = value;
  } else {
    typed = static_cast<V>(static_cast<float>(value));
  }
  std::memcpy(at, &typed, sizeof typed);
}

template <typename V>
double load(std::byte const* at) {
  V typed;
  std::memcpy(&typed, at, sizeof typed);
  return static_cast<double>(typed);
}

RawBytes poison(std::size_t bytes) {
  return RawBytes(bytes, kPoison);
}

/// The canonical values as they lie in memory, gaps poisoned.
RawBytes lay_out(Values const& values, Placement const& placement, DataType type) {
  std::size_t const size = size_of(type);
  RawBytes image = poison(static_cast<std::size_t>(placement.elements) * size);
  REQUIRE(values.size() == placement.index.size());
  with_type(type, [&](auto typed) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      std::byte* const at = image.data() + static_cast<std::size_t>(placement.index[i]) * size;
      store<decltype(typed)>(at, values[i]);
    }
  });
  return image;
}

RawBytes lay_out(Bytes const& values, Placement const& placement) {
  RawBytes image = poison(static_cast<std::size_t>(placement.elements));
  REQUIRE(values.size() == placement.index.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    image[static_cast<std::size_t>(placement.index[i])] = std::byte{values[i]};
  }
  return image;
}

template <typename V>
RawBytes bytes_of(std::vector<V> const& values) {
  RawBytes image(values.size() * sizeof(V));
  if (!image.empty()) std::memcpy(image.data(), values.data(), image.size());
  return image;
}

/// A tensor of the caller's in the engine's memory.
class Tensor {
 public:
  Tensor() = default;
  Tensor(Allocate const& allocate, std::string name, Placement placement, DataType type,
         RawBytes image, bool unaligned)
      : name_{std::move(name)}, placement_{std::move(placement)}, type_{type} {
    block_ = std::make_unique<Block>(allocate, name_, std::move(image),
                                     unaligned ? size_of(type) : std::size_t{0});
  }

  template <typename V>
  V* as() const {
    return block_ == nullptr ? nullptr : reinterpret_cast<V*>(block_->data());
  }

  /// As T or float, whichever the tensor has; V is T or T const.
  template <typename V>
  OrFloat<V> as_or_float() const {
    using Float = std::conditional_t<std::is_const_v<V>, float const, float>;
    if (block_ == nullptr) return {};
    if (type_ == DataType::kFloat) return OrFloat<V>{as<Float>()};
    return OrFloat<V>{as<V>()};
  }

  /// The canonical values; fails the test where a gap was written to.
  Values read() const {
    if (block_ == nullptr) return {};
    RawBytes const bytes = block_->read();
    std::size_t const size = size_of(type_);
    std::vector<bool> used(static_cast<std::size_t>(placement_.elements), false);
    Values values;
    values.reserve(placement_.index.size());
    with_type(type_, [&](auto typed) {
      for (std::int64_t const i : placement_.index) {
        used[static_cast<std::size_t>(i)] = true;
        values.push_back(load<decltype(typed)>(bytes.data() + static_cast<std::size_t>(i) * size));
      }
    });
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      if (!used[i / size] && bytes[i] != kPoison) FAIL(name_ << ": a gap between rows was written");
    }
    return values;
  }

  void check_unchanged() const {
    if (block_ != nullptr) block_->check_unchanged();
  }

 private:
  std::string name_;
  Placement placement_;
  DataType type_ = DataType::kDouble;
  std::unique_ptr<Block> block_;
};

/// Makes the tensors of one layer.
template <typename T>
class Maker {
 public:
  Maker(Backend<T> const& backend, bool unaligned)
      : allocate_{[&backend](std::size_t bytes) { return backend.allocate(bytes); }},
        unaligned_{unaligned} {}

  Allocate const& allocate() const { return allocate_; }

  /// Null where there are no values though the tensor is not empty.
  Tensor input(char const* name, Values const& values, Placement const& placement,
               DataType type) const {
    if (values.empty() && !placement.index.empty()) return {};
    return {allocate_, name, placement, type, lay_out(values, placement, type), unaligned_};
  }

  /// What an output holds before the run: poison or, where it accumulates, `held` or zeros.
  Tensor output(char const* name, bool wanted, Placement const& placement, DataType type,
                bool accumulate = false, Values const& held = {}) const {
    if (!wanted) return {};
    RawBytes image = poison(static_cast<std::size_t>(placement.elements) * size_of(type));
    if (accumulate) {
      Values const values = held.empty() ? Values(placement.index.size(), 0.0) : held;
      image = lay_out(values, placement, type);
    }
    return {allocate_, name, placement, type, std::move(image), unaligned_};
  }

  std::unique_ptr<Block> mask(char const* name, bool present, Bytes const& values,
                              Placement const& placement) const {
    if (!present) return nullptr;
    return std::make_unique<Block>(allocate_, name, lay_out(values, placement),
                                   unaligned_ ? std::size_t{1} : std::size_t{0});
  }

  template <typename V>
  std::unique_ptr<Block> array(char const* name, bool present, std::vector<V> const& values) const {
    if (!present) return nullptr;
    return std::make_unique<Block>(allocate_, name, bytes_of(values),
                                   unaligned_ ? sizeof(V) : std::size_t{0});
  }

  std::unique_ptr<Block> reserve(std::size_t bytes, bool present) const {
    if (!present) return nullptr;
    return std::make_unique<Block>(allocate_, "the reserve", poison(bytes),
                                   unaligned_ ? sizeof(T) : std::size_t{0});
  }

  Block workspace(Problem const& p, std::size_t bytes) const {
    CHECK(bytes <= p.workspace_limit);
    return Block{allocate_, "the workspace", poison(bytes)};
  }

 private:
  Allocate allocate_;
  bool unaligned_;
};

template <typename V>
V const* pointer(std::unique_ptr<Block> const& block) {
  return block == nullptr ? nullptr : reinterpret_cast<V const*>(block->data());
}

bool brings(Problem const& p, Dropping const& option) {
  return p.stochastic && option.mask == MaskSource::kCaller;
}

/// What forward, step and backward read alike, in the engine's memory.
template <typename T>
struct Inputs {
  Inputs(Maker<T> const& make, Layer const& layer) {
    Problem const& p = layer.problem;
    DataType const type = DataTypeOf<T>::value;
    std::int64_t const H = layer.H();
    x = make.input("x", layer.x, place_sequence(p, layer.C(), p.pitch.x), type);
    h0 = make.input("h0", layer.h0, place_state(p, H, p.pitch.h0), state_type(p, type));
    kernel = make.input("the kernel", layer.kernel, place_kernel(p), type);
    recurrent_kernel =
        make.input("the recurrent kernel", layer.recurrent_kernel, place_recurrent_kernel(p), type);
    bias = make.input("the bias", layer.bias, place_bias(p), type);
    recurrent_bias = make.input("the recurrent bias", layer.recurrent_bias, place_bias(p), type);
    lengths = make.array("lengths", p.lengths, layer.lengths);
    host_lengths = layer.lengths;
    episode_starts = make.mask("episode_starts", p.episode_starts, layer.episode_starts,
                               place_sequence(p, 1, p.pitch.episode_starts));
    zoneout_mask = make.mask("the zoneout mask", brings(p, p.zoneout), layer.zoneout_mask,
                             place_sequence(p, H, p.pitch.zoneout_mask));
    dropconnect_mask = make.mask("the DropConnect mask", brings(p, p.dropconnect),
                                 layer.dropconnect_mask, place_dropconnect_mask(p));
    recurrent_dropout_mask =
        make.mask("the recurrent dropout mask", brings(p, p.recurrent_dropout),
                  layer.recurrent_dropout_mask, place_state(p, H, p.pitch.recurrent_dropout_mask));
    random = layer.random;
    random.state = nullptr;
    if (layer.random_by_pointer) {
      random_state = make.array("random.state", true,
                                std::vector<std::uint64_t>{layer.random.seed, layer.random.offset});
      random =
          Random{~layer.random.seed, ~layer.random.offset, pointer<std::uint64_t>(random_state)};
    }
  }

  Weights<T> weights() const {
    Weights<T> w;
    w.kernel = kernel.template as<T const>();
    w.recurrent_kernel = recurrent_kernel.template as<T const>();
    w.bias = bias.template as<T const>();
    w.recurrent_bias = recurrent_bias.template as<T const>();
    return w;
  }

  /// Sets the fields that ForwardTensors, StepTensors and BackwardTensors share.
  template <typename Tensors>
  void set_common(Tensors& tensors) const {
    tensors.x = x.template as<T const>();
    tensors.episode_starts = pointer<std::uint8_t>(episode_starts);
    tensors.zoneout_mask = pointer<std::uint8_t>(zoneout_mask);
    tensors.dropconnect_mask = pointer<std::uint8_t>(dropconnect_mask);
    tensors.recurrent_dropout_mask = pointer<std::uint8_t>(recurrent_dropout_mask);
    tensors.random = random;
  }

  void check_unchanged() const {
    for (Tensor const* t : {&x, &h0, &kernel, &recurrent_kernel, &bias, &recurrent_bias}) {
      t->check_unchanged();
    }
    for (auto const* b : {&lengths, &episode_starts, &zoneout_mask, &dropconnect_mask,
                          &recurrent_dropout_mask, &random_state}) {
      if (*b != nullptr) (*b)->check_unchanged();
    }
  }

  Tensor x, h0, kernel, recurrent_kernel, bias, recurrent_bias;
  std::unique_ptr<Block> lengths, episode_starts, zoneout_mask, dropconnect_mask,
      recurrent_dropout_mask, random_state;
  std::vector<std::int32_t> host_lengths;
  Random random;
};

/// The rows of step t.
template <typename V>
V step_of(V const& sequence, std::int64_t t, std::int64_t rows, std::int64_t width) {
  auto const begin = sequence.begin() + t * rows * width;
  return {begin, begin + rows * width};
}

/// Step t of a layer as a layer of one step.
Layer single_step(Layer const& layer, std::int64_t t) {
  Layer step = layer;
  step.problem.steps = 1;
  step.problem.keep_for_backward = false;
  step.x = step_of(layer.x, t, layer.N(), layer.C());
  if (brings(layer.problem, layer.problem.zoneout)) {
    step.zoneout_mask = step_of(layer.zoneout_mask, t, layer.N(), layer.H());
  }
  if (layer.problem.episode_starts) {
    bool const reverse = layer.problem.direction == Direction::kReverse;
    Bytes const none(static_cast<std::size_t>(layer.N()), 0);
    bool const has_cleared_by = !reverse || t + 1 < layer.T();
    step.episode_starts =
        has_cleared_by ? step_of(layer.episode_starts, reverse ? t + 1 : t, layer.N(), 1) : none;
  }
  return step;
}

bool same_bits(Values const& a, Values const& b) {
  if (a.size() != b.size()) return false;
  return a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0;
}

template <typename T>
Problem problem_of(Backend<T> const& backend, Layer const& layer) {
  return layer.small_workspace ? with_small_workspace(backend, layer.problem) : layer.problem;
}

/// One layer's passes, with all their tensors but the sequences h, dh and dx.
template <typename T>
class LayerRun {
 public:
  LayerRun(Backend<T> const& backend, Layer const& layer)
      : backend_{backend},
        problem_{problem_of(backend, layer)},
        make_{backend, layer.unaligned},
        inputs_{make_, layer},
        bytes_{backend.forward_bytes(problem_)} {
    Problem const& p = problem_;
    CHECK(bytes_.reserve == static_cast<std::size_t>(reserve_values(p)) * sizeof(T));
    DataType const type = DataTypeOf<T>::value;
    DataType const state = state_type(p, type);
    std::int64_t const H = layer.H();
    final_state_ = make_.output("the final state", layer.wanted.final_state,
                                place_state(p, H, p.pitch.final_state), state);
    if (!p.keep_for_backward) return;
    DataType const weights = weight_gradient_type(p, type);
    Wanted const& wanted = layer.wanted;
    Accumulate const& add = p.accumulate;
    Results const& held = layer.held;
    reserve_ = make_.reserve(bytes_.reserve, p.reserve != ReservePolicy::kRecompute);
    dfinal_state_ = make_.input("the gradient of the final state", layer.dfinal_state,
                                place_state(p, H, p.pitch.dfinal_state), state);
    dkernel_ = make_.output("dkernel", wanted.dkernel, place_kernel(p), weights, add.dkernel,
                            held.dkernel);
    drecurrent_kernel_ =
        make_.output("drecurrent_kernel", wanted.drecurrent_kernel, place_recurrent_kernel(p),
                     weights, add.drecurrent_kernel, held.drecurrent_kernel);
    dbias_ = make_.output("dbias", wanted.dbias, place_bias(p), weights, add.dbias, held.dbias);
    drecurrent_bias_ = make_.output("drecurrent_bias", wanted.drecurrent_bias, place_bias(p),
                                    weights, add.drecurrent_bias, held.drecurrent_bias);
    dh0_ =
        make_.output("dh0", wanted.dh0, place_state(p, H, p.pitch.dh0), state, add.dh0, held.dh0);
  }

  Problem const& problem() const { return problem_; }
  Maker<T> const& make() const { return make_; }

  void forward(T* h) {
    Block const workspace = make_.workspace(problem_, bytes_.workspace);
    ForwardTensors<T> tensors;
    inputs_.set_common(tensors);
    tensors.h0 = inputs_.h0.template as_or_float<T const>();
    tensors.lengths = pointer<std::int32_t>(inputs_.lengths);
    if (problem_.host_lengths) tensors.host_lengths = inputs_.host_lengths.data();
    tensors.h = h;
    tensors.final_state = final_state_.template as_or_float<T>();
    if (reserve_ != nullptr) tensors.reserve = {reserve_->data(), reserve_->bytes()};
    backend_.forward(problem_, inputs_.weights(), tensors, {workspace.data(), workspace.bytes()});
    workspace.read();
    inputs_.check_unchanged();
    if (reserve_ != nullptr) reserve_->write(reserve_->read());
  }

  void backward(T const* h, T const* dh, T* dx) {
    Problem const& p = problem_;
    Block const workspace = make_.workspace(p, backend_.backward_bytes(p).workspace);
    BackwardTensors<T> tensors;
    inputs_.set_common(tensors);
    tensors.h0 = inputs_.h0.template as_or_float<T const>();
    tensors.lengths = pointer<std::int32_t>(inputs_.lengths);
    tensors.h = h;
    tensors.dh = dh;
    tensors.dfinal_state = dfinal_state_.template as_or_float<T const>();
    if (p.reserve == ReservePolicy::kKeep) tensors.reserve = {reserve_->data(), reserve_->bytes()};
    if (p.reserve == ReservePolicy::kOverwrite) {
      tensors.overwritten_reserve = {reserve_->data(), reserve_->bytes()};
    }
    tensors.dx = dx;
    tensors.dkernel = dkernel_.template as_or_float<T>();
    tensors.drecurrent_kernel = drecurrent_kernel_.template as_or_float<T>();
    tensors.dbias = dbias_.template as_or_float<T>();
    tensors.drecurrent_bias = drecurrent_bias_.template as_or_float<T>();
    tensors.dh0 = dh0_.template as_or_float<T>();
    backend_.backward(p, inputs_.weights(), tensors, {workspace.data(), workspace.bytes()});
    workspace.read();
    inputs_.check_unchanged();
    dfinal_state_.check_unchanged();
    if (p.reserve == ReservePolicy::kKeep) reserve_->check_unchanged();
    if (p.reserve == ReservePolicy::kOverwrite) reserve_->read();
  }

  Values final_state() const { return final_state_.read(); }

  /// Those of the weights, the biases and h0.
  Results gradients() const {
    Results results;
    results.dkernel = dkernel_.read();
    results.drecurrent_kernel = drecurrent_kernel_.read();
    results.dbias = dbias_.read();
    results.drecurrent_bias = drecurrent_bias_.read();
    results.dh0 = dh0_.read();
    return results;
  }

 private:
  Backend<T> const& backend_;
  Problem problem_;
  Maker<T> make_;
  Inputs<T> inputs_;
  PassBytes bytes_;
  std::unique_ptr<Block> reserve_;
  Tensor final_state_, dfinal_state_, dkernel_, drecurrent_kernel_, dbias_, drecurrent_bias_, dh0_;
};

/// [rows, 2 * width] of two [rows, width].
Values side_by_side(Values const& a, Values const& b, std::int64_t width) {
  Values both;
  for (std::size_t i = 0; i < a.size(); i += static_cast<std::size_t>(width)) {
    for (Values const* half : {&a, &b}) {
      auto const row = half->begin() + static_cast<std::ptrdiff_t>(i);
      both.insert(both.end(), row, row + width);
    }
  }
  return both;
}

}  // namespace

template <typename T>
Problem with_small_workspace(Backend<T> const& backend, Problem problem) {
  auto const bytes_under = [&](std::size_t limit) {
    problem.workspace_limit = limit;
    std::size_t const forward = backend.forward_bytes(problem).workspace;
    if (!problem.keep_for_backward) return forward;
    return std::max(forward, backend.backward_bytes(problem).workspace);
  };
  auto const is_enough = [&](std::size_t limit) {
    try {
      bytes_under(limit);
      return true;
    } catch (InvalidArgument const&) {
      return false;
    }
  };
  std::size_t enough = bytes_under(problem.workspace_limit);
  std::size_t too_little = 0;
  while (enough - too_little > enough / 64 + 1) {
    std::size_t const middle = too_little + (enough - too_little) / 2;
    (is_enough(middle) ? enough : too_little) = middle;
  }
  problem.workspace_limit = enough;
  return problem;
}

template <typename T>
Results run_layer(Backend<T> const& backend, Layer const& layer) {
  LayerRun<T> run{backend, layer};
  Problem const& p = run.problem();
  DataType const type = DataTypeOf<T>::value;
  Placement const h_rows = place_sequence(p, layer.H(), p.pitch.h);
  Tensor const h = run.make().output("h", true, h_rows, type);
  run.forward(h.as<T>());
  Values const h_before = h.read();
  Results results;
  if (p.keep_for_backward) {
    Tensor const dh =
        run.make().input("dh", layer.dh, place_sequence(p, layer.H(), p.pitch.dh), type);
    Tensor const dx =
        run.make().output("dx", layer.wanted.dx, place_sequence(p, layer.C(), p.pitch.dx), type,
                          p.accumulate.dx, layer.held.dx);
    run.backward(h.as<T const>(), dh.as<T const>(), dx.as<T>());
    dh.check_unchanged();
    results = run.gradients();
    results.dx = dx.read();
  }
  results.h = h.read();
  if (!same_bits(results.h, h_before)) FAIL("backward wrote into h");
  results.final_state = run.final_state();
  return results;
}

template <typename T>
BidirectionalResults run_bidirectional(Backend<T> const& backend, Layer forward, Layer reverse) {
  DataType const type = DataTypeOf<T>::value;
  std::int64_t const H = forward.H();
  for (Layer* layer : {&forward, &reverse}) {
    layer->problem.pitch.h = 2 * H;
    layer->problem.pitch.dh = 2 * H;
  }
  forward.problem.direction = Direction::kForward;
  reverse.problem.direction = Direction::kReverse;
  reverse.problem.accumulate.dx = true;
  LayerRun<T> runs[] = {{backend, forward}, {backend, reverse}};
  Maker<T> const& make = runs[0].make();
  Placement const both = place_sequence(forward.problem, 2 * H, 0);
  Tensor const h = make.output("h", true, both, type);
  Tensor const dh = make.input("dh", side_by_side(forward.dh, reverse.dh, H), both, type);
  Tensor const dx = make.output(
      "dx", true, place_sequence(forward.problem, forward.C(), forward.problem.pitch.dx), type);
  for (std::int64_t half = 0; half < 2; ++half) runs[half].forward(h.as<T>() + half * H);
  BidirectionalResults results;
  results.h = h.read();
  for (std::int64_t half = 0; half < 2; ++half) {
    runs[half].backward(h.as<T const>() + half * H, dh.as<T const>() + half * H, dx.as<T>());
  }
  if (!same_bits(h.read(), results.h)) FAIL("backward wrote into h");
  dh.check_unchanged();
  results.dx = dx.read();
  results.forward = runs[0].gradients();
  results.forward.final_state = runs[0].final_state();
  results.reverse = runs[1].gradients();
  results.reverse.final_state = runs[1].final_state();
  return results;
}

template <typename T>
Results stream_layer(Backend<T> const& backend, Layer const& layer, Streaming streaming) {
  REQUIRE_FALSE(layer.problem.lengths);
  DataType const type = DataTypeOf<T>::value;
  std::int64_t const H = layer.H();
  bool const reverse = layer.problem.direction == Direction::kReverse;
  Results results;
  if (streaming.with_h) results.h.resize(static_cast<std::size_t>(layer.T() * layer.N() * H));
  Values state = layer.h0;
  for (std::int64_t i = 0; i < layer.T(); ++i) {
    std::int64_t const t = reverse ? layer.T() - 1 - i : i;
    Layer step = single_step(layer, t);
    step.h0 = state;
    Problem& p = step.problem;
    if (streaming.in_place) p.pitch.final_state = p.pitch.h0;
    Maker<T> const make{backend, layer.unaligned};
    Inputs<T> inputs{make, step};
    bool const overwrites = streaming.in_place && !step.h0.empty();
    Tensor const fresh_state = make.output(
        "the new state", !overwrites, place_state(p, H, p.pitch.final_state), state_type(p, type));
    Tensor const old_state = std::move(inputs.h0);
    inputs.h0 = {};
    Tensor const& new_state = overwrites ? old_state : fresh_state;
    Tensor const h = make.output("h", streaming.with_h, place_state(p, H, p.pitch.h), type);
    Block const workspace = make.workspace(p, backend.forward_bytes(p).workspace);
    StepTensors<T> tensors;
    inputs.set_common(tensors);
    tensors.state = old_state.template as_or_float<T const>();
    tensors.time = t;
    tensors.new_state = new_state.template as_or_float<T>();
    tensors.h = h.template as<T>();
    backend.step(p, inputs.weights(), tensors, {workspace.data(), workspace.bytes()});
    workspace.read();
    inputs.check_unchanged();
    if (!overwrites) old_state.check_unchanged();
    state = new_state.read();
    if (!streaming.with_h) continue;
    Values const rows = h.read();
    std::copy(rows.begin(), rows.end(), results.h.begin() + t * layer.N() * H);
  }
  if (layer.wanted.final_state) {
    results.final_state =
        state.empty() ? Values(static_cast<std::size_t>(layer.N() * H), 0.0) : state;
  }
  return results;
}

#define GRU_TEST_INSTANTIATE(T)                                                        \
  template Problem with_small_workspace<T>(Backend<T> const&, Problem);                \
  template Results run_layer<T>(Backend<T> const&, Layer const&);                      \
  template BidirectionalResults run_bidirectional<T>(Backend<T> const&, Layer, Layer); \
  template Results stream_layer<T>(Backend<T> const&, Layer const&, Streaming);
GRU_TEST_INSTANTIATE(float)
GRU_TEST_INSTANTIATE(double)
GRU_TEST_INSTANTIATE(Eigen::half)
GRU_TEST_INSTANTIATE(Eigen::bfloat16)
#undef GRU_TEST_INSTANTIATE

}  // namespace gru::test
