#include "distill/step_guard.h"

#include <cmath>

namespace shallowpi {
namespace {

bool is_outlier(const std::vector<double>& norms, double norm, double sigma) {
  double sum = 0, squares = 0;
  for (double n : norms) sum += n;
  const double mean = sum / static_cast<double>(norms.size());
  for (double n : norms) squares += (n - mean) * (n - mean);
  return norm > mean + sigma * std::sqrt(squares / static_cast<double>(norms.size()));
}

}  // namespace

StepVerdict StepGuard::judge(double loss, double norm, double sigma) {
  StepVerdict verdict = StepVerdict::kApply;
  if (!std::isfinite(loss) || !std::isfinite(norm)) {
    verdict = StepVerdict::kNonFinite;
  } else {
    if (sigma > 0 && norms.size() == kWindow && is_outlier(norms, norm, sigma))
      verdict = StepVerdict::kOutlier;
    if (norms.size() < kWindow) {
      norms.push_back(norm);
    } else {
      norms[static_cast<std::size_t>(next)] = norm;
      next = (next + 1) % static_cast<std::int64_t>(kWindow);
    }
  }
  if (verdict == StepVerdict::kApply) {
    in_a_row = 0;
  } else {
    ++skipped;
    ++in_a_row;
  }
  return verdict;
}

}  // namespace shallowpi
