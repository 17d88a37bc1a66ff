// SPDX-License-Identifier: Apache-2.0
#include "checks/golden.hpp"

#include <Eigen/Core>
#include <catch2/catch_test_macros.hpp>
#include <cstring>
#include <fstream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "support/engine.hpp"
#include "support/tolerance.hpp"

namespace gru::test {
namespace {

using Json = nlohmann::json;

Json read_file(std::string const& framework) {
  std::string const path = std::string{GRU_TEST_DATA} + '/' + framework + ".json";
  std::ifstream file{path};
  INFO(path);
  REQUIRE(file.good());
  return Json::parse(file);
}

/// Values in the engine's memory, as the framework lays them.
template <typename V>
class Array {
 public:
  Array() = default;
  Array(Allocate const& allocate, char const* name, std::vector<V> const& values) {
    RawBytes bytes(values.size() * sizeof(V));
    std::memcpy(bytes.data(), values.data(), bytes.size());
    block_ = std::make_unique<Block>(allocate, name, std::move(bytes));
  }

  /// Null where there is no array.
  V* data() const { return block_ == nullptr ? nullptr : reinterpret_cast<V*>(block_->data()); }

  Values read() const {
    RawBytes const bytes = block_->read();
    Values values;
    for (std::size_t i = 0; i < bytes.size(); i += sizeof(V)) {
      V value;
      std::memcpy(&value, bytes.data() + i, sizeof(V));
      values.push_back(static_cast<double>(value));
    }
    return values;
  }

 private:
  std::unique_ptr<Block> block_;
};

/// Makes arrays out of the entries of a case.
template <typename T>
class Arrays {
 public:
  explicit Arrays(Backend<T> const& backend)
      : allocate_{[&backend](std::size_t bytes) { return backend.allocate(bytes); }} {}

  /// The entry as an input; null where the case does not have it.
  template <typename V = T>
  Array<V> input(Json const& object, char const* key) const {
    if (!object.contains(key)) return {};
    std::vector<V> values;
    for (double const value : object.at(key).get<Values>()) values.push_back(to<V>(value));
    return {allocate_, key, values};
  }

  /// Room for the entry, filled with NaN; null where the case does not have it.
  Array<T> output(Json const& object, char const* key) const {
    if (!object.contains(key)) return {};
    return {allocate_, key,
            std::vector<T>(object.at(key).size(), std::numeric_limits<T>::quiet_NaN())};
  }

  Array<std::byte> bytes(char const* name, std::size_t count) const {
    return {allocate_, name, std::vector<std::byte>(count, kPoison)};
  }

 private:
  template <typename V>
  static V to(double value) {
    if constexpr (std::is_same_v<V, Eigen::half> || std::is_same_v<V, Eigen::bfloat16>) {
      return static_cast<V>(static_cast<float>(value));
    } else {
      return static_cast<V>(value);
    }
  }

  Allocate allocate_;
};

WeightFormat weight_format(std::string const& name) {
  if (name == "pytorch") return WeightFormat::pytorch();
  if (name == "onnx") return WeightFormat::onnx();
  REQUIRE(name == "keras");
  return WeightFormat::keras();
}

/// Compares with the tolerance that the Problem's sizes and the type give.
template <typename T>
void check_result(char const* name, Array<T> const& actual, Json const& expected,
                  Problem const& problem) {
  Layer layer;
  layer.problem = problem;
  for (NamedResult const& result : named_results()) {
    if (std::string{result.name} != name) continue;
    DataType const type = DataTypeOf<T>::value;
    check_close(name, actual.read(), expected.at(name).get<Values>(),
                tolerance(layer, result, type));
    return;
  }
  FAIL("there is no result " << name);
}

/// The Problem of one direction of a case. Two directions write the halves of one h, and add up dx.
Problem problem_of(Json const& golden, std::size_t index) {
  auto const directions = static_cast<std::int64_t>(golden.at("directions").size());
  Problem p;
  p.steps = golden.at("T");
  p.batch = golden.at("N");
  p.input_size = golden.at("C");
  p.hidden_size = golden.at("H");
  p.variant = golden.at("variant") == "reset_after" ? Variant::kResetAfter : Variant::kResetBefore;
  p.direction = golden.at("directions").at(index).at("direction") == "reverse"
                    ? Direction::kReverse
                    : Direction::kForward;
  p.layout = golden.at("layout") == "batch_major" ? Layout::kBatchMajor : Layout::kTimeMajor;
  p.weight_format = weight_format(golden.at("format"));
  p.pitch.h = directions * p.hidden_size;
  p.pitch.dh = directions * p.hidden_size;
  p.lengths = golden.contains("lengths");
  p.keep_for_backward = golden.contains("dh");
  p.accumulate.dx = index > 0;
  if (golden.contains("recurrent_dropout_rate")) {
    p.stochastic = true;
    p.recurrent_dropout = {golden.at("recurrent_dropout_rate"), MaskSource::kCaller};
  }
  return p;
}

/// One direction of one case: its arrays, and the two passes over them.
template <typename T>
class DirectionRun {
 public:
  DirectionRun(Backend<T> const& backend, Json const& golden, std::size_t index)
      : backend_{backend},
        arrays_{backend},
        problem_{problem_of(golden, index)},
        expected_{golden.at("directions").at(index)},
        offset_{static_cast<std::int64_t>(index) * problem_.hidden_size},
        kernel_{arrays_.input(expected_, "kernel")},
        recurrent_kernel_{arrays_.input(expected_, "recurrent_kernel")},
        bias_{arrays_.input(expected_, "bias")},
        recurrent_bias_{arrays_.input(expected_, "recurrent_bias")},
        h0_{arrays_.input(expected_, "h0")},
        final_state_{arrays_.output(expected_, "final_state")},
        lengths_{arrays_.template input<std::int32_t>(golden, "lengths")},
        mask_{arrays_.template input<std::uint8_t>(golden, "recurrent_dropout_mask")},
        reserve_{arrays_.bytes("reserve",
                               static_cast<std::size_t>(reserve_values(problem_)) * sizeof(T))} {}

  void forward(Array<T> const& x, Array<T> const& h) const {
    ForwardTensors<T> tensors;
    set_inputs(tensors, x);
    tensors.h = h.data() + offset_;
    tensors.final_state = final_state_.data();
    if (problem_.keep_for_backward) tensors.reserve = {reserve_.data(), reserve_bytes()};
    std::size_t const bytes = backend_.forward_bytes(problem_).workspace;
    auto const workspace = arrays_.bytes("workspace", bytes);
    backend_.forward(problem_, weights(), tensors, {workspace.data(), bytes});
    compare("final_state", final_state_);
  }

  void backward(Array<T> const& x, Array<T> const& h, Array<T> const& dh,
                Array<T> const& dx) const {
    auto const dfinal_state = arrays_.input(expected_, "dfinal_state");
    auto const dkernel = arrays_.output(expected_, "dkernel");
    auto const drecurrent_kernel = arrays_.output(expected_, "drecurrent_kernel");
    auto const dbias = arrays_.output(expected_, "dbias");
    auto const drecurrent_bias = arrays_.output(expected_, "drecurrent_bias");
    auto const dh0 = arrays_.output(expected_, "dh0");
    BackwardTensors<T> tensors;
    set_inputs(tensors, x);
    tensors.h = h.data() + offset_;
    tensors.dh = dh.data() + offset_;
    tensors.dfinal_state = dfinal_state.data();
    tensors.reserve = {reserve_.data(), reserve_bytes()};
    tensors.dx = dx.data();
    tensors.dkernel = dkernel.data();
    tensors.drecurrent_kernel = drecurrent_kernel.data();
    tensors.dbias = dbias.data();
    tensors.drecurrent_bias = drecurrent_bias.data();
    tensors.dh0 = dh0.data();
    std::size_t const bytes = backend_.backward_bytes(problem_).workspace;
    auto const workspace = arrays_.bytes("workspace", bytes);
    backend_.backward(problem_, weights(), tensors, {workspace.data(), bytes});
    compare("dkernel", dkernel);
    compare("drecurrent_kernel", drecurrent_kernel);
    compare("dbias", dbias);
    compare("drecurrent_bias", drecurrent_bias);
    compare("dh0", dh0);
  }

  Problem const& problem() const { return problem_; }

 private:
  std::size_t reserve_bytes() const {
    return static_cast<std::size_t>(reserve_values(problem_)) * sizeof(T);
  }

  Weights<T> weights() const {
    return {kernel_.data(), recurrent_kernel_.data(), bias_.data(), recurrent_bias_.data()};
  }

  template <typename Tensors>
  void set_inputs(Tensors& tensors, Array<T> const& x) const {
    tensors.x = x.data();
    tensors.h0 = OrFloat<T const>{static_cast<T const*>(h0_.data())};
    tensors.lengths = lengths_.data();
    tensors.recurrent_dropout_mask = mask_.data();
  }

  void compare(char const* key, Array<T> const& actual) const {
    if (actual.data() == nullptr) return;
    check_result(key, actual, expected_, problem_);
  }

  Backend<T> const& backend_;
  Arrays<T> arrays_;
  Problem problem_;
  Json const& expected_;
  std::int64_t offset_;
  Array<T> kernel_, recurrent_kernel_, bias_, recurrent_bias_, h0_, final_state_;
  Array<std::int32_t> lengths_;
  Array<std::uint8_t> mask_;
  Array<std::byte> reserve_;
};

template <typename T>
void check_case(Backend<T> const& backend, Json const& golden) {
  INFO("golden case: " << golden.at("format").get<std::string>() << ": "
                       << golden.at("name").get<std::string>());
  Arrays<T> const arrays{backend};
  auto const x = arrays.input(golden, "x");
  auto const h = arrays.output(golden, "h");
  std::vector<std::unique_ptr<DirectionRun<T>>> runs;
  for (std::size_t i = 0; i < golden.at("directions").size(); ++i) {
    runs.push_back(std::make_unique<DirectionRun<T>>(backend, golden, i));
    runs.back()->forward(x, h);
  }
  Problem const& problem = runs.front()->problem();
  check_result("h", h, golden, problem);
  if (!golden.contains("dh")) return;

  auto const dh = arrays.input(golden, "dh");
  auto const dx = arrays.output(golden, "dx");
  for (auto const& run : runs) run->backward(x, h, dh, dx);
  check_result("dx", dx, golden, problem);
}

}  // namespace

template <typename T>
void check_golden(Backend<T> const& backend, std::string const& framework) {
  Json const file = read_file(framework);
  REQUIRE_FALSE(file.at("cases").empty());
  for (Json const& golden : file.at("cases")) check_case(backend, golden);
}

template void check_golden(Backend<float> const&, std::string const&);
template void check_golden(Backend<double> const&, std::string const&);
template void check_golden(Backend<Eigen::half> const&, std::string const&);
template void check_golden(Backend<Eigen::bfloat16> const&, std::string const&);

}  // namespace gru::test
