// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <limits>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include <gru/problem.hpp>

#include "measure.hpp"
#include "type.hpp"

namespace gru::bench {

/// What the device benchmarks are told on the command line.
struct Settings {
  std::vector<std::string> suites = {"shapes"};
  std::vector<std::string> types = {"fp32", "tf32", "fp16", "bf16"};
  std::vector<std::string> works = {"inference", "training"};
  std::vector<std::string> ways = {"plain", "graph"};
  std::regex shapes{".*"};
  bool all_engines = false;
  bool peer = true;
  std::string algorithms = "likely";  ///< which of the peer's
  bool errors = true;
  bool roofline = false;
  bool second_stream = false;  ///< for our products of whole sequences
  std::size_t workspace_mib = Problem{}.workspace_limit >> 20;
  bool list = false;
  double seconds = std::numeric_limits<double>::infinity();  ///< for everything
  int rounds = 20;
  std::string out;                   ///< empty: stdout
  std::vector<std::string> context;  ///< "key=value", written above the table
};

inline constexpr char const* kSettingsHelp = R"(flags of gru_bench (default in parentheses):
  --suite=LIST     shapes, batch, hidden, options, lengths, streaming (shapes)
  --type=LIST      fp32, tf32, fp16, bf16 (all)
  --work=LIST      inference, forward, backward, training (inference,training)
  --way=LIST       plain, graph (both)
  --shape=REGEX    shapes whose whole name matches (.*)
  --engines=WHICH  chosen: what the policy takes; all: every engine that can run (chosen)
  --peer=WHICH     cudnn or none (cudnn)
  --algorithms=WHICH  of cuDNN's: all; likely: persist_dynamic, which takes seconds to compile for
                   each layer, only where it may be the fastest; precompiled: without it (likely)
  --errors=WHICH   on or off: compare with float64 (on)
  --rounds=N       repeats, unless --seconds runs short (20)
  --seconds=S      time for everything; what does not fit is left out, and named (no limit)
  --roofline       add the modelled floor of a step
  --second-stream  our passes may put products of whole sequences on another stream
  --workspace-limit=MIB  what our passes may ask for (512)
  --out=FILE       where the CSV goes (stdout)
  --context=LIST   key=value pairs for the CSV's head
  --list           name the cases, run none
)";

inline std::vector<std::string> split(std::string const& list) {
  std::vector<std::string> parts;
  std::istringstream in{list};
  for (std::string part; std::getline(in, part, ',');) parts.push_back(part);
  return parts;
}

inline bool contains(std::vector<std::string> const& list, std::string const& value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

/// Reads one list of words, of which `known` are allowed; returns whether all are.
inline bool read_list(std::string const& value, std::vector<std::string> const& known,
                      std::vector<std::string>& list) {
  list = split(value);
  return !list.empty() && std::all_of(list.begin(), list.end(), [&](std::string const& word) {
    return contains(known, word);
  });
}

/// Reads one of two words.
inline bool read_choice(std::string const& value, char const* off, char const* on, bool& choice) {
  choice = value == on;
  return choice || value == off;
}

template <typename Number>
bool read_positive(std::string const& value, Number& number) {
  char* end = nullptr;
  number = static_cast<Number>(std::strtod(value.c_str(), &end));
  return end != value.c_str() && *end == '\0' && number > 0;
}

/// Reads "--name=value" or "--name"; returns whether it makes sense.
inline bool read_setting(std::string const& argument, Settings& s) {
  std::size_t const equals = std::min(argument.find('='), argument.size());
  std::string const name = argument.substr(0, equals);
  std::string const value = equals < argument.size() ? argument.substr(equals + 1) : "";
  if (name == "--suite") {
    return read_list(value, {"shapes", "batch", "hidden", "options", "lengths", "streaming"},
                     s.suites);
  }
  if (name == "--type") return read_list(value, {"fp32", "tf32", "fp16", "bf16"}, s.types);
  if (name == "--work") {
    return read_list(value, {"inference", "forward", "backward", "training"}, s.works);
  }
  if (name == "--way") return read_list(value, {"plain", "graph"}, s.ways);
  if (name == "--engines") return read_choice(value, "chosen", "all", s.all_engines);
  if (name == "--peer") return read_choice(value, "none", "cudnn", s.peer);
  if (name == "--algorithms") {
    s.algorithms = value;
    return contains({"all", "likely", "precompiled"}, value);
  }
  if (name == "--errors") return read_choice(value, "off", "on", s.errors);
  if (name == "--rounds") return read_positive(value, s.rounds);
  if (name == "--seconds") return read_positive(value, s.seconds);
  if (name == "--roofline") return s.roofline = value.empty();
  if (name == "--second-stream") return s.second_stream = value.empty();
  if (name == "--workspace-limit") return read_positive(value, s.workspace_mib);
  if (name == "--list") return s.list = value.empty();
  if (name == "--out") {
    s.out = value;
    return !value.empty();
  }
  if (name == "--context") {
    s.context = split(value);
    return true;
  }
  if (name == "--shape") {
    try {
      s.shapes = std::regex{value};
    } catch (std::regex_error const&) {
      return false;
    }
    return true;
  }
  return false;
}

}  // namespace gru::bench
