// SPDX-License-Identifier: Apache-2.0
#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "backend.hpp"
#include "passes.hpp"

#include <gru/host.hpp>

namespace char_model {
namespace {

using Matrix = Eigen::Map<Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;
using ConstMatrix =
    Eigen::Map<Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> const>;
using Vector = Eigen::Map<Eigen::RowVectorXf>;
using ConstVector = Eigen::Map<Eigen::RowVectorXf const>;
using Array = Eigen::Map<Eigen::ArrayXf>;
using ConstArray = Eigen::Map<Eigen::ArrayXf const>;

constexpr std::align_val_t kAlignment{256};

// Work is cut into pieces of fixed size, so that results do not depend on the number of threads.
constexpr std::int64_t kRowsPerTask = 128;
constexpr std::int64_t kColumnsPerTask = 64;
constexpr std::int64_t kValuesPerTask = 1 << 14;

/// The library's host passes.
struct HostLibrary {
  template <typename T>
  using ForwardPass = gru::host::ForwardPass<T>;
  template <typename T>
  using BackwardPass = gru::host::BackwardPass<T>;

  gru::host::Execution execution;

  template <typename From, typename To>
  void convert(From const* from, To* to, std::int64_t count) const {
    std::transform(from, from + count, to, [](From value) { return static_cast<To>(value); });
  }
};

struct Range {
  std::int64_t begin;
  std::int64_t size;
};

class HostBackend final : public Backend {
 public:
  explicit HostBackend(int threads) : pool_{threads} {}

  std::string description() const override {
    return "the host with " + std::to_string(pool_.threads()) + " threads";
  }

  void* allocate(std::size_t bytes) override {
    if (bytes == 0) return nullptr;
    return std::memset(::operator new(bytes, kAlignment), 0, bytes);
  }
  void release(void* memory) noexcept override { ::operator delete(memory, kAlignment); }
  void upload(void* to, void const* from, std::size_t bytes) override { copy(to, from, bytes); }
  void download(void* to, void const* from, std::size_t bytes) override { copy(to, from, bytes); }

  std::unique_ptr<GruPasses> make_gru(gru::Problem const& problem, DataType type) override {
    HostLibrary const library{pool_.execution()};
    return make_passes<Eigen::half, Eigen::bfloat16>(*this, library, problem, type);
  }

  void read_window(WindowRead const& w) override {
    for (std::int64_t t = 0; t < w.steps; ++t) {
      std::int64_t const column = (w.cursor + t) % w.text.stream_length;
      for (std::int64_t n = 0; n < w.batch; ++n) {
        std::int64_t const position = n * w.text.stream_length + column;
        std::int64_t const row = t * w.batch + n;
        w.tokens[row] = w.text.tokens[position];
        w.targets[row] = w.text.tokens[position + 1];
        w.starts[row] = column == 0 || w.text.starts[position] != 0;
      }
    }
  }

  void read_lines(LinesRead const& r) override {
    for (std::int64_t n = 0; n < r.batch; ++n) {
      std::int64_t const line = (r.first + n) % r.lines.count;
      std::uint8_t const* const text = r.lines.tokens + r.lines.begins[line];
      r.lengths[n] = r.lines.lengths[line];
      for (std::int64_t t = 0; t < r.steps; ++t) {
        bool const inside = t < r.lengths[n];
        r.tokens[t * r.batch + n] = inside ? text[t] : std::uint8_t{0};
        r.targets[t * r.batch + n] = inside ? text[t + 1] : kNoTarget;
      }
    }
  }

  void embed(Embedding const& e) override {
    for (std::int64_t row = 0; row < e.rows; ++row) {
      std::copy_n(e.table + e.tokens[row] * e.width, e.width, e.output + row * e.width);
    }
  }

  void embed_backward(EmbeddingBackward const& e) override {
    std::fill_n(e.dtable, e.vocabulary * e.width, 0.0f);
    for (std::int64_t row = 0; row < e.rows; ++row) {
      Vector{e.dtable + e.tokens[row] * e.width, e.width} +=
          ConstVector{e.doutput + row * e.width, e.width};
    }
  }

  void linear(Linear const& l) override {
    ConstMatrix const weight{l.weight, l.outputs, l.inputs};
    ConstVector const bias{l.bias, l.outputs};
    for_pieces(l.rows, kRowsPerTask, [&](Range rows) {
      ConstMatrix const x{l.x + rows.begin * l.inputs, rows.size, l.inputs};
      Matrix y{l.y + rows.begin * l.outputs, rows.size, l.outputs};
      y.noalias() = x * weight.transpose();
      y.rowwise() += bias;
    });
  }

  void linear_backward(LinearBackward const& l) override {
    ConstMatrix const weight{l.weight, l.outputs, l.inputs};
    ConstMatrix const x{l.x, l.rows, l.inputs};
    ConstMatrix const dy{l.dy, l.rows, l.outputs};
    Matrix dweight{l.dweight, l.outputs, l.inputs};
    for_pieces(l.rows, kRowsPerTask, [&](Range rows) {
      Matrix dx{l.dx + rows.begin * l.inputs, rows.size, l.inputs};
      dx.noalias() = dy.middleRows(rows.begin, rows.size) * weight;
    });
    for_pieces(l.inputs, kColumnsPerTask, [&](Range columns) {
      dweight.middleCols(columns.begin, columns.size).noalias() =
          dy.transpose() * x.middleCols(columns.begin, columns.size);
    });
    Vector{l.dbias, l.outputs} = dy.colwise().sum();
  }

  void cross_entropy(CrossEntropy const& c) override {
    for_pieces(c.rows, kRowsPerTask, [&](Range rows) {
      for (std::int64_t row = rows.begin; row < rows.begin + rows.size; ++row) {
        Array logits{c.logits + row * c.classes, c.classes};
        if (c.targets[row] == kNoTarget) {
          c.row_losses[row] = 0;
          logits = 0;
          continue;
        }
        logits -= logits.maxCoeff();
        float const target = logits[c.targets[row]];
        logits = logits.exp();
        float const sum = logits.sum();
        c.row_losses[row] = static_cast<double>(std::log(sum)) - static_cast<double>(target);
        logits /= sum;
        logits[c.targets[row]] -= 1;
      }
    });
    double total = 0;
    for (std::int64_t row = 0; row < c.rows; ++row) total += c.row_losses[row];
    *c.loss = total / static_cast<double>(c.target_count);
  }

  void adam(AdamStep const& a) override {
    auto const step = static_cast<double>(a.iteration);
    auto const gradient_scale = static_cast<float>(a.gradient_scale * clipping(a));
    auto const rate = static_cast<float>(a.rate / (1 - std::pow(a.beta1, step)));
    auto const second_scale = static_cast<float>(1 / (1 - std::pow(a.beta2, step)));
    auto const beta1 = static_cast<float>(a.beta1);
    auto const beta2 = static_cast<float>(a.beta2);
    auto const epsilon = static_cast<float>(a.epsilon);
    for_pieces(a.count, kValuesPerTask, [&](Range r) {
      ConstArray const g{a.gradient + r.begin, r.size};
      Array first{a.first_moment + r.begin, r.size};
      Array second{a.second_moment + r.begin, r.size};
      Array value{a.value + r.begin, r.size};
      first = beta1 * first + ((1 - beta1) * gradient_scale) * g;
      second = beta2 * second + (1 - beta2) * (gradient_scale * g).square();
      value -= rate * first / ((second_scale * second).sqrt() + epsilon);
    });
  }

 private:
  static void copy(void* to, void const* from, std::size_t bytes) {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }

  template <typename Work>
  void for_pieces(std::int64_t count, std::int64_t piece, Work const& work) {
    std::int64_t const pieces = (count + piece - 1) / piece;
    pool_.run(pieces, [&](std::int64_t i) {
      work(Range{i * piece, std::min(piece, count - i * piece)});
    });
  }

  /// The factor that brings the scaled gradient's norm to `clip` where it is larger.
  double clipping(AdamStep const& a) {
    if (a.clip <= 0) return 1;
    std::int64_t const pieces = (a.count + kValuesPerTask - 1) / kValuesPerTask;
    std::vector<double> squares(static_cast<std::size_t>(pieces));
    for_pieces(a.count, kValuesPerTask, [&](Range r) {
      auto const piece = static_cast<std::size_t>(r.begin / kValuesPerTask);
      squares[piece] = static_cast<double>(ConstArray{a.gradient + r.begin, r.size}.square().sum());
    });
    double total = 0;
    for (double const square : squares) total += square;
    double const norm = a.gradient_scale * std::sqrt(total);
    return norm > a.clip ? a.clip / norm : 1;
  }

  gru::host::ThreadPool pool_;
};

}  // namespace

std::unique_ptr<Backend> make_host_backend(int threads) {
  return std::make_unique<HostBackend>(threads);
}

}  // namespace char_model
