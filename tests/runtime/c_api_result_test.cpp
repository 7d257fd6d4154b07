// What the C API answers, by the classes that it wraps: the quickstart's policy on patterned observations.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "shallowpi/runtime/action_chunk_controller.h"
#include "shallowpi/runtime/policy_runner.h"
#include "shallowpi/runtime/shallowpi.h"
#include "test_util.h"

namespace shallowpi {
namespace {

const std::filesystem::path kTeacher =
    std::filesystem::path(SHALLOWPI_SOURCE_DIR) / "configs/quickstart/teacher";

/// Pictures that are wider than high: the scene brightens from left to right, the wrist's from top to bottom.
RobotObservation patterned_observation() {
  constexpr std::int64_t kHeight = 48, kWidth = 96;
  Image scene{kHeight, kWidth, {}}, wrist = scene;
  for (std::int64_t y = 0; y < kHeight; ++y)
    for (std::int64_t x = 0; x < kWidth; ++x) {
      scene.bytes.insert(scene.bytes.end(), 3, static_cast<std::uint8_t>(2 * x));
      wrist.bytes.insert(wrist.bytes.end(), 3, static_cast<std::uint8_t>(5 * y));
    }
  RobotObservation observation;
  observation.images = {{"base_0_rgb", scene}, {"left_wrist_0_rgb", wrist}};
  observation.state = {0.1f, -0.2f, 1.0f, 3.1f, 0.0f, 0.1f, 0.02f, -0.02f};
  observation.prompt = "pick up the butter";
  return observation;
}

/// A controller of the C API.
class CApiResult : public ::testing::Test {
 protected:
  void SetUp() override {
    torch::set_num_threads(1);
    shallowpi_policy_options how{};
    how.device = "cpu";
    how.dtype = "float32";
    ASSERT_EQ(shallowpi_policy_load(kTeacher.c_str(), &how, &policy_), SHALLOWPI_OK);
    shallowpi_controller_options options{};
    ASSERT_EQ(shallowpi_controller_defaults(policy_, &options), SHALLOWPI_OK);
    options.steps = kSteps;
    options.seed = kSeed;
    options.noise_scale = kNoiseScale;
    ASSERT_EQ(shallowpi_controller_create(policy_, &options, &controller_), SHALLOWPI_OK);
  }
  void TearDown() override {
    shallowpi_controller_free(controller_);
    shallowpi_policy_free(policy_);
  }

  /// Writes into action_.
  shallowpi_tick tick(const RobotObservation& seen) {
    std::vector<shallowpi_image> images;
    for (const auto& [camera, image] : seen.images)
      images.push_back({camera.c_str(), image.bytes.data(), static_cast<std::int32_t>(image.height),
                        static_cast<std::int32_t>(image.width)});
    const shallowpi_observation observation{images.data(), images.size(), seen.state.data(),
                                            seen.state.size(), seen.prompt.c_str()};
    shallowpi_tick now{};
    EXPECT_EQ(shallowpi_controller_tick(controller_, &observation, action_.data(), action_.size(), &now),
              SHALLOWPI_OK)
        << shallowpi_last_error();
    return now;
  }

  static constexpr std::int32_t kSteps = 2;
  static constexpr std::uint64_t kSeed = 7;
  static constexpr double kNoiseScale = 0.5;
  shallowpi_policy* policy_ = nullptr;
  shallowpi_controller* controller_ = nullptr;
  Action action_ = Action(kLiberoActionDim);
};

TEST_F(CApiResult, TheFirstActionIsThatOfTheSameInferenceInCpp) {
  const RobotObservation observation = patterned_observation();
  shallowpi_tick now = tick(observation);
  EXPECT_EQ(now.status, SHALLOWPI_WAITING);
  EXPECT_EQ(now.new_chunk, 0);
  EXPECT_EQ(now.age, -1);
  constexpr int kTicksOfAMinute = 3000;
  for (int ticks = 0; now.status == SHALLOWPI_WAITING && ticks < kTicksOfAMinute; ++ticks) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    now = tick(observation);
  }
  ASSERT_EQ(now.status, SHALLOWPI_ACTING);
  EXPECT_EQ(now.new_chunk, 1);

  shallowpi_counters counters{};
  ASSERT_EQ(shallowpi_controller_counters(controller_, &counters), SHALLOWPI_OK);
  const ChunkInference infer = runner_inference(
      std::make_shared<PolicyRunner>(PolicyRunner::load(kTeacher, torch::kCPU, torch::kFloat32)), kSteps,
      kSeed, kNoiseScale);
  RobotActions chunk;  // the first whose answer did not come too late
  for (std::int64_t call = 0; call <= counters.expired; ++call) chunk = infer(observation, {});
  ASSERT_TRUE(now.age > 0 && now.age < std::ssize(chunk)) << now.age;
  const Action& expected = chunk[static_cast<std::size_t>(now.age)];
  ASSERT_EQ(action_.size(), expected.size());
  for (std::size_t d = 0; d < expected.size(); ++d) EXPECT_NEAR(action_[d], expected[d], 1e-4) << d;
}

}  // namespace
}  // namespace shallowpi
