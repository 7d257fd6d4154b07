#include "distill/metrics.h"

#include <cmath>

#include "distill/run_folder.h"
#include "shallowpi/base/json.h"

namespace shallowpi {
namespace {

std::string json_line(std::int64_t step, const Scalars& values) {
  Json line{{"step", step}};
  for (const auto& [name, value] : values) {
    // Counts are written as such, not as "3.0".
    if (std::abs(value) < 1e15 && std::trunc(value) == value) {
      line[name] = static_cast<std::int64_t>(value);
    } else {
      line[name] = value;
    }
  }
  return line.dump() + "\n";
}

}  // namespace

void MetricWindow::add(const Scalars& values) {
  for (const auto& [name, value] : values) sums[name] += value;
  ++steps;
}

std::map<std::string, double> MetricWindow::take() {
  std::map<std::string, double> means;
  for (const auto& [name, sum] : sums) means[name] = sum / static_cast<double>(steps);
  *this = {};
  return means;
}

MetricsLog::MetricsLog(const std::filesystem::path& run_folder, std::int64_t first_step,
                       std::uint64_t metrics_bytes)
    : metrics_(run_folder / kMetricsFile),
      timing_(run_folder / "timing.jsonl"),
      events_(run_folder / "tensorboard", first_step) {
  metrics_.truncate(metrics_bytes);
}

void MetricsLog::write(std::int64_t step, const Scalars& values) {
  metrics_.append(json_line(step, values));
  events_.add_scalars(step, values);
}

void MetricsLog::write_timing(std::int64_t step, const Scalars& values) {
  timing_.append(json_line(step, values));
  Scalars tagged;
  for (const auto& [name, value] : values) tagged.emplace_back("timing/" + name, value);
  events_.add_scalars(step, tagged);
}

std::uint64_t MetricsLog::sync() {
  metrics_.sync();
  return metrics_.size();
}

}  // namespace shallowpi
