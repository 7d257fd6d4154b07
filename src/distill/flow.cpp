#include "shallowpi/distill/flow.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <boost/math/special_functions/beta.hpp>
#include <cmath>

#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi {

namespace {

// openpi: t never is exactly the data's end of the flow.
constexpr double kTimeScale = 0.999, kTimeOffset = 0.001;

/// Inverse of the distribution function of Beta(a, b).
double beta_quantile(double u, double a, double b) {
  if (b == 1.0) return std::pow(u, 1 / a);
  // Not in long double, which some processors lack.
  using InDouble = boost::math::policies::policy<boost::math::policies::promote_double<false>>;
  // It can fail at the very ends, such as u = 2^-53.
  return boost::math::ibeta_inv(a, b, std::clamp(u, 1e-12, 1 - 1e-12), InDouble());
}

/// t [B*R], draw r of a sample from the r-th of R equally probable slices of the distribution.
torch::Tensor draw_times(std::int64_t batch, const FlowConfig& flow, at::Generator generator) {
  torch::Tensor t = torch::empty({batch, flow.draws}, torch::kFloat64).uniform_(0, 1, generator);
  double* values = t.data_ptr<double>();
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    const double u = (static_cast<double>(i % flow.draws) + values[i]) / static_cast<double>(flow.draws);
    values[i] = beta_quantile(u, flow.beta_alpha, flow.beta_beta) * kTimeScale + kTimeOffset;
  }
  return t.flatten().to(torch::kFloat32);
}

/// Which actions are given, bool [rows, horizon]: none in half of the rows, else the first 1 to `most`.
torch::Tensor draw_given(std::int64_t rows, std::int64_t horizon, std::int64_t most,
                         at::Generator generator) {
  const torch::Tensor drawn = torch::randint(2 * most, {rows, 1}, generator, torch::kInt64);
  return torch::arange(horizon) < drawn - (most - 1);
}

}  // namespace

FlowDraw FlowDraw::map(const std::function<torch::Tensor(const torch::Tensor&)>& function) const {
  const torch::Tensor mask = given_mask_bh.defined() ? function(given_mask_bh) : given_mask_bh;
  return {function(noise), function(t), function(x_t), function(target), mask};
}

FlowDraw make_flow(const torch::Tensor& actions_bhd, const torch::Tensor& noise, const torch::Tensor& t,
                   const torch::Tensor& given_mask_bh) {
  TORCH_CHECK(actions_bhd.dim() == 3 && noise.dim() == 3 && t.dim() == 1 && t.size(0) == noise.size(0) &&
                  noise.size(0) % actions_bhd.size(0) == 0,
              "a flow of ", noise.sizes(), " at times ", t.sizes(), " for actions ", actions_bhd.sizes());
  const std::int64_t draws = noise.size(0) / actions_bhd.size(0);
  const torch::Tensor actions = draws == 1 ? actions_bhd : actions_bhd.repeat_interleave(draws, 0);
  const torch::Tensor share = t.view({-1, 1, 1});
  torch::Tensor x_t = share * noise + (1 - share) * actions;
  if (given_mask_bh.defined()) x_t = torch::where(given_mask_bh.unsqueeze(2), actions, x_t);
  return {noise, t, x_t, noise - actions, given_mask_bh};
}

FlowDraw draw_flow(const torch::Tensor& actions_bhd, const FlowConfig& flow, std::uint64_t seed,
                   std::int64_t rtc_training_max_delay) {
  if (flow.draws < 1 || !(flow.beta_alpha > 0) || !(flow.beta_beta > 0)) {
    throw UsageError(str("cannot draw ", flow.draws, " flow times from Beta(", flow.beta_alpha, ", ",
                         flow.beta_beta, "): all three must be positive"));
  }
  const std::int64_t batch = actions_bhd.size(0), horizon = actions_bhd.size(1);
  if (rtc_training_max_delay < 0 || rtc_training_max_delay >= horizon)
    throw UsageError(str("cannot give ", rtc_training_max_delay, " of ", horizon, " actions"));
  // Drawn on the CPU, so that the numbers do not depend on the device.
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  const torch::Tensor t = draw_times(batch, flow, generator);
  const torch::Tensor noise =
      torch::empty({batch * flow.draws, horizon, actions_bhd.size(2)}, torch::kFloat32)
          .normal_(0, 1, generator);
  const torch::Device device = actions_bhd.device();
  torch::Tensor given;
  if (rtc_training_max_delay > 0)
    given = draw_given(t.size(0), horizon, rtc_training_max_delay, generator).to(device);
  return make_flow(actions_bhd, noise.to(device), t.to(device), given);
}

}  // namespace shallowpi
