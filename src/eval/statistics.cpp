#include "eval/statistics.h"

#include <algorithm>
#include <cmath>

namespace shallowpi {
namespace {

constexpr double kZ = 1.959963984540054;  // the normal distribution's 97.5 % quantile

}  // namespace

Interval wilson_interval(std::int64_t successes, std::int64_t n) {
  if (n == 0) return {0, 1};
  const double count = double(n), p = double(successes) / count, z2 = kZ * kZ;
  const double middle = p + z2 / (2 * count);
  const double half = kZ * std::sqrt(p * (1 - p) / count + z2 / (4 * count * count));
  const double scale = 1 + z2 / count;
  return {successes == 0 ? 0.0 : (middle - half) / scale, successes == n ? 1.0 : (middle + half) / scale};
}

double mcnemar_exact(const PairedCounts& counts) {
  const std::int64_t discordant = counts.only_first + counts.only_second;
  const std::int64_t fewer = std::min(counts.only_first, counts.only_second);
  const double n = double(discordant);
  double tail = 0;
  for (std::int64_t k = 0; k <= fewer; ++k)
    tail += std::exp(std::lgamma(n + 1) - std::lgamma(double(k) + 1) - std::lgamma(n - double(k) + 1) -
                     n * std::log(2.0));
  return std::min(1.0, 2 * tail);
}

double paired_difference(const PairedCounts& counts) {
  return counts.n() == 0 ? 0.0 : double(counts.only_second - counts.only_first) / double(counts.n());
}

Interval paired_difference_interval(const PairedCounts& counts) {
  if (counts.n() == 0) return {-1, 1};
  const double a = double(counts.both), b = double(counts.only_second), c = double(counts.only_first),
               d = double(counts.neither), n = double(counts.n());
  // Rates of the second (p) and the first (q), and their correlation with Newcombe's continuity correction.
  const double p = (a + b) / n, q = (a + c) / n;
  const Interval pi = wilson_interval(counts.both + counts.only_second, counts.n());
  const Interval qi = wilson_interval(counts.both + counts.only_first, counts.n());
  double phi = 0;
  if (const double margins = (a + b) * (c + d) * (a + c) * (b + d); margins > 0) {
    const double product = a * d - b * c;
    phi = (product > 0 ? std::max(product - n / 2, 0.0) : product) / std::sqrt(margins);
  }
  const auto spread = [phi](double x, double y) {
    return std::sqrt(std::max(0.0, x * x - 2 * phi * x * y + y * y));
  };
  return {p - q - spread(p - pi.low, qi.high - q), p - q + spread(pi.high - p, q - qi.low)};
}

}  // namespace shallowpi
