// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdio>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cudnn_peer.hpp"
#include "device.cuh"
#include "errors.cuh"
#include "layer.cuh"
#include "roofline.hpp"
#include "settings.hpp"
#include "table.hpp"

namespace gru::bench {

/// A layer to be timed, and in which suite.
struct Case {
  std::string suite;
  Type type = Type::kFp32;
  Shape shape;
};

/// What all cases share.
struct Bench {
  Settings const& settings;
  Device const& device;
  PeerLibrary const* peer;  ///< null for none
  Table& table;
};

/// One algorithm of the peer for a case's layer.
struct PeerAlgorithm {
  std::string name;
  std::shared_ptr<Peer> peer;
};

/// Whether cuDNN's persist_dynamic may be its fastest algorithm. But for bf16, in which all are
/// slow alike, it never was where more rows share R than these, nor for several rows where the chip
/// does not hold R (results/cudnn-h200.csv).
inline bool may_be_fastest_dynamic(Case const& c) {
  if (c.type == Type::kBf16) return true;
  std::int64_t const most_rows = bytes_of(c.type) == 2 ? 4 : 32;
  return c.shape.batch <= most_rows &&
         (c.shape.batch == 1 || roofline::fits_on_chip(c.type, c.shape));
}

/// Whether the settings want an algorithm of cuDNN's for a case.
inline bool is_wanted(std::string const& algorithm, Settings const& settings, Case const& c) {
  if (algorithm != "persist_dynamic" || settings.algorithms == "all") return true;
  return settings.algorithms == "likely" && may_be_fastest_dynamic(c);
}

/// The algorithms that are wanted and can do the layer.
inline std::vector<PeerAlgorithm> make_peers(Bench const& bench, Case const& c,
                                             PeerWeights const& weights) {
  std::vector<PeerAlgorithm> peers;
  if (bench.peer == nullptr) return peers;
  for (std::string const& name : bench.peer->algorithms()) {
    if (!is_wanted(name, bench.settings, c)) continue;
    try {
      peers.push_back({name, bench.peer->make(name, c.type, c.shape, weights)});
    } catch (PeerRefuses const&) {
    } catch (std::exception const& error) {
      std::fprintf(stderr, "%s %s, %s: %s\n", to_string(c.type), c.shape.name.c_str(), name.c_str(),
                   error.what());
    }
  }
  return peers;
}

inline Precision precision_of(Type type) {
  return type == Type::kTf32 ? Precision::kTf32 : Precision::kFp32;
}

/// One case and one kind of work: this library and its peer, as plain calls and as graphs, on the
/// same data, compared with float64 and then timed in turns.
template <typename T>
class Contest {
 public:
  /// `options` may be null where no set has options.
  Contest(Bench const& bench, Case const& c, Work work, LayerData<T> const& data,
          OptionTensors const* options)
      : bench_{bench}, case_{c}, work_{work}, data_{data}, options_{options} {}
  Contest(Contest const&) = delete;
  Contest& operator=(Contest const&) = delete;

  /// Adds this library's layer with the set's options, by each engine that is wanted.
  void add_ours(OptionSet const& set) {
    Execution execution = bench_.device.execution();
    Problem problem = make_problem(case_.shape, precision_of(case_.type), set);
    problem.workspace_limit = bench_.settings.workspace_mib << 20;
    if (bench_.settings.second_stream) {
      execution.second_stream = bench_.device.second_stream();
      problem.overlap_products = true;
    }
    std::shared_ptr<ErrorMeter<T> const> const meter = meter_of(set);
    for (EngineChoice const& choice :
         engine_choices<T>(problem, work_, bench_.settings.all_engines)) {
      Record record = make_record("gru", choice.name);
      record.options = set.name;
      record.chosen = choice.chosen;
      record.predicted_us = choice.predicted_us;
      auto const layer_of = [&](Problem const& p) {
        return std::make_shared<Layer<T>>(execution, data_, options_, set.full_lengths, p,
                                          choice.engines, work_);
      };
      try {
        if (meter) {
          data_.clear_outputs(execution.stream);
          auto const first_steps = layer_of(meter->problem());
          first_steps->enqueue();
          first_steps->check_status();
          record.errors = errors_of(*meter);
        }
        auto const layer = layer_of(problem);
        layer->enqueue();
        layer->check_status();
        record.memory = layer->memory();
        layers_.push_back(layer);
        add_ways(record, [layer] { layer->enqueue(); });
      } catch (Error const& error) {
        complain(record, error);
      }
    }
  }

  /// Adds the peer's algorithms that come near the fastest in a trial over some steps.
  void add_peers(std::vector<PeerAlgorithm> const& peers) {
    std::vector<Trial> trials;
    for (PeerAlgorithm const& algorithm : peers) {
      try {
        trials.push_back(try_peer(algorithm));
      } catch (PeerRefuses const&) {
      } catch (std::exception const& error) {
        complain(make_record("cudnn", algorithm.name), error);
      }
    }
    std::sort(trials.begin(), trials.end(),
              [](Trial const& a, Trial const& b) { return a.milliseconds < b.milliseconds; });
    for (std::size_t i = 0; i < trials.size() && goes_on(trials, i); ++i) add_peer_run(trials[i]);
  }

  /// Times all that were added, and writes the table's lines.
  void run(double most_seconds) {
    RaceLimits limits;
    limits.least_rounds = bench_.settings.rounds;
    limits.most_rounds = std::max(limits.most_rounds, limits.least_rounds);
    limits.most_seconds = most_seconds;
    std::vector<Timing> const timings = race(racers_, limits);
    for (auto const& layer : layers_) layer->check_status();
    for (std::size_t i = 0; i < timings.size(); ++i) {
      records_[i].timing = timings[i];
      bench_.table.write(records_[i]);
    }
  }

  /// Adds one way of running something.
  void add(Record record, std::string const& way, std::function<double()> run_once,
           std::string const& group = {}) {
    record.way = way;
    records_.push_back(std::move(record));
    racers_.push_back({std::move(run_once), group});
  }

  /// A record of this case without figures.
  Record make_record(char const* library, std::string const& engine) const {
    Record record;
    record.suite = case_.suite;
    record.type = case_.type;
    record.shape = case_.shape;
    record.work = work_;
    record.library = library;
    record.engine = engine;
    bool const modelled = work_ == Work::kInference || work_ == Work::kForward;
    if (bench_.settings.roofline && modelled) {
      record.floor_us_per_step = roofline::floor_us_per_step(case_.type, case_.shape);
    }
    return record;
  }

  /// Adds `enqueue` plainly and as a graph. Of those of one group only the fastest of each way goes
  /// all the way.
  template <typename Enqueue>
  void add_ways(Record const& record, Enqueue const& enqueue, std::string const& group = {}) {
    Device const& device = bench_.device;
    std::vector<std::string> const& ways = bench_.settings.ways;
    std::string const graph_group = group.empty() ? "" : group + ", graph";
    if (contains(ways, "plain")) {
      add(
          record, "plain", [&device, enqueue] { return device.time(enqueue); }, group);
    }
    if (!contains(ways, "graph")) return;
    cudaStream_t const stream = device.execution().stream;
    try {
      auto const graph = std::make_shared<Graph>(stream, enqueue);
      auto const launch = [graph, stream] { graph->launch(stream); };
      add(
          record, "graph", [&device, launch] { return device.time(launch); }, graph_group);
    } catch (std::exception const& error) {
      static_cast<void>(cudaGetLastError());
      complain(record, error);
    }
  }

 private:
  /// An algorithm of the peer that did the first steps.
  struct Trial {
    PeerAlgorithm algorithm;
    std::vector<double> errors = {};
    double milliseconds = 0;
  };

  /// What compares with float64; null where that is not wanted. Kept for a layer without options.
  std::shared_ptr<ErrorMeter<T> const> meter_of(OptionSet const& set) {
    if (!bench_.settings.errors) return nullptr;
    bool const keep = set.apply == nullptr;
    if (keep && meter_ != nullptr) return meter_;
    Problem const problem = make_problem(case_.shape, precision_of(case_.type), set);
    auto const meter = std::make_shared<ErrorMeter<T> const>(
        bench_.device.execution(), data_, options_, set.full_lengths, problem, work_);
    if (keep) meter_ = meter;
    return meter;
  }

  static constexpr std::int64_t kTrialSteps = 200;

  /// Whether trial i of these, the fastest first, is worth timing over all steps. In long runs what
  /// a call costs by itself weighs little, and two are enough.
  bool goes_on(std::vector<Trial> const& trials, std::size_t i) const {
    constexpr double kNear = 1.3;
    constexpr double kLongMilliseconds = 5;
    double const fastest = trials.front().milliseconds;
    auto const steps = static_cast<double>(case_.shape.steps);
    bool const is_long = fastest * steps / std::min<double>(steps, kTrialSteps) > kLongMilliseconds;
    return trials[i].milliseconds < kNear * fastest && (i < 2 || !is_long);
  }

  std::vector<double> errors_of(ErrorMeter<T> const& meter) const {
    Errors const e = meter.compare(data_, work_);
    return {e.h, e.dx, e.dkernel, e.drecurrent_kernel, e.dbias, e.drecurrent_bias, e.dh0};
  }

  /// Compares the algorithm's first steps with float64, and times more of them.
  Trial try_peer(PeerAlgorithm const& algorithm) {
    Trial trial{algorithm};
    PeerTensors const tensors = data_.peer_tensors();
    Work const whole = work_ == Work::kBackward ? Work::kTrainingStep : work_;
    if (auto const meter = meter_of({})) {
      auto const first_steps = algorithm.peer->bind(meter->problem().steps, tensors);
      algorithm.peer->clear_weight_gradients();
      data_.clear_outputs(bench_.device.execution().stream);
      first_steps->enqueue(whole);
      if (goes_backward(work_)) {
        algorithm.peer->read_weight_gradients(data_.peer_weight_gradients());
      }
      trial.errors = errors_of(*meter);
    }
    auto const run = algorithm.peer->bind(std::min(case_.shape.steps, kTrialSteps), tensors);
    run->enqueue(whole);
    auto const time_once = [&] { return bench_.device.time([&] { run->enqueue(work_); }); };
    trial.milliseconds = time_once();
    trial.milliseconds = std::min(trial.milliseconds, time_once());
    return trial;
  }

  void add_peer_run(Trial const& trial) {
    Record record = make_record("cudnn", trial.algorithm.name);
    record.errors = trial.errors;
    std::shared_ptr<Peer> const peer = trial.algorithm.peer;
    try {
      std::shared_ptr<PeerRun> const run = peer->bind(case_.shape.steps, data_.peer_tensors());
      record.memory = run->memory_of(work_);
      if (work_ == Work::kBackward) run->enqueue(Work::kForward);
      add_ways(
          record, [peer, run, work = work_] { run->enqueue(work); }, "cudnn");
    } catch (std::exception const& error) {
      static_cast<void>(cudaGetLastError());
      complain(record, error);
    }
  }

  void complain(Record const& record, std::exception const& error) const {
    std::fprintf(stderr, "%s %s %s, %s %s: %s\n", to_string(record.type), record.shape.name.c_str(),
                 to_string(record.work), record.library.c_str(), record.engine.c_str(),
                 error.what());
  }

  Bench const& bench_;
  Case const& case_;
  Work work_;
  LayerData<T> const& data_;
  OptionTensors const* options_;
  std::shared_ptr<ErrorMeter<T> const> meter_;
  std::vector<Record> records_;
  std::vector<Racer> racers_;
  std::vector<std::shared_ptr<Layer<T>>> layers_;
};

}  // namespace gru::bench
