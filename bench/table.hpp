// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "measure.hpp"
#include "shapes.hpp"
#include "type.hpp"

namespace gru::bench {

/// A line of the table that the device benchmarks write.
struct Record {
  std::string suite;
  Type type = Type::kFp32;
  Shape shape;
  Work work = Work::kInference;
  std::string options;      ///< The options; empty for none.
  std::string library;      ///< "gru" or "cudnn"
  std::string engine;       ///< Engines of ours, the algorithm of cuDNN.
  std::string way;          ///< "plain", "graph"; streaming: also "plain, waited", "graph, waited"
  bool chosen = true;       ///< What the policy takes.
  Timing timing;            ///< Of all T steps (streaming: of one).
  double predicted_us = 0;  ///< By the policy, for all T steps; 0 = no prediction.
  double floor_us_per_step = 0;     ///< By roofline.hpp; 0 = not asked for, or no model.
  std::vector<double> errors = {};  ///< In the order of kErrorNames; NaN or missing: not compared.
  Memory memory;
};

/// The columns of the errors against float64: the largest difference over the largest value.
inline constexpr char const* kErrorNames[] = {"error_h",       "error_dx",
                                              "error_dkernel", "error_drecurrent_kernel",
                                              "error_dbias",   "error_drecurrent_bias",
                                              "error_dh0"};

/// Writes records as CSV, each at once, so that what was measured is kept whatever comes after.
/// Lines that begin with "# " hold what is true of all of them, as "# key: value".
class Table {
 public:
  /// An empty path means stdout.
  explicit Table(std::string const& path)
      : file_{path.empty() ? stdout : std::fopen(path.c_str(), "w")} {
    if (file_ == nullptr) throw std::runtime_error{"cannot write " + path};
  }
  Table(Table const&) = delete;
  Table& operator=(Table const&) = delete;
  ~Table() {
    if (file_ != stdout) std::fclose(file_);
  }

  void note(std::string const& key, std::string const& value) {
    std::fprintf(file_, "# %s: %s\n", key.c_str(), value.c_str());
    std::fflush(file_);
  }

  void write_header() {
    std::fputs(
        "suite,type,shape,T,N,C,H,work,options,library,engine,way,chosen,us_per_step,"
        "us_per_step_p10,us_per_step_p90,repeats,predicted_us_per_step,floor_us_per_step",
        file_);
    for (char const* name : kErrorNames) std::fprintf(file_, ",%s", name);
    std::fputs(",workspace_bytes,reserve_bytes\n", file_);
    std::fflush(file_);
  }

  void write(Record const& r) {
    double const us_per_ms = 1e3 / static_cast<double>(std::max<std::int64_t>(1, r.shape.steps));
    write_text(r.suite);
    write_text(to_string(r.type));
    write_text(r.shape.name);
    for (std::int64_t const extent :
         {r.shape.steps, r.shape.batch, r.shape.input_size, r.shape.hidden_size}) {
      write_text(std::to_string(extent));
    }
    write_text(to_string(r.work));
    for (std::string const& text : {r.options, r.library, r.engine, r.way}) write_text(text);
    write_text(r.chosen ? "1" : "0");
    for (double const ms : {r.timing.median, r.timing.p10, r.timing.p90}) {
      write_number(ms * us_per_ms);
    }
    write_text(std::to_string(r.timing.repeats));
    write_number(r.predicted_us * us_per_ms / 1e3);
    write_number(r.floor_us_per_step);
    for (std::size_t i = 0; i < std::size(kErrorNames); ++i) {
      if (i < r.errors.size() && !std::isnan(r.errors[i])) std::fprintf(file_, "%.2e", r.errors[i]);
      std::fputc(',', file_);
    }
    std::fprintf(file_, "%zu,%zu\n", r.memory.workspace, r.memory.reserve);
    std::fflush(file_);
  }

 private:
  /// Quoted where it holds a comma.
  void write_text(std::string const& text) {
    bool const quoted = text.find(',') != std::string::npos;
    std::fprintf(file_, quoted ? "\"%s\"," : "%s,", text.c_str());
  }

  /// Empty for 0, which means "none" everywhere.
  void write_number(double value) {
    if (value > 0) std::fprintf(file_, "%.4f", value);
    std::fputc(',', file_);
  }

  std::FILE* file_;
};

}  // namespace gru::bench
