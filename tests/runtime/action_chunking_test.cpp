// The action chunker under a simulated clock: the number of the tick.
#include "shallowpi/runtime/action_chunking.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "test_util.h"

namespace shallowpi {
namespace {

using testing::expect_error;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// The chunk of the observation at `tick`: action i is {1000 tick + i, tick}.
RobotActions chunk_of(std::int64_t tick, std::int64_t horizon) {
  RobotActions chunk;
  for (std::int64_t i = 0; i < horizon; ++i)
    chunk.push_back({static_cast<float>(1000 * tick + i), static_cast<float>(tick)});
  return chunk;
}

/// A policy that answers `delay` ticks after it was asked.
class Loop {
 public:
  Loop(ChunkingOptions options, std::int64_t delay) : chunker(options), delay_(delay) {}

  ChunkTick step() {
    answer_due();
    if (auto request = chunker.next_request()) {
      requests.push_back(*request);
      due_[chunker.now() + delay_] = *request;
      answer_due();
    }
    return chunker.tick();
  }
  std::vector<float> first_dims(int ticks) {
    std::vector<float> values;
    for (int i = 0; i < ticks; ++i) {
      const Action action = step().action;
      values.push_back(action.empty() ? kNan : action[0]);
    }
    return values;
  }

  ActionChunker chunker;
  std::vector<ChunkRequest> requests;
  std::map<std::int64_t, ChunkAnswer> instead;  // answers that differ from chunk_of, by the request's tick

 private:
  void answer_due() {
    const auto due = due_.find(chunker.now());
    if (due == due_.end()) return;
    const ChunkRequest request = due->second;
    due_.erase(due);
    ChunkAnswer answer{request.id, chunk_of(request.tick, chunker.options().horizon), ""};
    if (const auto other = instead.find(request.tick); other != instead.end()) {
      answer = other->second;
      answer.id = request.id;
    }
    chunker.deliver(answer);
  }

  std::int64_t delay_;
  std::map<std::int64_t, ChunkRequest> due_;
};

ChunkingOptions small(ChunkMode mode, std::int64_t execute, std::int64_t horizon) {
  ChunkingOptions options;
  options.mode = mode;
  options.execute = execute;
  options.horizon = horizon;
  return options;
}

std::vector<std::int64_t> ticks_of(const std::vector<ChunkRequest>& requests) {
  std::vector<std::int64_t> ticks;
  for (const ChunkRequest& request : requests) ticks.push_back(request.tick);
  return ticks;
}

TEST(ActionChunking, AnInstantPolicyIsAskedEveryKTicksAndActsFromActionZero) {
  Loop loop(small(ChunkMode::kReceding, 3, 5), 0);
  EXPECT_EQ(loop.first_dims(7), (std::vector<float>{0, 1, 2, 3000, 3001, 3002, 6000}));
  EXPECT_EQ(ticks_of(loop.requests), (std::vector<std::int64_t>{0, 3, 6}));
  EXPECT_EQ(loop.chunker.counters().waiting_ticks, 0);
}

TEST(ActionChunking, AnAnswerThatIsDTicksLateIsUsedFromItsActionD) {
  Loop loop(small(ChunkMode::kReceding, 4, 8), 3);
  std::vector<float> values = loop.first_dims(12);
  for (int tick = 0; tick < 3; ++tick) EXPECT_TRUE(std::isnan(values[tick])) << "nothing has arrived yet";
  // Chunk 0 from its action 3, while the request of tick 4 is computed; chunk 4 from its action 3 at tick 7.
  EXPECT_EQ(std::vector<float>(values.begin() + 3, values.end()),
            (std::vector<float>{3, 4, 5, 6, 4003, 4004, 4005, 4006, 8003}));
  EXPECT_EQ(loop.chunker.counters().waiting_ticks, 3);
  EXPECT_EQ(loop.chunker.counters().held_ticks, 0);
}

TEST(ActionChunking, WarnsWhereMoreActionsAreGivenThanWereLearnt) {
  EXPECT_EQ(rtc_warning(8, 8), "");
  EXPECT_NE(
      rtc_warning(3, 0).find("gives the policy 3 actions of each chunk; it was trained to continue none"),
      std::string::npos);
}

TEST(ActionChunking, APolicySlowerThanKTicksIsAskedAgainAsSoonAsItAnswers) {
  // d = 5 > k = 2: requests at 0, 5, 10, ...; a chunk is used for its actions 5 .. 9, so 10 are just enough.
  EXPECT_EQ(needed_horizon(2, 5), 10);
  Loop loop(small(ChunkMode::kReceding, 2, 10), 5);
  const std::vector<float> values = loop.first_dims(16);
  EXPECT_EQ(ticks_of(loop.requests), (std::vector<std::int64_t>{0, 5, 10, 15}));
  EXPECT_EQ(values[9], 9);
  EXPECT_EQ(values[10], 5005);
  EXPECT_EQ(loop.chunker.counters().held_ticks, 0);

  Loop short_of_one(small(ChunkMode::kReceding, 2, 9), 5);
  short_of_one.first_dims(16);
  EXPECT_EQ(short_of_one.chunker.counters().held_ticks, 2) << "ticks 9 and 14";
}

TEST(ActionChunking, ActsWeightsAreExpMinusMIOldestFirst) {
  ChunkingOptions options = small(ChunkMode::kEnsemble, 1, 3);
  options.ensemble_decay = 0.5;
  Loop loop(options, 0);
  loop.step();
  const ChunkTick second = loop.step();
  const ChunkTick third = loop.step();
  // By hand, dim 0. Tick 1: chunk 0 gives 1, chunk 1 gives 1000. Tick 2: chunks 0, 1, 2 give 2, 1001, 2000.
  const double e1 = 0.6065306597126334, e2 = 0.36787944117144233;  // exp(-0.5), exp(-1)
  EXPECT_NEAR(second.action[0], (1 + 1000 * e1) / (1 + e1), 1e-3);
  EXPECT_NEAR(third.action[0], (2 + 1001 * e1 + 2000 * e2) / (1 + e1 + e2), 1e-3);
  EXPECT_NEAR(third.action[0], 681.1635, 1e-3);
  EXPECT_EQ(second.blended, 2);
  EXPECT_EQ(second.age, 0);
  EXPECT_NEAR(second.mean_age, 1 / (1 + e1), 1e-12);
  EXPECT_EQ(third.blended, 3);
  EXPECT_EQ(loop.step().blended, 3) << "chunk 0 has no action for tick 3";
}

TEST(ActionChunking, NoWeightOverflows) {
  for (const double decay : {-1000.0, 1000.0}) {
    ChunkingOptions options = small(ChunkMode::kEnsemble, 1, 3);
    options.ensemble_decay = decay;
    Loop loop(options, 0);
    loop.step();
    loop.step();
    const ChunkTick third = loop.step();
    EXPECT_EQ(third.action[0], decay < 0 ? 2000 : 2) << "the newest chunk alone, or the oldest";
    EXPECT_EQ(third.mean_age, decay < 0 ? 0 : 2);
  }
}

TEST(ActionChunking, EnsemblingOfEqualPlansIsThatPlan) {
  Loop loop(small(ChunkMode::kEnsemble, 2, 8), 1);
  RobotActions same(8, Action{0.25f, -1.0f});
  for (int tick = 0; tick < 20; ++tick) loop.instead[tick].actions = same;
  loop.step();
  for (int tick = 1; tick < 20; ++tick) EXPECT_EQ(loop.step().action, (Action{0.25f, -1.0f}));
}

TEST(ActionChunking, RtcSendsTheActionsThatWillBeExecutedMeanwhile) {
  ChunkingOptions options = small(ChunkMode::kRtc, 4, 12);
  options.expected_delay = 3;
  Loop loop(options, 3);
  std::map<std::int64_t, Action> executed;
  for (int tick = 0; tick < 12; ++tick) executed[tick] = loop.step().action;
  ASSERT_EQ(ticks_of(loop.requests), (std::vector<std::int64_t>{0, 4, 8}));
  EXPECT_TRUE(loop.requests[0].prefix.empty()) << "nothing is executed before the first chunk";
  for (std::size_t r : {1, 2}) {
    ASSERT_EQ(loop.requests[r].prefix.size(), 3u);
    for (std::int64_t i = 0; i < 3; ++i)
      EXPECT_EQ(loop.requests[r].prefix[i], executed[loop.requests[r].tick + i]) << r << ", " << i;
  }
}

TEST(ActionChunking, RtcLearnsTheDelayFromAnswersAndEndsThePrefixWithTheChunk) {
  Loop loop(small(ChunkMode::kRtc, 2, 7), 4);
  loop.first_dims(9);
  ASSERT_EQ(ticks_of(loop.requests), (std::vector<std::int64_t>{0, 4, 8}));
  EXPECT_EQ(loop.requests[1].prefix, (RobotActions{{4, 0}, {5, 0}, {6, 0}})) << "4 ticks, but chunk 0 ends";
  EXPECT_EQ(loop.requests[2].prefix.size(), 3u);
  for (ChunkMode mode : {ChunkMode::kReceding, ChunkMode::kEnsemble}) {
    Loop other(small(mode, 2, 7), 4);
    other.first_dims(9);
    for (const ChunkRequest& request : other.requests) EXPECT_TRUE(request.prefix.empty());
  }
}

TEST(ActionChunking, OneSlowAnswerDoesNotMakeRtcRepeatTheOldPlan) {
  const auto longest_prefix = [](std::int64_t trained_delay, std::int64_t slow) {
    ChunkingOptions options = small(ChunkMode::kRtc, 7, 50);
    options.trained_delay = trained_delay;
    ActionChunker chunker(options);
    std::size_t longest = 0;
    std::optional<ChunkRequest> asked;
    for (int tick = 0; tick < 400; ++tick) {
      const bool is_slow = asked && asked->tick > 100 && asked->tick < 107;
      if (asked && tick - asked->tick == (is_slow ? slow : 4)) {
        chunker.deliver({asked->id, chunk_of(asked->tick, 50), ""});
        asked.reset();
      }
      if (auto request = chunker.next_request()) {
        longest = std::max(longest, request->prefix.size());
        asked = std::move(request);
      }
      chunker.tick();
    }
    return longest;
  };
  EXPECT_EQ(longest_prefix(0, 4), 4u);
  EXPECT_EQ(longest_prefix(0, 60), 4u) << "a chunk that came too late to be used";
  EXPECT_EQ(longest_prefix(0, 30), 30u);
  EXPECT_EQ(longest_prefix(6, 30), 6u) << "what the policy learned to continue";
  EXPECT_EQ(longest_prefix(0, 48), 43u) << "the next chunk keeps 7 actions of its own";
}

TEST(ActionChunking, HoldsTheLastActionUntilALateAnswerAndReportsIt) {
  ChunkingOptions options = small(ChunkMode::kReceding, 2, 4);
  options.expected_delay = 1;
  ActionChunker chunker(options);
  const auto first = chunker.next_request();
  ASSERT_TRUE(first);
  ASSERT_TRUE(chunker.deliver({first->id, chunk_of(0, 4), ""}));
  for (int tick = 0; tick < 2; ++tick) EXPECT_EQ(chunker.tick().status, TickStatus::kActing);
  const auto second = chunker.next_request();
  ASSERT_TRUE(second);
  for (int tick = 2; tick < 4; ++tick) EXPECT_EQ(chunker.tick().status, TickStatus::kActing);
  const ChunkTick held = chunker.tick();  // tick 4: chunk 0 has run out
  EXPECT_EQ(held.status, TickStatus::kHolding);
  EXPECT_EQ(held.action, (Action{3, 0}));
  EXPECT_EQ(held.age, -1);
  EXPECT_FALSE(chunker.next_request()) << "one request at a time";
  EXPECT_TRUE(chunker.deliver({second->id, chunk_of(2, 4), ""}));
  const ChunkTick late = chunker.tick();
  EXPECT_EQ(late.action, (Action{2003, 2}));
  EXPECT_TRUE(late.new_chunk);
  EXPECT_EQ(late.age, 3);
  EXPECT_EQ(chunker.counters().late, 1);
  EXPECT_EQ(chunker.counters().held_ticks, 1);
}

TEST(ActionChunking, AnAnswerOfThePastIsCountedAndAskedForAgain) {
  ActionChunker chunker(small(ChunkMode::kEnsemble, 1, 2));
  const auto request = chunker.next_request();
  for (int tick = 0; tick < 2; ++tick) chunker.tick();
  EXPECT_FALSE(chunker.deliver({request->id, chunk_of(0, 2), ""}));
  EXPECT_EQ(chunker.counters().expired, 1);
  EXPECT_NE(chunker.last_error().find("took 2 ticks"), std::string::npos) << chunker.last_error();
  EXPECT_EQ(chunker.tick().status, TickStatus::kWaiting);
  EXPECT_TRUE(chunker.next_request());
}

TEST(ActionChunking, DisplacementsAreHeldAtZero) {
  ChunkingOptions options = small(ChunkMode::kReceding, 1, 2);
  options.relative_dims = {true, false};
  ActionChunker chunker(options);
  const auto request = chunker.next_request();
  ASSERT_TRUE(chunker.deliver({request->id, {{5, 5}, {6, 6}}, ""}));
  chunker.tick();
  EXPECT_EQ(chunker.tick().action, (Action{6, 6}));
  EXPECT_EQ(chunker.tick().action, (Action{0, 6}));
}

TEST(ActionChunking, FailedAndNonFiniteAnswersLeaveTheOldChunkInForce) {
  Loop loop(small(ChunkMode::kReceding, 2, 8), 0);
  loop.instead[2].error = "the server is gone";
  loop.instead[3].actions = chunk_of(3, 8);
  loop.instead[3].actions[7][1] = kNan;
  loop.instead[4].actions = chunk_of(4, 7);
  loop.instead[5].actions = RobotActions(8, Action{1});
  EXPECT_EQ(loop.first_dims(7), (std::vector<float>{0, 1, 2, 3, 4, 5, 6000}));
  const ChunkCounters& counters = loop.chunker.counters();
  EXPECT_EQ(counters.failed, 1);
  EXPECT_EQ(counters.invalid, 3);
  EXPECT_EQ(counters.accepted, 2);
  EXPECT_EQ(counters.requests, 6) << "asked again at each tick after a refused answer";
}

TEST(ActionChunking, SaysWhyAnAnswerWasRefused) {
  const auto why = [](RobotActions actions, std::string error = "", Action initial = {}) {
    ChunkingOptions options = small(ChunkMode::kEnsemble, 1, 2);
    if (initial.empty()) options.relative_dims = {true, true};
    ActionChunker chunker(options);
    chunker.reset(std::move(initial));
    EXPECT_FALSE(chunker.deliver({chunker.next_request()->id, std::move(actions), std::move(error)}));
    EXPECT_EQ(chunker.tick().status, TickStatus::kWaiting);
    return chunker.last_error();
  };
  EXPECT_EQ(why({}, "no route to host"), "no route to host");
  EXPECT_EQ(why({}), "the policy answered with 0 actions instead of 2");
  EXPECT_EQ(why({{}, {}}), "the policy answered with actions without a dimension");
  EXPECT_EQ(why({{1, 2}, {3}}), "the policy answered with action 1 has 1 dims instead of 2");
  EXPECT_EQ(why({{1, 2, 3}, {1, 2, 3}}),
            "the policy answered with actions of 3 dims, and relative_dims names 2");
  EXPECT_EQ(why({{1, 2}, {3, 4}}, "", {0, 0, 0}),
            "the policy answered with action 0 has 2 dims instead of 3");
  EXPECT_EQ(why({{1, 2}, {3, std::numeric_limits<float>::infinity()}}),
            "the policy answered with action 1 is not finite in dim 1");
}

TEST(ActionChunking, ResetForgetsTheEpisodeAndItsAnswer) {
  ActionChunker chunker(small(ChunkMode::kEnsemble, 2, 4));
  chunker.deliver({chunker.next_request()->id, chunk_of(0, 4), ""});
  chunker.tick();
  chunker.tick();
  const auto of_old_episode = chunker.next_request();
  chunker.reset({7, 8});
  EXPECT_EQ(chunker.now(), 0);
  const auto of_new_episode = chunker.next_request();
  ASSERT_TRUE(of_new_episode);
  EXPECT_FALSE(chunker.deliver({of_old_episode->id, chunk_of(2, 4), ""}));
  EXPECT_EQ(chunker.counters().unknown, 1);
  const ChunkTick waiting = chunker.tick();
  EXPECT_EQ(waiting.status, TickStatus::kWaiting);
  EXPECT_EQ(waiting.action, (Action{7, 8}));
  EXPECT_TRUE(chunker.deliver({of_new_episode->id, chunk_of(0, 4), ""}));
  EXPECT_FALSE(chunker.deliver({of_new_episode->id, chunk_of(0, 4), ""})) << "delivered twice";
  EXPECT_EQ(chunker.tick().action, (Action{1, 0}));
}

TEST(ActionChunking, LatenciesBecomeTicks) {
  EXPECT_EQ(delay_ticks(0, 30), 0);
  EXPECT_EQ(delay_ticks(1, 30), 1);
  EXPECT_EQ(delay_ticks(100, 30), 3) << "exactly three periods";
  EXPECT_EQ(delay_ticks(110, 30), 4);
  EXPECT_EQ(delay_ticks(364, 30), 11);
}

TEST(ActionChunking, RefusesChunksThatAreTooShortWithTheNumbers) {
  ChunkingOptions options = small(ChunkMode::kEnsemble, 7, 50);
  for (std::int64_t delay : {0, 4, 11, 25}) EXPECT_NO_THROW(check_chunking(options, delay));
  expect_error<UsageError>([&] { check_chunking(options, 26); }, "50 actions", "every 7 ticks", "after 26",
                           "867 ms at 30 Hz", "last 52 ticks");
  options.horizon = 10;
  EXPECT_NO_THROW(check_chunking(options, 3));
  options.expected_delay = 4;
  expect_error<UsageError>([&] { ActionChunker chunker(options); }, "10 actions are too short",
                           "last 11 ticks");
}

TEST(ActionChunking, RefusesOptionsOutOfRange) {
  const auto refused = [](auto change, const char* name) {
    ChunkingOptions options;
    change(options);
    expect_error<UsageError>([&] { ActionChunker chunker(options); }, name);
  };
  refused([](auto& o) { o.execute = 0; }, "execute 0");
  refused([](auto& o) { o.horizon = 0; }, "horizon 0");
  refused([](auto& o) { o.control_hz = 0; }, "control_hz 0");
  refused([](auto& o) { o.ensemble_decay = kNan; }, "ensemble_decay");
  refused([](auto& o) { o.expected_delay = -1; }, "-1 ticks");
}

}  // namespace
}  // namespace shallowpi
