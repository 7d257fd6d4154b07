// The controller under real threads, with an inference that waits for the test and not for time.
#include "shallowpi/runtime/action_chunk_controller.h"

#include <gtest/gtest.h>

#include <future>

#include "test_util.h"

namespace shallowpi {
namespace {

constexpr std::int64_t kHorizon = 1000;

ChunkingOptions small_options(ChunkMode mode = ChunkMode::kReceding) {
  ChunkingOptions options;
  options.mode = mode;
  options.execute = 2;
  options.horizon = kHorizon;
  return options;
}

RobotObservation observation(float state) {
  return {{}, {state}, ""};
}

/// Action i of the chunk of state s is {10000 s + i}.
RobotActions chunk_of(const RobotObservation& seen) {
  RobotActions chunk;
  for (std::int64_t i = 0; i < kHorizon; ++i)
    chunk.push_back({10000 * seen.state.at(0) + static_cast<float>(i)});
  return chunk;
}

/// Ticks every millisecond until `done`.
ChunkTick tick_until(ActionChunkController& controller, float state,
                     const std::function<bool(const ChunkTick&)>& done) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (std::chrono::steady_clock::now() < end) {
    const ChunkTick now = controller.tick(observation(state));
    if (done(now)) return now;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ADD_FAILURE() << "nothing happened for a minute";
  return {};
}

TEST(ActionChunkController, TickDoesNotWaitForInference) {
  std::promise<void> go;
  std::shared_future<void> gone = go.get_future().share();
  std::atomic<int> calls{0};
  ActionChunkController controller(small_options(), [&](const RobotObservation& seen, const RobotActions&) {
    ++calls;
    gone.wait();
    return chunk_of(seen);
  });
  controller.reset({-1});
  for (int tick = 0; tick < 4; ++tick) {
    const ChunkTick now = controller.tick(observation(static_cast<float>(tick + 1)));
    EXPECT_EQ(now.status, TickStatus::kWaiting);
    EXPECT_EQ(now.action, Action{-1});
  }
  EXPECT_LE(calls, 1) << "one request at a time";
  go.set_value();
  const auto acting = [](const ChunkTick& now) { return now.status == TickStatus::kActing; };
  const ChunkTick first = tick_until(controller, 5, acting);
  ASSERT_EQ(first.tick, first.age) << "the chunk of tick 0, which saw state 1";
  EXPECT_EQ(first.action, Action{10000 + static_cast<float>(first.tick)});
  EXPECT_GT(controller.last_latency_ms(), 0);
}

TEST(ActionChunkController, WhatInferenceThrowsIsAFailedAnswer) {
  std::atomic<int> calls{0};
  ActionChunkController controller(small_options(), [&](const RobotObservation& seen, const RobotActions&) {
    const int call = calls++;
    if (call == 0) throw UsageError("no such camera");
    if (call == 1) throw 7;
    return chunk_of(seen);
  });
  tick_until(controller, 1, [&](const ChunkTick&) { return controller.counters().failed == 1; });
  EXPECT_EQ(controller.last_error(), "no such camera");
  tick_until(controller, 1, [&](const ChunkTick&) { return controller.counters().failed == 2; });
  EXPECT_NE(controller.last_error().find("unknown exception"), std::string::npos);
  tick_until(controller, 1, [](const ChunkTick& now) { return now.status == TickStatus::kActing; });
  EXPECT_EQ(controller.last_error(), "") << "the answer was accepted";
}

TEST(ActionChunkController, RefusesAWrongObservationAtOnce) {
  ActionChunkController controller(
      small_options(), [](const RobotObservation& seen, const RobotActions&) { return chunk_of(seen); },
      [](const RobotObservation& seen) {
        if (seen.state.at(0) < 0) throw UsageError("a negative state");
      });
  testing::expect_error<UsageError>([&] { controller.tick(observation(-1)); }, "a negative state");
  EXPECT_EQ(controller.counters().requests, 0);
  EXPECT_EQ(controller.tick(observation(1)).tick, 0) << "the refused one does not count";
}

TEST(ActionChunkController, AnAnswerFromBeforeAResetIsDropped) {
  std::promise<void> go;
  std::shared_future<void> gone = go.get_future().share();
  ActionChunkController controller(small_options(), [&](const RobotObservation& seen, const RobotActions&) {
    gone.wait();
    return chunk_of(seen);
  });
  controller.tick(observation(1));
  controller.reset();
  controller.tick(observation(2));
  go.set_value();
  tick_until(controller, 2, [](const ChunkTick& now) {
    if (now.status == TickStatus::kActing) EXPECT_GE(now.action.at(0), 20000);
    return now.status == TickStatus::kActing;
  });
  // The old episode's job was either replaced before the thread took it, or its answer was dropped.
  EXPECT_LE(controller.counters().unknown, 1);
}

TEST(ActionChunkController, DestructionWaitsForInference) {
  std::atomic<bool> running{false}, ended{false};
  {
    ActionChunkController controller(small_options(), [&](const RobotObservation& seen, const RobotActions&) {
      running = true;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      ended = true;
      return chunk_of(seen);
    });
    controller.tick(observation(1));
    while (!running) std::this_thread::yield();
  }
  EXPECT_TRUE(ended);
}

TEST(ActionChunkController, WarnsOfAPolicyThatDidNotLearnToContinue) {
  const auto warning = [](std::int64_t trained, std::int64_t expected, ChunkMode mode = ChunkMode::kRtc) {
    ChunkingOptions options;
    options.mode = mode;
    options.trained_delay = trained;
    options.expected_delay = expected;
    ::testing::internal::CaptureStderr();
    const ActionChunkController controller(options, [](const auto&, const auto&) { return RobotActions(); });
    return ::testing::internal::GetCapturedStderr();
  };
  EXPECT_NE(warning(0, 0).find("not known to have learned to continue"), std::string::npos);
  EXPECT_NE(warning(3, 4).find("it was trained to continue 3"), std::string::npos);
  EXPECT_EQ(warning(4, 4), "");
  EXPECT_EQ(warning(0, 0, ChunkMode::kEnsemble), "");
}

TEST(ActionChunkController, OptionsOfAPolicy) {
  PolicySpec spec;
  spec.horizon = 5;
  spec.rtc_training_max_delay = 4;
  spec.robot = {RobotKind::kLibero, 8, 7, {}};
  const ChunkingOptions libero = chunking_for(spec);
  EXPECT_EQ(libero.horizon, 5);
  EXPECT_EQ(libero.execute, 5);
  EXPECT_EQ(libero.trained_delay, 4);
  EXPECT_EQ(libero.control_hz, 30) << "where the policy's is not known";
  spec.control_hz = 20;
  EXPECT_EQ(chunking_for(spec).control_hz, 20);
  EXPECT_EQ(libero.relative_dims, (std::vector<bool>{true, true, true, true, true, true, false}));
  spec.robot = {RobotKind::kAloha, 14, 14, {}};
  EXPECT_TRUE(chunking_for(spec).relative_dims.empty());
}

}  // namespace
}  // namespace shallowpi
