// What a run reports: metrics.jsonl (deterministic text), timing.jsonl and TensorBoard events.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "distill/append_file.h"
#include "distill/tensorboard.h"

namespace shallowpi {

using Scalars = std::vector<std::pair<std::string, double>>;

/// Means over the steps since the last log line. A resumed run restores the members, which are all its state.
struct MetricWindow {
  std::map<std::string, double> sums;
  std::int64_t steps = 0;

  void add(const Scalars& values);
  /// The mean of every value, 0 steps giving none; starts anew.
  std::map<std::string, double> take();
};

/// Appends to the three logs of a run folder.
class MetricsLog {
 public:
  /// Keeps the first `metrics_bytes` of metrics.jsonl, which an earlier process had written by `first_step`.
  MetricsLog(const std::filesystem::path& run_folder, std::int64_t first_step, std::uint64_t metrics_bytes);

  /// One line {"step": ..., name: value, ...} of metrics.jsonl (null for what is not finite), and one
  /// TensorBoard point per value. No value may depend on the clock or the machine: the file of a resumed run
  /// is byte for byte that of an uninterrupted one.
  void write(std::int64_t step, const Scalars& values);
  /// The same to timing.jsonl, where clock and machine belong.
  void write_timing(std::int64_t step, const Scalars& values);

  /// Makes metrics.jsonl durable and returns its size, which goes into a checkpoint.
  std::uint64_t sync();

 private:
  AppendFile metrics_, timing_;
  EventWriter events_;
};

}  // namespace shallowpi
