// SPDX-License-Identifier: Apache-2.0
#include "checks/bad_input.hpp"

#include <Eigen/Core>
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstring>
#include <fstream>
#include <gru/error.hpp>
#include <limits>
#include <memory>
#include <set>
#include <sstream>
#include <type_traits>
#include <utility>

#include "support/memory.hpp"
#include "support/tolerance.hpp"

namespace gru::test {
namespace {

template <typename V>
std::string text(V const& value) {
  std::ostringstream out;
  out << value;
  return out.str();
}

constexpr std::int64_t kTwoTo20 = std::int64_t{1} << 20;
constexpr std::int64_t kTwoTo29 = std::int64_t{1} << 29;
constexpr std::int64_t kTwoTo30 = std::int64_t{1} << 30;
constexpr std::int64_t kTwoTo31 = std::int64_t{1} << 31;
constexpr std::int64_t kTwoTo40 = std::int64_t{1} << 40;
constexpr std::int64_t kTwoTo60 = std::int64_t{1} << 60;

/// Collects rows of Problems.
class ProblemRows {
 public:
  template <typename Change>
  void add(std::string row, std::string what, Words words, Change change) {
    Problem p = valid_problem();
    change(p);
    rows_.push_back({std::move(row), std::move(what), p, std::move(words)});
  }

  std::vector<BadProblem> take() { return std::move(rows_); }

 private:
  std::vector<BadProblem> rows_;
};

void add_sizes(ProblemRows& rows) {
  std::int64_t const least = std::numeric_limits<std::int64_t>::min();
  rows.add("negative size", "steps of -1", {"steps (T)", "-1"}, [](Problem& p) { p.steps = -1; });
  rows.add("negative size", "batch of -7", {"batch (N)", "-7"}, [](Problem& p) { p.batch = -7; });
  rows.add("negative size", "the least batch", {"batch (N)", text(least)},
           [=](Problem& p) { p.batch = least; });
  rows.add("C or H below 1", "input_size of 0", {"input_size (C)", " 0,"},
           [](Problem& p) { p.input_size = 0; });
  rows.add("C or H below 1", "input_size of -3", {"input_size (C)", "-3"},
           [](Problem& p) { p.input_size = -3; });
  rows.add("C or H below 1", "hidden_size of 0", {"hidden_size (H)", " 0,"},
           [](Problem& p) { p.hidden_size = 0; });
  rows.add("C or H below 1", "hidden_size of -3", {"hidden_size (H)", "-3"},
           [](Problem& p) { p.hidden_size = -3; });

  rows.add("size beyond a matrix product", "input_size of 2^31", {"input_size (C)", "2147483648"},
           [](Problem& p) { p.input_size = kTwoTo31; });
  rows.add("size beyond a matrix product", "batch of 2^31", {"batch (N)", "2147483648"},
           [](Problem& p) { p.batch = kTwoTo31; });
  rows.add("size beyond a matrix product", "hidden_size of 2^29",
           {"hidden_size (H) times 4", "2147483648"}, [](Problem& p) { p.hidden_size = kTwoTo29; });
  rows.add("size beyond a matrix product", "hidden_size of 2^60",
           {"hidden_size (H)", text(kTwoTo60)}, [](Problem& p) { p.hidden_size = kTwoTo60; });

  rows.add("sizes that overflow", "x", {"x overflows", "1099511627776 x 1048576 x 4"},
           [](Problem& p) {
             p.steps = kTwoTo40;
             p.batch = kTwoTo20;
           });
  rows.add("sizes that overflow", "h by its pitch", {"h overflows", "3 x 2 x 1152921504606846976"},
           [](Problem& p) { p.pitch.h = kTwoTo60; });
  rows.add("sizes that overflow", "the reserve",
           {"the reserve overflows", "1073741824 x 1048576 x 4 x 256"}, [](Problem& p) {
             p.steps = kTwoTo30;
             p.batch = kTwoTo20;
             p.hidden_size = 256;
           });
  rows.add("sizes that overflow", "x by its pitch, without steps",
           {"x overflows", "1073741824 x 1099511627776"}, [](Problem& p) {
             p.steps = 0;
             p.batch = kTwoTo30;
             p.pitch.x = kTwoTo40;
           });
  rows.add("sizes that overflow", "the kernel by its pitch", {"the kernel overflows"},
           [](Problem& p) { p.weight_format.kernel_pitch = kTwoTo60; });
}

void add_pitches(ProblemRows& rows) {
  struct Pitch {
    char const* name;
    std::int64_t RowPitches::*pitch;
    std::int64_t width;
  };
  Problem const p = valid_problem();
  std::int64_t const C = p.input_size;
  std::int64_t const H = p.hidden_size;
  for (Pitch const& pitch : {
           Pitch{"x", &RowPitches::x, C},
           Pitch{"h", &RowPitches::h, H},
           Pitch{"dx", &RowPitches::dx, C},
           Pitch{"dh", &RowPitches::dh, H},
           Pitch{"h0", &RowPitches::h0, H},
           Pitch{"final_state", &RowPitches::final_state, H},
           Pitch{"dh0", &RowPitches::dh0, H},
           Pitch{"dfinal_state", &RowPitches::dfinal_state, H},
           Pitch{"episode_starts", &RowPitches::episode_starts, 1},
           Pitch{"zoneout_mask", &RowPitches::zoneout_mask, H},
           Pitch{"recurrent_dropout_mask", &RowPitches::recurrent_dropout_mask, H},
       }) {
    for (std::int64_t const value : {pitch.width - 1, std::int64_t{-1}}) {
      if (value == 0) continue;
      rows.add(
          "row pitch too small", text(pitch.name) + " by " + text(value),
          {"row pitch of " + text(pitch.name) + " is " + text(value), "width " + text(pitch.width)},
          [&](Problem& bad) { bad.pitch.*pitch.pitch = value; });
    }
  }
  auto const add_weights = [&](char const* name, WeightFormat format,
                               std::int64_t WeightFormat::*pitch, std::int64_t width) {
    format.*pitch = width - 1;
    rows.add("row pitch too small", text(name) + " of width " + text(width),
             {"row pitch of " + text(name) + " is " + text(width - 1), "width " + text(width)},
             [&](Problem& bad) { bad.weight_format = format; });
  };
  add_weights("the kernel", WeightFormat::keras(), &WeightFormat::kernel_pitch, 3 * H);
  add_weights("the kernel", WeightFormat::pytorch(), &WeightFormat::kernel_pitch, C);
  add_weights("the recurrent kernel", WeightFormat::keras(), &WeightFormat::recurrent_kernel_pitch,
              3 * H);
  add_weights("the recurrent kernel", WeightFormat::pytorch(),
              &WeightFormat::recurrent_kernel_pitch, H);
}

void add_rates(ProblemRows& rows) {
  struct Option {
    char const* name;
    Dropping Problem::*option;
  };
  for (Option const& option :
       {Option{"zoneout", &Problem::zoneout}, Option{"dropconnect", &Problem::dropconnect},
        Option{"recurrent dropout", &Problem::recurrent_dropout}}) {
    double const limits[] = {-0.25,
                             1.0,
                             1.5,
                             std::numeric_limits<double>::quiet_NaN(),
                             std::numeric_limits<double>::infinity(),
                             -std::numeric_limits<double>::denorm_min()};
    for (double const rate : limits) {
      for (bool const stochastic : {true, false}) {
        rows.add("rate outside [0, 1)",
                 text(option.name) + " of " + text(rate) + (stochastic ? "" : ", not drawn"),
                 {text(option.name) + " rate is " + text(rate)}, [&](Problem& p) {
                   p.stochastic = stochastic;
                   (p.*option.option).rate = rate;
                 });
      }
    }
  }
}

void add_enumerators(ProblemRows& rows) {
  auto const add = [&](char const* name, auto set) {
    for (int const value : {99, -1}) {
      rows.add("value that is no enumerator", text(name) + " of " + text(value),
               {name, text(value)}, [&](Problem& p) { set(p, value); });
    }
  };
  add("variant", [](Problem& p, int v) { p.variant = static_cast<Variant>(v); });
  add("direction", [](Problem& p, int v) { p.direction = static_cast<Direction>(v); });
  add("layout", [](Problem& p, int v) { p.layout = static_cast<Layout>(v); });
  add("weight_format.shape",
      [](Problem& p, int v) { p.weight_format.shape = static_cast<WeightFormat::Shape>(v); });
  add("weight_format.gates",
      [](Problem& p, int v) { p.weight_format.gates = static_cast<WeightFormat::GateOrder>(v); });
  add("zoneout.mask", [](Problem& p, int v) { p.zoneout.mask = static_cast<MaskSource>(v); });
  add("dropconnect.mask",
      [](Problem& p, int v) { p.dropconnect.mask = static_cast<MaskSource>(v); });
  add("recurrent_dropout.mask",
      [](Problem& p, int v) { p.recurrent_dropout.mask = static_cast<MaskSource>(v); });
  add("reserve", [](Problem& p, int v) { p.reserve = static_cast<ReservePolicy>(v); });
  add("precision", [](Problem& p, int v) { p.precision = static_cast<Precision>(v); });
  add("state_type", [](Problem& p, int v) { p.state_type = static_cast<StateType>(v); });
  add("weight_gradient_type",
      [](Problem& p, int v) { p.weight_gradient_type = static_cast<WeightGradientType>(v); });
  add("engine", [](Problem& p, int v) { p.engine = static_cast<gru::Engine>(v); });
}

/// Which call of a pass is made.
enum class Call { kForward, kStep, kBackward };

/// A pointer moved so that no type of more than one byte is aligned there.
template <typename V>
V* misaligned(V* p) {
  return reinterpret_cast<V*>(reinterpret_cast<std::uintptr_t>(p) + 1);
}
template <typename V>
OrFloat<V> misaligned(OrFloat<V> p) {
  using Float = std::conditional_t<std::is_const_v<V>, float const, float>;
  if (p.is_float()) return OrFloat<V>{misaligned(static_cast<Float*>(p.data()))};
  return OrFloat<V>{misaligned(static_cast<V*>(p.data()))};
}
inline Reserve misaligned(Reserve r) {
  return {misaligned(static_cast<std::byte*>(r.data)), r.bytes};
}
inline ConstReserve misaligned(ConstReserve r) {
  return {misaligned(static_cast<std::byte const*>(r.data)), r.bytes};
}

template <typename V>
void const* address(V* p) {
  return p;
}
template <typename V>
void const* address(OrFloat<V> p) {
  return p.data();
}
inline void const* address(Reserve r) {
  return r.data;
}
inline void const* address(ConstReserve r) {
  return r.data;
}

/// A run with every pointer that its Problem allows, all memory poisoned.
template <typename T>
class Run {
 public:
  Run(Backend<T> const& backend, Problem const& p, Call call)
      : problem{p}, backend_{backend}, call_{call} {
    weights = {input<T>("W"), input<T>("R"), input<T>("bx"), input<T>("br")};
    if (call == Call::kForward) set_forward();
    if (call == Call::kStep) set_step();
    if (call == Call::kBackward) set_backward();
    bool const is_backward = call == Call::kBackward;
    std::size_t const bytes =
        (is_backward ? backend.backward_bytes(p) : backend.forward_bytes(p)).workspace;
    workspace = {output<std::byte>("the workspace", std::max(bytes, kBytes)), bytes};
  }

  void run() const {
    if (call_ == Call::kForward) backend_.forward(problem, weights, forward, workspace);
    if (call_ == Call::kStep) backend_.step(problem, weights, step, workspace);
    if (call_ == Call::kBackward) backend_.backward(problem, weights, backward, workspace);
  }

  void check_outputs_are_untouched() const {
    for (auto const& block : outputs_) {
      RawBytes const bytes = block->read();
      bool const untouched =
          std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == kPoison; });
      CHECK(untouched);
    }
  }

  Problem problem;
  Weights<T> weights;
  ForwardTensors<T> forward;
  StepTensors<T> step;
  BackwardTensors<T> backward;
  Workspace workspace;

 private:
  static constexpr std::size_t kBytes = 4096;  // more than any tensor of a small Problem

  static Block make(Backend<T> const& backend, char const* name, std::size_t bytes) {
    auto const allocate = [&backend](std::size_t n) { return backend.allocate(n); };
    return Block{allocate, name, RawBytes(bytes, kPoison)};
  }

  template <typename V>
  V* add(std::vector<std::unique_ptr<Block>>& blocks, char const* name, std::size_t bytes) {
    blocks.push_back(std::make_unique<Block>(make(backend_, name, bytes)));
    return reinterpret_cast<V*>(blocks.back()->data());
  }
  template <typename V>
  V* input(char const* name) {
    return add<V>(inputs_, name, kBytes);
  }
  template <typename V>
  V* output(char const* name, std::size_t bytes = kBytes) {
    return add<V>(outputs_, name, bytes);
  }

  bool has_float_state() const { return problem.state_type == StateType::kFloat; }
  OrFloat<T const> state_input(char const* name) {
    if (has_float_state()) return OrFloat<T const>{static_cast<float const*>(input<float>(name))};
    return OrFloat<T const>{static_cast<T const*>(input<T>(name))};
  }
  OrFloat<T> state_output(char const* name) {
    if (has_float_state()) return OrFloat<T>{output<float>(name)};
    return OrFloat<T>{output<T>(name)};
  }
  OrFloat<T> weight_gradient(char const* name) {
    if (problem.weight_gradient_type == WeightGradientType::kFloat) {
      return OrFloat<T>{output<float>(name)};
    }
    return OrFloat<T>{output<T>(name)};
  }

  bool brings(Dropping const& option) const {
    return problem.stochastic && option.mask == MaskSource::kCaller;
  }

  template <typename Tensors>
  void set_common(Tensors& t) {
    t.x = input<T>("x");
    if (problem.episode_starts) t.episode_starts = input<std::uint8_t>("episode starts");
    if (brings(problem.zoneout)) t.zoneout_mask = input<std::uint8_t>("zoneout mask");
    if (brings(problem.dropconnect)) t.dropconnect_mask = input<std::uint8_t>("DropConnect mask");
    if (brings(problem.recurrent_dropout)) {
      t.recurrent_dropout_mask = input<std::uint8_t>("recurrent dropout mask");
    }
    t.random.state = input<std::uint64_t>("random state");
  }

  std::size_t reserve_bytes() const {
    return static_cast<std::size_t>(reserve_values(problem)) * sizeof(T);
  }

  void set_forward() {
    set_common(forward);
    forward.h0 = state_input("h0");
    if (problem.lengths) forward.lengths = input<std::int32_t>("lengths");
    forward.h = output<T>("h");
    forward.final_state = state_output("final_state");
    if (reserve_bytes() > 0) {
      forward.reserve = {output<std::byte>("reserve", reserve_bytes()), reserve_bytes()};
    }
  }

  void set_step() {
    set_common(step);
    step.state = state_input("state");
    step.new_state = state_output("new_state");
    step.h = output<T>("h");
  }

  void set_backward() {
    set_common(backward);
    backward.h = input<T>("h");
    backward.h0 = state_input("h0");
    if (problem.lengths) backward.lengths = input<std::int32_t>("lengths");
    backward.dh = input<T>("dh");
    backward.dfinal_state = state_input("dfinal_state");
    if (problem.reserve == ReservePolicy::kKeep) {
      backward.reserve = {input<std::byte>("reserve"), reserve_bytes()};
    }
    if (problem.reserve == ReservePolicy::kOverwrite) {
      backward.overwritten_reserve = {output<std::byte>("reserve", reserve_bytes()),
                                      reserve_bytes()};
    }
    backward.dx = output<T>("dx");
    backward.dkernel = weight_gradient("dkernel");
    backward.drecurrent_kernel = weight_gradient("drecurrent_kernel");
    backward.dbias = weight_gradient("dbias");
    backward.drecurrent_bias = weight_gradient("drecurrent_bias");
    backward.dh0 = state_output("dh0");
  }

  Backend<T> const& backend_;
  Call call_;
  std::vector<std::unique_ptr<Block>> inputs_;
  std::vector<std::unique_ptr<Block>> outputs_;
};

/// One wrong thing in a run.
template <typename T>
struct BadRun {
  std::string row;
  std::string what;
  Call call;
  std::function<void(Problem&)> announce;  // what the Problem says
  std::function<Words(Run<T>&)> spoil;     // makes the run wrong; what the message must say
};

/// The rows about runs, for one type.
template <typename T>
class RunRows {
 public:
  using Announce = std::function<void(Problem&)>;
  using Spoil = std::function<Words(Run<T>&)>;

  RunRows() {
    add_null_pointers();
    add_misaligned_pointers();
    add_announcements();
    add_reserves();
    add_workspaces();
    add_steps();
    add_types();
  }

  std::vector<BadRun<T>> const& rows() const { return rows_; }

 private:
  void add(std::string row, std::string what, Call call, Announce announce, Spoil spoil) {
    rows_.push_back({std::move(row), std::move(what), call, std::move(announce), std::move(spoil)});
  }

  static void nothing(Problem&) {}
  static void for_step(Problem& p) {
    p.steps = 1;
    p.keep_for_backward = false;
  }
  static Announce plain(Call call) { return call == Call::kStep ? for_step : nothing; }

  static char const* name(Call call) {
    return call == Call::kForward ? "forward" : call == Call::kStep ? "step" : "backward";
  }

  template <typename Access>
  void null(char const* pointer, Call call, Access access) {
    add("null pointer", text(name(call)) + ": " + pointer, call, plain(call), [=](Run<T>& r) {
      access(r) = {};
      return Words{text(pointer) + " is null"};
    });
  }

  void add_null_pointers() {
    for (Call const call : {Call::kForward, Call::kStep, Call::kBackward}) {
      null(
          "weights.kernel", call, [](Run<T> & r) -> auto& { return r.weights.kernel; });
      null(
          "weights.recurrent_kernel", call,
          [](Run<T> & r) -> auto& { return r.weights.recurrent_kernel; });
    }
    null(
        "x", Call::kForward, [](Run<T> & r) -> auto& { return r.forward.x; });
    null(
        "h", Call::kForward, [](Run<T> & r) -> auto& { return r.forward.h; });
    null(
        "x", Call::kStep, [](Run<T> & r) -> auto& { return r.step.x; });
    null(
        "new_state", Call::kStep, [](Run<T> & r) -> auto& { return r.step.new_state; });
    null(
        "x", Call::kBackward, [](Run<T> & r) -> auto& { return r.backward.x; });
    null(
        "h", Call::kBackward, [](Run<T> & r) -> auto& { return r.backward.h; });
  }

  template <typename Access>
  void misalign(char const* pointer, Call call, std::size_t alignment, Access access,
                Announce announce = {}) {
    add("misaligned pointer", text(name(call)) + ": " + pointer, call,
        announce ? announce : plain(call), [=](Run<T>& r) {
          auto& p = access(r);
          REQUIRE(address(p) != nullptr);
          p = misaligned(p);
          return Words{text(pointer) + " is " + text(address(p)),
                       "not aligned to " + text(alignment) + " bytes"};
        });
  }

  void add_misaligned_pointers() {
    std::size_t const size = alignof(T);
    auto const with_lengths = [](Problem& p) { p.lengths = true; };
    auto const overwriting = [](Problem& p) { p.reserve = ReservePolicy::kOverwrite; };
    for (Call const call : {Call::kForward, Call::kStep, Call::kBackward}) {
      misalign(
          "weights.kernel", call, size, [](Run<T> & r) -> auto& { return r.weights.kernel; });
      misalign(
          "weights.recurrent_kernel", call, size,
          [](Run<T> & r) -> auto& { return r.weights.recurrent_kernel; });
      misalign(
          "weights.bias", call, size, [](Run<T> & r) -> auto& { return r.weights.bias; });
      misalign(
          "weights.recurrent_bias", call, size,
          [](Run<T> & r) -> auto& { return r.weights.recurrent_bias; });
    }
    Call call = Call::kForward;
    misalign(
        "x", call, size, [](Run<T> & r) -> auto& { return r.forward.x; });
    misalign(
        "h0", call, size, [](Run<T> & r) -> auto& { return r.forward.h0; });
    misalign(
        "lengths", call, 4, [](Run<T> & r) -> auto& { return r.forward.lengths; }, with_lengths);
    misalign(
        "random.state", call, 8, [](Run<T> & r) -> auto& { return r.forward.random.state; });
    misalign(
        "h", call, size, [](Run<T> & r) -> auto& { return r.forward.h; });
    misalign(
        "final_state", call, size, [](Run<T> & r) -> auto& { return r.forward.final_state; });
    misalign(
        "reserve", call, size, [](Run<T> & r) -> auto& { return r.forward.reserve; });
    call = Call::kStep;
    misalign(
        "x", call, size, [](Run<T> & r) -> auto& { return r.step.x; });
    misalign(
        "state", call, size, [](Run<T> & r) -> auto& { return r.step.state; });
    misalign(
        "random.state", call, 8, [](Run<T> & r) -> auto& { return r.step.random.state; });
    misalign(
        "new_state", call, size, [](Run<T> & r) -> auto& { return r.step.new_state; });
    misalign(
        "h", call, size, [](Run<T> & r) -> auto& { return r.step.h; });
    call = Call::kBackward;
    misalign(
        "x", call, size, [](Run<T> & r) -> auto& { return r.backward.x; });
    misalign(
        "h", call, size, [](Run<T> & r) -> auto& { return r.backward.h; });
    misalign(
        "h0", call, size, [](Run<T> & r) -> auto& { return r.backward.h0; });
    misalign(
        "lengths", call, 4, [](Run<T> & r) -> auto& { return r.backward.lengths; }, with_lengths);
    misalign(
        "random.state", call, 8, [](Run<T> & r) -> auto& { return r.backward.random.state; });
    misalign(
        "dh", call, size, [](Run<T> & r) -> auto& { return r.backward.dh; });
    misalign(
        "dfinal_state", call, size, [](Run<T> & r) -> auto& { return r.backward.dfinal_state; });
    misalign(
        "reserve", call, size, [](Run<T> & r) -> auto& { return r.backward.reserve; });
    misalign(
        "overwritten_reserve", call, size,
        [](Run<T> & r) -> auto& { return r.backward.overwritten_reserve; }, overwriting);
    misalign(
        "dx", call, size, [](Run<T> & r) -> auto& { return r.backward.dx; });
    misalign(
        "dkernel", call, size, [](Run<T> & r) -> auto& { return r.backward.dkernel; });
    misalign(
        "drecurrent_kernel", call, size,
        [](Run<T> & r) -> auto& { return r.backward.drecurrent_kernel; });
    misalign(
        "dbias", call, size, [](Run<T> & r) -> auto& { return r.backward.dbias; });
    misalign(
        "drecurrent_bias", call, size,
        [](Run<T> & r) -> auto& { return r.backward.drecurrent_bias; });
    misalign(
        "dh0", call, size, [](Run<T> & r) -> auto& { return r.backward.dh0; });
  }

  /// A pointer that is announced but not given, and one that is given but not announced.
  template <typename Access>
  void announced(char const* pointer, Call call, Announce announce, Access access) {
    auto const both = [=](Problem& p) {
      plain(call)(p);
      announce(p);
    };
    add("announced input missing", text(name(call)) + ": " + pointer, call, both, [=](Run<T>& r) {
      access(r) = nullptr;
      return Words{text(pointer) + " is null"};
    });
    add("input not announced", text(name(call)) + ": " + pointer, call, plain(call),
        [=](Run<T>& r) {
          // Any address will do: it must not be read.
          using Pointer = std::remove_reference_t<decltype(access(r))>;
          access(r) = reinterpret_cast<Pointer>(r.weights.kernel);
          return Words{text(pointer) + " is " + text(static_cast<void const*>(access(r))),
                       "did not announce"};
        });
  }

  template <typename Tensors>
  void announced_masks(Call call, Tensors Run<T>::*tensors) {
    auto const from_caller = [](Dropping Problem::*option) {
      return [option](Problem& p) {
        p.stochastic = true;
        p.*option = {0.5, MaskSource::kCaller};
      };
    };
    announced(
        "zoneout_mask", call, from_caller(&Problem::zoneout), [=](Run<T> & r) -> auto& {
          return (r.*tensors).zoneout_mask;
        });
    announced(
        "dropconnect_mask", call, from_caller(&Problem::dropconnect), [=](Run<T> & r) -> auto& {
          return (r.*tensors).dropconnect_mask;
        });
    announced(
        "recurrent_dropout_mask", call,
        from_caller(&Problem::recurrent_dropout), [=](Run<T> & r) -> auto& {
          return (r.*tensors).recurrent_dropout_mask;
        });
  }

  void add_announcements() {
    auto const with_lengths = [](Problem& p) { p.lengths = true; };
    auto const with_starts = [](Problem& p) { p.episode_starts = true; };
    announced(
        "lengths", Call::kForward, with_lengths,
        [](Run<T> & r) -> auto& { return r.forward.lengths; });
    announced(
        "episode_starts", Call::kForward, with_starts,
        [](Run<T> & r) -> auto& { return r.forward.episode_starts; });
    announced(
        "lengths", Call::kBackward, with_lengths,
        [](Run<T> & r) -> auto& { return r.backward.lengths; });
    announced(
        "episode_starts", Call::kBackward, with_starts,
        [](Run<T> & r) -> auto& { return r.backward.episode_starts; });
    announced_masks(Call::kForward, &Run<T>::forward);
    announced_masks(Call::kStep, &Run<T>::step);
    announced_masks(Call::kBackward, &Run<T>::backward);
  }

  template <typename Access>
  void reserve_of(char const* pointer, Call call, ReservePolicy policy, Access access) {
    auto const announce = [=](Problem& p) { p.reserve = policy; };
    auto const needed = [](Run<T> const& r) {
      return text(static_cast<std::size_t>(reserve_values(r.problem)) * sizeof(T));
    };
    std::string const prefix = text(name(call)) + ": " + pointer;
    add("reserve missing", prefix, call, announce, [=](Run<T>& r) {
      access(r) = {nullptr, access(r).bytes};
      return Words{text(pointer) + " is null", needed(r) + " bytes are needed"};
    });
    add("reserve missing", prefix + ", no bytes either", call, announce, [=](Run<T>& r) {
      access(r) = {};
      return Words{text(pointer) + " is null", needed(r) + " bytes are needed"};
    });
    add("reserve too small", prefix, call, announce, [=](Run<T>& r) {
      access(r).bytes -= 1;
      return Words{text(pointer) + " has " + text(access(r).bytes) + " bytes",
                   needed(r) + " are needed"};
    });
  }

  template <typename Access>
  void unused_reserve(char const* pointer, std::string const& when, Call call, Announce announce,
                      Access access) {
    add("reserve that the Problem does not use", text(name(call)) + ": " + pointer + ", " + when,
        call, std::move(announce), [=](Run<T>& r) {
          access(r) = {const_cast<T*>(r.weights.kernel), 64};
          return Words{text(pointer) + " is " + text(address(access(r))), "does not use it"};
        });
  }

  void add_reserves() {
    auto const of_forward = [](Run<T> & r) -> auto& {
      return r.forward.reserve;
    };
    auto const kept = [](Run<T> & r) -> auto& {
      return r.backward.reserve;
    };
    auto const overwritten = [](Run<T> & r) -> auto& {
      return r.backward.overwritten_reserve;
    };
    reserve_of("reserve", Call::kForward, ReservePolicy::kKeep, of_forward);
    reserve_of("reserve", Call::kForward, ReservePolicy::kOverwrite, of_forward);
    reserve_of("reserve", Call::kBackward, ReservePolicy::kKeep, kept);
    reserve_of("overwritten_reserve", Call::kBackward, ReservePolicy::kOverwrite, overwritten);

    auto const keep = [](Problem& p) { p.reserve = ReservePolicy::kKeep; };
    auto const overwrite = [](Problem& p) { p.reserve = ReservePolicy::kOverwrite; };
    auto const recompute = [](Problem& p) { p.reserve = ReservePolicy::kRecompute; };
    auto const inference = [](Problem& p) { p.keep_for_backward = false; };
    unused_reserve("reserve", "inference", Call::kForward, inference, of_forward);
    unused_reserve("reserve", "kRecompute", Call::kForward, recompute, of_forward);
    unused_reserve("reserve", "kRecompute", Call::kBackward, recompute, kept);
    unused_reserve("reserve", "kOverwrite", Call::kBackward, overwrite, kept);
    unused_reserve("overwritten_reserve", "kRecompute", Call::kBackward, recompute, overwritten);
    unused_reserve("overwritten_reserve", "kKeep", Call::kBackward, keep, overwritten);
  }

  void add_workspaces() {
    for (Call const call : {Call::kForward, Call::kStep, Call::kBackward}) {
      // A Problem whose passes need a workspace whatever the engine does: R is masked in it.
      auto const announce = [=](Problem& p) {
        plain(call)(p);
        p.stochastic = true;
        p.dropconnect.rate = 0.5;
      };
      add("workspace too small", name(call), call, announce, [](Run<T>& r) {
        std::size_t const needed = r.workspace.bytes;
        REQUIRE(needed > 0);
        r.workspace.bytes = needed - 1;
        return Words{"the workspace has " + text(needed - 1) + " bytes",
                     text(needed) + " are needed"};
      });
      add("workspace null", name(call), call, announce, [](Run<T>& r) {
        r.workspace.data = nullptr;
        return Words{"the workspace is null", text(r.workspace.bytes) + " bytes are needed"};
      });
      add("workspace misaligned", name(call), call, announce, [](Run<T>& r) {
        r.workspace.data = static_cast<std::byte*>(r.workspace.data) + 128;
        return Words{"the workspace is " + text(r.workspace.data), "not aligned to 256 bytes"};
      });
    }
  }

  void add_steps() {
    add("step() with a Problem that is not a step's", "2 steps", Call::kStep, for_step,
        [](Run<T>& r) {
          r.problem.steps = 2;
          return Words{"step()", "has 2"};
        });
    add("step() with a Problem that is not a step's", "no step", Call::kStep, for_step,
        [](Run<T>& r) {
          r.problem.steps = 0;
          return Words{"step()", "has 0"};
        });
    add("step() with a Problem that is not a step's", "keeps for backward", Call::kStep, for_step,
        [](Run<T>& r) {
          r.problem.keep_for_backward = true;
          return Words{"step()", "use run()"};
        });
    add("step() with a Problem that is not a step's", "has lengths", Call::kStep, for_step,
        [](Run<T>& r) {
          r.problem.lengths = true;
          return Words{"step()", "use run()"};
        });
    auto const with_zoneout = [](Problem& p) {
      for_step(p);
      p.stochastic = true;
      p.zoneout.rate = 0.5;
    };
    add("step() at an impossible time", "before 0", Call::kStep, with_zoneout, [](Run<T>& r) {
      r.step.time = -1;
      return Words{"time", "-1"};
    });
    add("step() at an impossible time", "beyond the draws", Call::kStep, with_zoneout,
        [](Run<T>& r) {
          r.step.time = std::numeric_limits<std::int64_t>::max();
          return Words{"time", "overflows"};
        });
    auto const two_pitches = [](Problem& p) {
      for_step(p);
      p.pitch.h0 = p.hidden_size + 1;
      p.pitch.final_state = p.hidden_size + 2;
    };
    add("step() in place between two row pitches", "h0 and final_state", Call::kStep, two_pitches,
        [](Run<T>& r) {
          auto const data = const_cast<void*>(static_cast<void const*>(r.step.state.data()));
          r.step.new_state = OrFloat<T>{static_cast<T*>(data)};
          return Words{"in place", "pitches", text(r.problem.pitch.h0),
                       text(r.problem.pitch.final_state)};
        });
  }

  /// A pointer of the other type than the Problem's.
  template <typename V>
  static OrFloat<V> retyped(OrFloat<V> p) {
    using Float = std::conditional_t<std::is_const_v<V>, float const, float>;
    if (p.is_float()) return OrFloat<V>{static_cast<V*>(p.data())};
    return OrFloat<V>{static_cast<Float*>(p.data())};
  }

  template <typename Access>
  void wrong_type(char const* pointer, Call call, Access access) {
    if constexpr (!std::is_same_v<T, float>) {
      add("pointer to the wrong type", text(name(call)) + ": " + pointer + ", float given", call,
          plain(call), [=](Run<T>& r) {
            access(r) = retyped(access(r));
            return Words{text(pointer) + " points to float", "asks for the data type"};
          });
    }
    if constexpr (sizeof(T) == 2) {
      auto const wants_float = [=](Problem& p) {
        plain(call)(p);
        p.state_type = StateType::kFloat;
        p.weight_gradient_type = WeightGradientType::kFloat;
      };
      add("pointer to the wrong type", text(name(call)) + ": " + pointer + ", float wanted", call,
          wants_float, [=](Run<T>& r) {
            access(r) = retyped(access(r));
            return Words{text(pointer) + " points to the data type", "asks for float"};
          });
    }
  }

  void add_types() {
    wrong_type(
        "h0", Call::kForward, [](Run<T> & r) -> auto& { return r.forward.h0; });
    wrong_type(
        "final_state", Call::kForward, [](Run<T> & r) -> auto& { return r.forward.final_state; });
    wrong_type(
        "state", Call::kStep, [](Run<T> & r) -> auto& { return r.step.state; });
    wrong_type(
        "new_state", Call::kStep, [](Run<T> & r) -> auto& { return r.step.new_state; });
    Call const call = Call::kBackward;
    wrong_type(
        "h0", call, [](Run<T> & r) -> auto& { return r.backward.h0; });
    wrong_type(
        "dfinal_state", call, [](Run<T> & r) -> auto& { return r.backward.dfinal_state; });
    wrong_type(
        "dkernel", call, [](Run<T> & r) -> auto& { return r.backward.dkernel; });
    wrong_type(
        "drecurrent_kernel", call,
        [](Run<T> & r) -> auto& { return r.backward.drecurrent_kernel; });
    wrong_type(
        "dbias", call, [](Run<T> & r) -> auto& { return r.backward.dbias; });
    wrong_type(
        "drecurrent_bias", call, [](Run<T> & r) -> auto& { return r.backward.drecurrent_bias; });
    wrong_type(
        "dh0", call, [](Run<T> & r) -> auto& { return r.backward.dh0; });
  }

  std::vector<BadRun<T>> rows_;
};

/// Fixed values in [-1, 1].
Values some_values(std::int64_t count, int seed) {
  Values values;
  for (std::int64_t i = 0; i < count; ++i) {
    values.push_back(std::sin(static_cast<double>(17 * i + 7 * seed + 1)));
  }
  return values;
}

/// A layer with every input.
Layer valid_layer(std::int64_t steps, std::int64_t batch) {
  Layer layer;
  layer.problem = valid_problem();
  layer.problem.steps = steps;
  layer.problem.batch = batch;
  std::int64_t const C = layer.C();
  std::int64_t const H = layer.H();
  layer.x = some_values(steps * batch * C, 1);
  layer.h0 = some_values(batch * H, 2);
  layer.kernel = some_values(C * 3 * H, 3);
  layer.recurrent_kernel = some_values(H * 3 * H, 4);
  layer.bias = some_values(3 * H, 5);
  layer.recurrent_bias = some_values(3 * H, 6);
  layer.dh = some_values(steps * batch * H, 7);
  layer.dfinal_state = some_values(batch * H, 8);
  return layer;
}

bool is_zero(Values const& values) {
  return std::all_of(values.begin(), values.end(), [](double v) { return v == 0; });
}

bool same_bits(Values const& a, Values const& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0);
}

void for_each_variant_and_direction(std::function<void(Variant, Direction)> const& check) {
  for (Variant const variant : {Variant::kResetAfter, Variant::kResetBefore}) {
    for (Direction const direction : {Direction::kForward, Direction::kReverse}) {
      INFO((variant == Variant::kResetAfter ? "reset after" : "reset before"));
      INFO((direction == Direction::kForward ? "forward" : "reverse"));
      check(variant, direction);
    }
  }
}

/// A run without data: the state passes through, and no gradient arrives at the weights.
void check_nothing_is_done(Engine const& engine, Layer const& layer) {
  Layer const seen = rounded(layer, engine.type());
  Results const results = engine.run(layer);
  CHECK(is_zero(results.h));
  CHECK(is_zero(results.dx));
  CHECK(same_bits(results.final_state, seen.h0));
  CHECK(same_bits(results.dh0, seen.dfinal_state));
  auto const H = static_cast<std::size_t>(layer.H());
  CHECK(results.dkernel == Values(static_cast<std::size_t>(layer.C()) * 3 * H, 0.0));
  CHECK(results.drecurrent_kernel == Values(3 * H * H, 0.0));
  CHECK(results.dbias == Values(3 * H, 0.0));
  CHECK(results.drecurrent_bias == Values(3 * H, 0.0));

  // Gradients that accumulate keep what they hold.
  Layer accumulating = layer;
  accumulating.problem.accumulate = Accumulate::all();
  accumulating.held.dkernel = layer.kernel;
  accumulating.held.drecurrent_kernel = layer.recurrent_kernel;
  accumulating.held.dbias = layer.bias;
  accumulating.held.drecurrent_bias = layer.recurrent_bias;
  Results const held = rounded(accumulating, engine.type()).held;
  Results const kept = engine.run(accumulating);
  CHECK(same_bits(kept.dkernel, held.dkernel));
  CHECK(same_bits(kept.drecurrent_kernel, held.drecurrent_kernel));
  CHECK(same_bits(kept.dbias, held.dbias));
  CHECK(same_bits(kept.drecurrent_bias, held.drecurrent_bias));
}

}  // namespace

Problem valid_problem() {
  Problem p;
  p.steps = 3;
  p.batch = 2;
  p.input_size = 4;
  p.hidden_size = 5;
  p.keep_for_backward = true;
  return p;
}

std::vector<BadProblem> const& bad_problems() {
  static std::vector<BadProblem> const all = [] {
    ProblemRows rows;
    add_sizes(rows);
    add_pitches(rows);
    add_rates(rows);
    rows.add("host_lengths without lengths", "host_lengths", {"host_lengths without lengths"},
             [](Problem& p) { p.host_lengths = true; });
    add_enumerators(rows);
    return rows.take();
  }();
  return all;
}

std::vector<BadProblem> const& bad_problems_of_double() {
  static std::vector<BadProblem> const all = [] {
    ProblemRows rows;
    rows.add("kFloat where the data is double", "state_type", {"state_type kFloat", "double"},
             [](Problem& p) { p.state_type = StateType::kFloat; });
    rows.add("kFloat where the data is double", "weight_gradient_type",
             {"weight_gradient_type kFloat", "double"},
             [](Problem& p) { p.weight_gradient_type = WeightGradientType::kFloat; });
    return rows.take();
  }();
  return all;
}

template <typename Exception>
void check_throws(std::function<void()> const& call, Words const& words) {
  try {
    call();
  } catch (Exception const& e) {
    std::string const message = e.what();
    for (std::string const& word : words) {
      INFO("message: " << message);
      INFO("must contain: " << word);
      CHECK(message.find(word) != std::string::npos);
    }
    return;
  } catch (std::exception const& e) {
    FAIL_CHECK("threw another exception: " << e.what());
    return;
  }
  FAIL_CHECK("threw nothing");
}

template void check_throws<InvalidArgument>(std::function<void()> const&, Words const&);
template void check_throws<Unsupported>(std::function<void()> const&, Words const&);
template void check_throws<DeviceError>(std::function<void()> const&, Words const&);

template <typename T>
void check_bad_runs(Backend<T> const& backend) {
  RunRows<T> const rows;
  for (BadRun<T> const& bad : rows.rows()) {
    CAPTURE(bad.row, bad.what);
    Problem p = valid_problem();
    bad.announce(p);
    CHECK_NOTHROW(Run<T>(backend, p, bad.call).run());
    Run<T> run{backend, p, bad.call};
    Words const words = bad.spoil(run);
    check_throws<InvalidArgument>([&] { run.run(); }, words);
    run.check_outputs_are_untouched();
  }
}

template void check_bad_runs(Backend<float> const&);
template void check_bad_runs(Backend<double> const&);
template void check_bad_runs(Backend<Eigen::half> const&);

template <typename T>
void check_small_workspace_limit(Backend<T> const& backend) {
  Problem p = valid_problem();
  p.stochastic = true;
  p.dropconnect.rate = 0.5;  // so that every engine needs a workspace
  using Bytes = std::function<PassBytes(Problem const&)>;
  Bytes const forward = [&](Problem const& q) { return backend.forward_bytes(q); };
  Bytes const backward = [&](Problem const& q) { return backend.backward_bytes(q); };
  for (Bytes const& bytes : {forward, backward}) {
    Problem one_step = p;
    one_step.steps = 1;
    std::size_t const least = bytes(one_step).workspace;
    REQUIRE(least > 0);
    Problem limited = p;
    limited.workspace_limit = least;
    CHECK(bytes(limited).workspace <= least);
    for (std::size_t const limit : {std::size_t{0}, std::size_t{1}}) {
      limited.workspace_limit = limit;
      check_throws<InvalidArgument>([&] { bytes(limited); },
                                    {"workspace_limit is " + text(limit) + " bytes", "at least"});
    }
  }
}

template void check_small_workspace_limit(Backend<float> const&);
template void check_small_workspace_limit(Backend<double> const&);
template void check_small_workspace_limit(Backend<Eigen::half> const&);

void check_rows_are_documented() {
  std::set<std::string> tested{
      "workspace_limit too small",   "BackwardPass without keep_for_backward",
      "engine that cannot run here", "another current device",
      "null cuBLAS handle",          "no CUDA device",
      "device before sm_75",         "build without code for the device",
  };
  for (auto const* problems : {&bad_problems(), &bad_problems_of_double()}) {
    for (BadProblem const& bad : *problems) tested.insert(bad.row);
  }
  RunRows<Eigen::half> const runs;
  for (auto const& bad : runs.rows()) tested.insert(bad.row);

  std::ifstream document{std::string{GRU_TEST_DATA} + "/../../docs/bad_input.md"};
  REQUIRE(document.good());
  std::set<std::string> documented;
  std::string line;
  bool is_table = false;
  while (std::getline(document, line)) {
    if (line.rfind("| --- ", 0) == 0) {
      is_table = true;
    } else if (line.rfind("| ", 0) != 0) {
      is_table = false;
    } else if (is_table) {
      documented.insert(line.substr(2, line.find(" |", 2) - 2));
    }
  }
  CHECK(documented == tested);
}

void check_empty_sequences(Engine const& engine) {
  for_each_variant_and_direction([&](Variant variant, Direction direction) {
    Layer layer = valid_layer(0, 2);
    layer.problem.variant = variant;
    layer.problem.direction = direction;
    check_nothing_is_done(engine, layer);
    layer.problem.layout = Layout::kBatchMajor;
    check_nothing_is_done(engine, layer);
    layer.h0.clear();
    CHECK(engine.run(layer).final_state == Values(10, 0.0));
  });
}

void check_empty_batch(Engine const& engine) {
  for_each_variant_and_direction([&](Variant variant, Direction direction) {
    Layer layer = valid_layer(3, 0);
    layer.problem.variant = variant;
    layer.problem.direction = direction;
    check_nothing_is_done(engine, layer);
    layer.problem.lengths = true;
    layer.problem.episode_starts = true;
    check_nothing_is_done(engine, layer);
  });
}

void check_odd_lengths(Engine const& engine) {
  for_each_variant_and_direction([&](Variant variant, Direction direction) {
    Layer layer = valid_layer(3, 4);
    layer.problem.variant = variant;
    layer.problem.direction = direction;
    layer.problem.lengths = true;

    Layer empty = layer;
    empty.lengths = {0, 0, 0, 0};
    check_nothing_is_done(engine, empty);

    Layer clamped = layer;
    clamped.lengths = {0, 3, 0, 3};
    layer.lengths = {-1, 4, std::numeric_limits<std::int32_t>::min(),
                     std::numeric_limits<std::int32_t>::max()};
    check_same_bits(engine.run(layer), engine.run(clamped));
  });
}

void check_masks_at_rate_zero(Engine const& engine) {
  for_each_variant_and_direction([&](Variant variant, Direction direction) {
    Layer layer = valid_layer(3, 2);
    layer.problem.variant = variant;
    layer.problem.direction = direction;
    layer.problem.stochastic = true;

    // A mask from the caller is used as it is, unscaled at this rate: all ones change nothing.
    Layer masked = layer;
    masked.problem.zoneout.mask = MaskSource::kCaller;
    masked.problem.dropconnect.mask = MaskSource::kCaller;
    masked.problem.recurrent_dropout.mask = MaskSource::kCaller;
    masked.zoneout_mask.assign(30, 1);
    masked.dropconnect_mask.assign(75, 1);
    masked.recurrent_dropout_mask.assign(10, 1);
    check_same_bits(engine.run(masked), engine.run(layer));

    // All zeros: no new state is ever taken.
    masked.zoneout_mask.assign(30, 0);
    Results const frozen = engine.run(masked);
    CHECK(same_bits(frozen.final_state, rounded(layer, engine.type()).h0));
    CHECK(is_zero(frozen.dkernel));
    CHECK(is_zero(frozen.dx));
  });
}

void check_values_that_are_not_finite(Engine const& engine) {
  std::int64_t const bad_time = 1;
  std::int64_t const bad_sample = 1;
  for_each_variant_and_direction([&](Variant variant, Direction direction) {
    Layer layer = valid_layer(3, 3);
    layer.problem.variant = variant;
    layer.problem.direction = direction;
    std::int64_t const C = layer.C();
    std::int64_t const H = layer.H();
    auto const at = static_cast<std::size_t>((bad_time * layer.N() + bad_sample) * C);
    Results const clean = engine.run(layer);
    auto const check_other_samples = [&](Results const& results) {
      for (std::size_t i = 0; i < results.h.size(); ++i) {
        auto const sample = static_cast<std::int64_t>(i) / H % layer.N();
        if (sample != bad_sample) CHECK(results.h[i] == clean.h[i]);
      }
    };

    Layer with_nan = layer;
    with_nan.x[at] = std::numeric_limits<double>::quiet_NaN();
    Results const nan = engine.run(with_nan);
    check_other_samples(nan);
    for (std::int64_t t = 0; t < layer.T(); ++t) {
      bool const is_reached = direction == Direction::kForward ? t >= bad_time : t <= bad_time;
      for (std::int64_t u = 0; u < H; ++u) {
        auto const i = static_cast<std::size_t>((t * layer.N() + bad_sample) * H + u);
        if (is_reached) {
          CHECK(std::isnan(nan.h[i]));
        } else {
          CHECK(nan.h[i] == clean.h[i]);
        }
      }
    }
    for (double const g : nan.dkernel) CHECK(std::isnan(g));

    // Every gate saturates: z is 0 or 1, g is -1 or 1, and nothing is NaN.
    Layer with_infinity = layer;
    with_infinity.x[at] = std::numeric_limits<double>::infinity();
    Results const infinity = engine.run(with_infinity);
    check_other_samples(infinity);
    bool const is_forward = direction == Direction::kForward;
    std::int64_t const before = is_forward ? bad_time - 1 : bad_time + 1;
    for (std::int64_t u = 0; u < H; ++u) {
      auto const row = [&](std::int64_t t) {
        return static_cast<std::size_t>((t * layer.N() + bad_sample) * H + u);
      };
      double const w_z = layer.kernel[static_cast<std::size_t>(u)];
      double const w_g = layer.kernel[static_cast<std::size_t>(2 * H + u)];
      double const candidate = w_g > 0 ? 1.0 : -1.0;
      double const expected = w_z > 0 ? infinity.h[row(before)] : candidate;
      CHECK(infinity.h[row(bad_time)] == expected);
    }
  });
}

}  // namespace gru::test
