#include "distill/optimizer.h"

#include "distill/flat_parameters.h"
#include "parity_fixture.h"

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

class OneStep : public ::testing::TestWithParam<const char*> {};

// The flat update of a whole policy against PyTorch's own optimiser on separate tensors.
TEST_P(OneStep, EqualsPyTorchOnEveryLiveTensor) {
  const NamedTensors io = testing::parity_io(GetParam());
  Policy policy = testing::parity_policy(testing::parity_weights(GetParam()));
  std::vector<ParameterGroup> live;
  for (const ParameterGroup& group : policy->parameter_groups())
    if (!group.dead) live.push_back(group);
  FlatParameters flat(live);
  const Observation observation = testing::parity_observation(io);
  const torch::Tensor velocity = policy->velocity(policy->encode(observation), observation.state_bd,
                                                  io.at("in.noise"), io.at("in.time"));
  velocity.square().mean().backward();
  flat.collect_gradient();

  constexpr double kLearningRate = 1e-3;
  const OptimizerConfig config = golden_config();
  NamedTensors expected;
  std::vector<torch::Tensor> parameters;
  const NamedTensors gradients = flat.named(flat.gradient());
  for (const auto& [name, weights] : flat.named(flat.master())) {
    torch::Tensor parameter = weights.clone().set_requires_grad(true);
    parameter.mutable_grad() = gradients.at(name).clone();
    parameters.push_back(expected[name] = parameter);
  }
  torch::optim::AdamW(parameters, torch::optim::AdamWOptions(kLearningRate)
                                      .betas({config.beta1, config.beta2})
                                      .eps(config.eps)
                                      .weight_decay(config.weight_decay))
      .step();
  AdamW(config, flat.master()).step(flat.master(), flat.gradient(), kLearningRate);

  const NamedTensors live_tensors = policy->named_tensors(/*with_dead=*/false);
  ASSERT_GT(live_tensors.size(), 300u);
  ASSERT_EQ(expected.size(), live_tensors.size());
  for (const auto& [name, weights] : live_tensors)
    expect_tensor_near(weights, expected.at(name).detach(), 1e-7, 1e-6, name);
}

INSTANTIATE_TEST_SUITE_P(Kinds, OneStep, ::testing::Values("pi0", "pi05"));

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
