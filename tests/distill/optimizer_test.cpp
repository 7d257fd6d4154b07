#include "shallowpi/distill/optimizer.h"

#include "shallowpi/base/safetensors.h"
#include "test_util.h"

namespace shallowpi {
namespace {

using testing::expect_tensor_near;

OptimizerConfig golden_config() {
  OptimizerConfig config;
  config.weight_decay = 0.01;
  return config;
}

TEST(AdamW, EqualsPyTorchAfterOneAndSeveralSteps) {
  const NamedTensors golden = load_safetensors(testing::test_data("golden/adamw.safetensors"));
  torch::Tensor weights = golden.at("weights.0").clone();
  AdamW optimizer(golden_config(), weights);
  for (std::int64_t step = 0; step < 20; ++step) {
    optimizer.step(weights, golden.at("gradients")[step], 1e-3 / static_cast<double>(step + 1));
    const auto expected = golden.find(str("weights.", step + 1));
    if (expected != golden.end()) expect_tensor_near(weights, expected->second, 1e-7, 1e-6, expected->first);
  }
  EXPECT_EQ(optimizer.updates, 20);
  expect_tensor_near(optimizer.first_moment, golden.at("exp_avg"), 1e-12, 1e-5);
  expect_tensor_near(optimizer.second_moment, golden.at("exp_avg_sq"), 1e-14, 1e-5);
}

TEST(AdamW, DecaysWeightsApartFromTheGradient) {
  torch::Tensor weights = torch::full({3}, 2.0);
  AdamW optimizer(golden_config(), weights);
  optimizer.step(weights, torch::zeros({3}), 0.1);
  expect_tensor_near(weights, torch::full({3}, 2.0 * (1 - 0.1 * 0.01)), 1e-7);
}

TEST(ClipGradient, EqualsPyTorch) {
  const NamedTensors golden = load_safetensors(testing::test_data("golden/adamw.safetensors"));
  torch::Tensor gradient = golden.at("gradients")[0].clone();
  const double norm = gradient.norm().item<double>();
  EXPECT_NEAR(norm, golden.at("norm").item<double>(), 1e-5);
  clip_gradient(gradient, norm, 1.0);
  expect_tensor_near(gradient, golden.at("clipped"), 1e-9, 1e-6);
}

TEST(ClipGradient, LeavesSmallGradientsAloneAndCanBeOff) {
  torch::Tensor gradient = torch::full({4}, 0.25);
  clip_gradient(gradient, 0.5, 1.0);
  EXPECT_TRUE(gradient.equal(torch::full({4}, 0.25)));
  torch::Tensor large = torch::full({4}, 100.0);
  clip_gradient(large, 200.0, 0.0);
  EXPECT_TRUE(large.equal(torch::full({4}, 100.0)));
}

TEST(Ema, FollowsWithConstantDecay) {
  torch::Tensor ema = torch::zeros({2});
  double expected = 0;
  for (int step = 1; step <= 1000; ++step) {
    update_ema(ema, torch::full({2}, static_cast<double>(step)), 0.99);
    expected = 0.99 * expected + 0.01 * step;
  }
  expect_tensor_near(ema, torch::full({2}, expected), 0, 1e-5);
}

}  // namespace
}  // namespace shallowpi
