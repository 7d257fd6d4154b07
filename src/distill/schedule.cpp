#include "distill/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace shallowpi {

double learning_rate(const OptimizerConfig& config, std::int64_t step) {
  const double s = static_cast<double>(step);
  const double warmup = static_cast<double>(config.warmup_steps);
  if (step < config.warmup_steps) {
    const double start = config.peak_lr / (warmup + 1);
    return start + (config.peak_lr - start) * s / warmup;
  }
  const double length = std::max(1.0, static_cast<double>(config.decay_steps) - warmup);
  const double progress = std::min(1.0, (s - warmup) / length);
  const double cosine = 0.5 * (1 + std::cos(std::numbers::pi * progress));
  return config.end_lr + (config.peak_lr - config.end_lr) * cosine;
}

}  // namespace shallowpi
