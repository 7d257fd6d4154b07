// The controller's inference by the quickstart's policy.
#include <gtest/gtest.h>

#include <thread>

#include "shallowpi/runtime/action_chunk_controller.h"
#include "shallowpi/runtime/policy_runner.h"
#include "test_util.h"

namespace shallowpi {
namespace {

std::shared_ptr<PolicyRunner> quickstart_runner() {
  torch::set_num_threads(1);
  return std::make_shared<PolicyRunner>(
      PolicyRunner::load(std::filesystem::path(SHALLOWPI_SOURCE_DIR) / "configs/quickstart/teacher",
                         torch::kCPU, torch::kFloat32));
}

RobotObservation grey_observation() {
  RobotObservation observation;
  for (const char* camera : {"base_0_rgb", "left_wrist_0_rgb"})
    observation.images[camera] = {64, 64, std::vector<std::uint8_t>(64 * 64 * 3, 100)};
  observation.state = {0.1f, -0.2f, 1.0f, 3.1f, 0.0f, 0.1f, 0.02f, -0.02f};
  observation.prompt = "pick up the butter";
  return observation;
}

TEST(RunnerInference, AChunkReturnsToWhatTheNetworkSaid) {
  const auto runner = quickstart_runner();
  const RobotObservation observation = grey_observation();
  const InferResult result = runner->infer({{observation, torch::randn({20, 8}), {}}}, {.steps = 2}).at(0);
  const torch::Tensor back_hd = runner->transform().from_robot(result.actions, observation.state);
  ASSERT_EQ(back_hd.sizes(), (std::vector<std::int64_t>{20, 8}));
  EXPECT_TRUE(testing::tensor_near(back_hd.narrow(1, 0, 7), result.normalized_hd.narrow(1, 0, 7), 1e-4));
  EXPECT_EQ(back_hd.narrow(1, 7, 1).abs().max().item<float>(), 0);
}

TEST(RunnerInference, AnswersContinueTheirPrefix) {
  const ChunkInference infer = runner_inference(quickstart_runner(), 2);
  const RobotObservation observation = grey_observation();
  const RobotActions free = infer(observation, {});
  RobotActions prefix(free.begin(), free.begin() + 3);
  for (Action& action : prefix)
    for (float& value : action) value *= 0.5f;
  const RobotActions bound = infer(observation, prefix);
  ASSERT_EQ(bound.size(), free.size());
  for (std::size_t i = 0; i < prefix.size(); ++i)
    for (std::size_t d = 0; d < prefix[i].size(); ++d) EXPECT_NEAR(bound[i][d], prefix[i][d], 1e-4) << i << d;
}

TEST(RunnerInference, NoiseIsAFunctionOfSeedAndCall) {
  const auto runner = quickstart_runner();
  const RobotObservation observation = grey_observation();
  const ChunkInference a = runner_inference(runner, 2, 1), b = runner_inference(runner, 2, 1),
                       c = runner_inference(runner, 2, 2);
  const RobotActions first = a(observation, {}), second = a(observation, {});
  EXPECT_NE(first, second);
  EXPECT_EQ(b(observation, {}), first);
  EXPECT_NE(c(observation, {}), first);
  const ChunkInference steady = runner_inference(runner, 2, 1, /*noise_scale=*/0);
  const RobotActions middle = steady(observation, {});
  EXPECT_NE(middle, first);
  EXPECT_EQ(steady(observation, {}), middle) << "without noise there is nothing to draw";
}

TEST(RunnerInference, ControllersMayShareARunner) {
  const auto runner = quickstart_runner();
  const RobotObservation observation = grey_observation();
  constexpr int kCalls = 4;
  const auto chunks = [&](std::uint64_t seed, std::int64_t steps) {
    const ChunkInference infer = runner_inference(runner, steps, seed);
    std::vector<RobotActions> all;
    for (int call = 0; call < kCalls; ++call) all.push_back(infer(observation, {}));
    return all;
  };
  const auto alone_a = chunks(1, 2), alone_b = chunks(2, 3);
  std::vector<RobotActions> together_b;
  std::thread other([&] { together_b = chunks(2, 3); });
  const auto together_a = chunks(1, 2);
  other.join();
  EXPECT_EQ(together_a, alone_a);
  EXPECT_EQ(together_b, alone_b);
}

}  // namespace
}  // namespace shallowpi
