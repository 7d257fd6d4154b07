#include "shallowpi/distill/flow.h"

#include <ATen/CPUGeneratorImpl.h>

#include <cmath>

#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi {

namespace {

// openpi: t never is exactly the data's end of the flow.
constexpr double kTimeScale = 0.999, kTimeOffset = 0.001;

/// The continued fraction of the incomplete beta function, by Lentz's method; converges fast for
/// x < (a + 1) / (a + b + 2).
double beta_fraction(double x, double a, double b) {
  constexpr double kTiny = 1e-300;
  const auto invert = [](double value) { return 1 / (std::abs(value) < kTiny ? kTiny : value); };
  double c = 1, d = invert(1 - (a + b) * x / (a + 1)), fraction = d;
  for (int m = 1; m < 1000; ++m) {
    double change = 1;
    for (const double term : {m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
                              -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))}) {
      d = invert(1 + term * d);
      c = 1 + term / (std::abs(c) < kTiny ? kTiny : c);
      change = c * d;
      fraction *= change;
    }
    if (std::abs(change - 1) < 1e-14) break;
  }
  return fraction;
}

/// Distribution function of Beta(a, b) at x in (0, 1).
double beta_cdf(double x, double a, double b) {
  const double front =
      std::exp(std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) + a * std::log(x) + b * std::log1p(-x));
  if (x < (a + 1) / (a + b + 2)) return front * beta_fraction(x, a, b) / a;
  return 1 - front * beta_fraction(1 - x, b, a) / b;
}

double beta_quantile(double u, double a, double b) {
  if (b == 1.0) return std::pow(u, 1 / a);
  double low = 0, high = 1;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (beta_cdf(middle, a, b) < u ? low : high) = middle;
  }
  return (low + high) / 2;
}

/// t [B*R], draw r of a sample from the r-th of R equally probable slices of the distribution.
torch::Tensor draw_times(std::int64_t batch, std::int64_t draws, double alpha, double beta,
                         at::Generator generator) {
  torch::Tensor t = torch::empty({batch, draws}, torch::kFloat64).uniform_(0, 1, generator);
  double* values = t.data_ptr<double>();
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    const double u = (static_cast<double>(i % draws) + values[i]) / static_cast<double>(draws);
    values[i] = beta_quantile(u, alpha, beta) * kTimeScale + kTimeOffset;
  }
  return t.flatten().to(torch::kFloat32);
}

}  // namespace

FlowDraw make_flow(const torch::Tensor& actions_bhd, const torch::Tensor& noise, const torch::Tensor& t) {
  TORCH_CHECK(actions_bhd.dim() == 3 && noise.dim() == 3 && t.dim() == 1 && t.size(0) == noise.size(0) &&
                  noise.size(0) % actions_bhd.size(0) == 0,
              "a flow of ", noise.sizes(), " at times ", t.sizes(), " for actions ", actions_bhd.sizes());
  const std::int64_t draws = noise.size(0) / actions_bhd.size(0);
  const torch::Tensor actions = draws == 1 ? actions_bhd : actions_bhd.repeat_interleave(draws, 0);
  const torch::Tensor share = t.view({-1, 1, 1});
  return {noise, t, share * noise + (1 - share) * actions, noise - actions};
}

FlowDraw draw_flow(const torch::Tensor& actions_bhd, std::int64_t draws, std::uint64_t seed, double alpha,
                   double beta) {
  if (draws < 1 || !(alpha > 0) || !(beta > 0)) {
    throw UsageError(str("cannot draw ", draws, " flow times from Beta(", alpha, ", ", beta,
                         "): all three must be positive"));
  }
  // Drawn on the CPU, so that the numbers do not depend on the device.
  at::Generator generator = at::detail::createCPUGenerator(seed);
  const std::int64_t batch = actions_bhd.size(0);
  const torch::Tensor t = draw_times(batch, draws, alpha, beta, generator);
  const torch::Tensor noise =
      torch::empty({batch * draws, actions_bhd.size(1), actions_bhd.size(2)}, torch::kFloat32)
          .normal_(0, 1, generator);
  const torch::Device device = actions_bhd.device();
  return make_flow(actions_bhd, noise.to(device), t.to(device));
}

}  // namespace shallowpi
