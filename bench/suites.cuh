// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "contest.cuh"

/// What each suite puts into its contests.
namespace gru::bench {

/// A layer with each of the sets of options, and the peer's, which has none.
template <typename T>
void run_layer_case(Bench const& bench, Case const& c, std::vector<OptionSet> const& sets,
                    std::vector<Work> const& works, double most_seconds) {
  cudaStream_t const stream = bench.device.execution().stream;
  LayerData<T> data{c.shape};
  data.fill(stream);
  std::optional<OptionTensors> options;
  if (sets.size() > 1) options.emplace(c.shape, stream);
  double const begin = seconds_now();
  std::vector<PeerAlgorithm> const peers = make_peers(bench, c, data.peer_weights());
  std::size_t works_left = works.size();
  for (Work const work : works) {
    Contest<T> contest{bench, c, work, data, options ? &*options : nullptr};
    for (OptionSet const& set : sets) contest.add_ours(set);
    contest.add_peers(peers);
    contest.run((most_seconds - (seconds_now() - begin)) / static_cast<double>(works_left--));
  }
}

/// One step a call, state in, state out: 100 calls on end, or each waited for, by the host's clock.
template <typename T>
class StreamingCase {
 public:
  StreamingCase(Bench const& bench, Case const& c)
      : bench_{bench}, data_{c.shape}, contest_{bench, c, Work::kInference, data_, nullptr} {
    data_.fill(bench.device.execution().stream);
    Problem const problem = make_problem(c.shape, precision_of(c.type), {});
    for (EngineChoice const& choice :
         engine_choices<T>(problem, Work::kInference, bench.settings.all_engines)) {
      auto const layer = std::make_shared<Layer<T>>(bench.device.execution(), data_, nullptr, false,
                                                    problem, choice.engines, Work::kInference);
      layer->enqueue();  // so that there is a state to go on from
      Record record = contest_.make_record("gru", choice.name);
      record.chosen = choice.chosen;
      record.predicted_us = choice.predicted_us;
      record.memory = layer->memory();
      add_calls(record, [layer] { layer->enqueue_step(); });
    }
    add_peers(c);
  }

  void run(double most_seconds) { contest_.run(most_seconds); }

 private:
  static constexpr int kCalls = 100;

  void add_peers(Case const& c) {
    for (PeerAlgorithm const& algorithm : make_peers(bench_, c, data_.peer_weights())) {
      std::shared_ptr<Peer> const peer = algorithm.peer;
      try {
        std::shared_ptr<PeerRun> const run = peer->bind(1, data_.peer_tensors());
        run->enqueue(Work::kInference);
        bench_.device.wait();
        add_calls(contest_.make_record("cudnn", algorithm.name),
                  [peer, run] { run->enqueue(Work::kInference); });
      } catch (PeerRefuses const&) {
      }
    }
  }

  template <typename Enqueue>
  void add_calls(Record const& record, Enqueue const& enqueue) {
    Device const& device = bench_.device;
    add_way(record, "plain", enqueue);
    try {
      cudaStream_t const stream = device.execution().stream;
      auto const graph = std::make_shared<Graph>(stream, enqueue);
      add_way(record, "graph", [graph, stream] { graph->launch(stream); });
    } catch (std::exception const&) {  // it cannot be captured
      static_cast<void>(cudaGetLastError());
    }
  }

  template <typename Call>
  void add_way(Record const& record, std::string const& way, Call const& call) {
    if (!contains(bench_.settings.ways, way)) return;
    Device const& device = bench_.device;
    contest_.add(record, way, [&device, call] {
      return device.time([&] {
        for (int i = 0; i < kCalls; ++i) call();
      }) / kCalls;
    });
    contest_.add(record, way + ", waited", [&device, call] {
      return milliseconds_of([&] {
               for (int i = 0; i < kCalls; ++i) {
                 call();
                 device.wait();
               }
             }) /
             kCalls;
    });
  }

  Bench const& bench_;
  LayerData<T> data_;
  Contest<T> contest_;
};

/// Runs a case of any suite within `most_seconds`, as far as the least number of rounds allows.
template <typename T>
void run_case_of(Bench const& bench, Case const& c, std::vector<Work> const& works,
                 double most_seconds) {
  if (c.suite == "streaming") {
    StreamingCase<T>{bench, c}.run(most_seconds);
  } else if (c.suite == "options") {
    run_layer_case<T>(bench, c, option_sets(), works, most_seconds);
  } else if (c.suite == "lengths") {
    run_layer_case<T>(bench, c, length_sets(), works, most_seconds);
  } else {
    run_layer_case<T>(bench, c, {{}}, works, most_seconds);
  }
}

}  // namespace gru::bench
