#include "shallowpi/distill/flow.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>

#include "test_util.h"

namespace shallowpi {
namespace {

using namespace shallowpi::testing;
using torch::Tensor;

/// Largest gap between the samples' empirical distribution and `cdf`.
double kolmogorov_smirnov(const Tensor& samples, const std::function<double(double)>& cdf) {
  const Tensor sorted = std::get<0>(samples.flatten().to(torch::kFloat64).sort());
  const auto n = sorted.numel();
  double gap = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double expected = cdf(sorted.data_ptr<double>()[i]);
    gap =
        std::max({gap, std::abs(static_cast<double>(i) / n - expected), std::abs((i + 1.0) / n - expected)});
  }
  return gap;
}

/// The gap that a right sampler exceeds with probability 1e-4.
double critical(std::int64_t n) {
  return 2.23 / std::sqrt(static_cast<double>(n));
}

template <typename T>
T unscale(const T& t) {
  return (t - 0.001) / 0.999;
}

TEST(Flow, TimesFollowOpenpisBeta) {
  const FlowDraw flow = draw_flow(torch::zeros({100000, 1, 1}), {}, 7);
  const double gap = kolmogorov_smirnov(flow.t, [](double t) { return std::pow(unscale(t), 1.5); });
  EXPECT_LT(gap, critical(100000));
  // The same test refuses a slightly wrong sampler.
  EXPECT_GT(kolmogorov_smirnov(flow.t, [](double t) { return std::pow(unscale(t), 1.45); }),
            critical(100000));
}

TEST(Flow, TimesFollowAnyBeta) {
  // Beta(2, 3) has the distribution function 6t^2 - 8t^3 + 3t^4.
  const FlowDraw flow = draw_flow(torch::zeros({20000, 1, 1}), {.beta_alpha = 2, .beta_beta = 3}, 8);
  const double gap = kolmogorov_smirnov(flow.t, [](double t) {
    const double x = unscale(t);
    return x * x * (6 - 8 * x + 3 * x * x);
  });
  EXPECT_LT(gap, critical(20000));
}

TEST(Flow, TimesAreQuantiles) {
  const auto times = [](double alpha, double beta) {
    const FlowDraw flow = draw_flow(torch::zeros({1000, 1, 1}), {.beta_alpha = alpha, .beta_beta = beta}, 13);
    return unscale(flow.t.to(torch::kFloat64)).clamp(0, 1);
  };
  const Tensor u = times(1, 1);  // uniform
  Tensor x = times(2, 3);
  EXPECT_TRUE(tensor_near(x * x * (6 - 8 * x + 3 * x * x), u, 1e-6));
  x = times(1, 4);
  EXPECT_TRUE(tensor_near(1 - (1 - x).pow(4), u, 1e-6));
  x = times(0.5, 0.5);  // steep at both ends, where t has float32's precision only
  EXPECT_TRUE(tensor_near(x.sqrt().asin() * (2 / std::numbers::pi), u, 1e-3));
}

TEST(Flow, NoiseIsNormal) {
  const FlowDraw flow = draw_flow(torch::zeros({100, 10, 100}), {}, 9);
  const auto normal = [](double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); };
  EXPECT_LT(kolmogorov_smirnov(flow.noise, normal), critical(100000));
}

TEST(Flow, DrawsOfASampleAreStratified) {
  const std::int64_t draws = 4;
  const FlowDraw flow = draw_flow(torch::zeros({25000, 1, 1}), {.draws = draws}, 10);
  const Tensor quantile =
      ((flow.t.to(torch::kFloat64) - 0.001) / 0.999).clamp_min(0).pow(1.5).view({-1, draws});
  for (std::int64_t r = 0; r < draws; ++r) {
    EXPECT_GE(quantile.select(1, r).min().item<double>(), r / 4.0 - 1e-5);
    EXPECT_LE(quantile.select(1, r).max().item<double>(), (r + 1) / 4.0 + 1e-5);
  }
  EXPECT_LT(kolmogorov_smirnov(quantile, [](double x) { return x; }), critical(100000));
}

TEST(Flow, IsAFunctionOfTheSeed) {
  const Tensor actions = torch::randn({3, 5, 32});
  const FlowConfig config{.draws = 2};
  const FlowDraw first = draw_flow(actions, config, 11), again = draw_flow(actions, config, 11),
                 other = draw_flow(actions, config, 12);
  EXPECT_TRUE(torch::equal(first.x_t, again.x_t));
  EXPECT_TRUE(torch::equal(first.t, again.t));
  EXPECT_FALSE(torch::equal(first.noise, other.noise));
  EXPECT_FALSE(torch::equal(first.t, other.t));
}

TEST(Flow, InterpolatesFromNoiseAtOneToActionsAtZero) {
  const Tensor actions = torch::randn({2, 3, 4}), noise = torch::randn({4, 3, 4});
  const Tensor repeated = actions.repeat_interleave(2, 0);
  const FlowDraw flow = make_flow(actions, noise, torch::tensor({1.0, 0.0, 0.25, 0.5}, torch::kFloat32));
  EXPECT_TRUE(tensor_near(flow.x_t[0], noise[0], 0));
  EXPECT_TRUE(tensor_near(flow.x_t[1], repeated[1], 0));
  EXPECT_TRUE(tensor_near(flow.x_t[2], 0.25 * noise[2] + 0.75 * actions[1], 1e-6));
  // Following the target from x_t for the rest of the time ends at the actions.
  EXPECT_TRUE(tensor_near(flow.x_t - flow.t.view({-1, 1, 1}) * flow.target, repeated, 1e-6));
}

TEST(Flow, HalfOfTheDrawsAreGivenTheStartOfTheirChunk) {
  const std::int64_t horizon = 6, most = 4, rows = 40000;
  const Tensor actions = torch::randn({rows / 2, horizon, 2});
  const FlowConfig config{.draws = 2};
  const FlowDraw flow = draw_flow(actions, config, 11, most), plain = draw_flow(actions, config, 11);
  const Tensor given = flow.given_mask_bh, length = given.sum(1);
  EXPECT_TRUE(torch::equal(given, torch::arange(horizon) < length.unsqueeze(1))) << "the first ones";
  for (std::int64_t n = 0; n <= most; ++n)
    EXPECT_NEAR((length == n).to(torch::kFloat64).mean().item<double>(), n == 0 ? 0.5 : 0.5 / most, 0.01)
        << n;
  EXPECT_EQ(length.max().item<std::int64_t>(), most);
  // Given actions are as they are, the others those of the draw without.
  const Tensor at = given.unsqueeze(2), repeated = actions.repeat_interleave(2, 0);
  EXPECT_TRUE(torch::equal(flow.x_t, torch::where(at, repeated, plain.x_t)));
  EXPECT_TRUE(torch::equal(flow.t, plain.t));
  EXPECT_TRUE(torch::equal(flow.noise, plain.noise));
  EXPECT_FALSE(plain.given_mask_bh.defined());
}

TEST(Flow, RefusesImpossibleParameters) {
  const Tensor actions = torch::zeros({1, 1, 1});
  expect_error<UsageError>([&] { draw_flow(actions, {.draws = 0}, 1); }, "cannot draw 0");
  expect_error<UsageError>([&] { draw_flow(actions, {.beta_alpha = -1}, 1); }, "Beta(-1");
  expect_error<UsageError>([&] { draw_flow(actions, {.beta_beta = std::nan("")}, 1); }, "Beta");
  expect_error<UsageError>([&] { draw_flow(actions, {}, 1, 1); }, "cannot give 1 of 1 actions");
}

}  // namespace
}  // namespace shallowpi
