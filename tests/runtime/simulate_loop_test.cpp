// The simulated control loop, with policies whose answers are known.
#include "shallowpi/runtime/simulate_loop.h"

#include <gtest/gtest.h>

#include <cmath>

#include "data/hdf5_fixtures.h"
#include "test_util.h"

namespace shallowpi {
namespace {

using testing::expect_error;

constexpr double kSpeed = 0.001;  // metres per frame

/// Episodes on a straight line, whose action's dim 0 follows `value(step)`.
class Line : public EpisodeFile {
 public:
  Line(std::int64_t length, const std::function<double(std::int64_t)>& value, std::int64_t episodes = 1) {
    for (std::int64_t e = 0; e < episodes; ++e) {
      infos_.push_back({str("demo_", e), "go", length, {}});
      for (std::int64_t t = 0; t < length; ++t) {
        states_.push_back({static_cast<float>(kSpeed * double(t)), 0, 0, 0, 0, 0, 0, 0});
        actions_.push_back({static_cast<float>(value(t)), 0, 0, 0, 0, 0, -1});
      }
    }
  }
  const std::filesystem::path& path() const override { return path_; }
  DataFormat layout() const override { return DataFormat::kLibero; }
  const std::vector<EpisodeInfo>& episodes() const override { return infos_; }
  const std::vector<std::string>& camera_names() const override { return cameras_; }
  std::int64_t state_dim() const override { return 8; }
  std::int64_t action_dim() const override { return 7; }
  std::vector<Image> frame(std::int64_t, std::int64_t, const std::vector<std::size_t>&) const override {
    return {};
  }
  const std::vector<std::vector<float>>& states(std::int64_t) const override { return states_; }
  const std::vector<std::vector<float>>& actions(std::int64_t) const override { return actions_; }

 private:
  std::filesystem::path path_ = "line.hdf5";
  std::vector<EpisodeInfo> infos_;
  std::vector<std::string> cameras_{"base_0_rgb"};
  std::vector<std::vector<float>> states_, actions_;
};

Dataset line(std::int64_t length, const std::function<double(std::int64_t)>& value) {
  return Dataset({{std::make_shared<Line>(length, value), 1.0}});
}

LoopSettings settings(ChunkMode mode, double latency_ms, std::int64_t execute = 7,
                      std::int64_t horizon = 50) {
  LoopSettings out;
  out.chunking.mode = mode;
  out.chunking.execute = execute;
  out.chunking.horizon = horizon;
  out.latency_ms = latency_ms;
  out.robot = {RobotKind::kLibero, 8, 7, {}};
  return out;
}

double zero(std::int64_t) {
  return 0;
}

/// Answers with the number of the tick that it saw, in dim 0 of all actions.
EpisodePolicy saw(std::int64_t horizon) {
  return [horizon](const Dataset::Sample& sample, const RobotActions&) {
    return RobotActions(static_cast<std::size_t>(horizon), Action{float(sample.step), 0, 0, 0, 0, 0, -1});
  };
}

TEST(SimulateLoop, ThePapersSettings) {
  const Dataset dataset = line(600, zero);
  const EpisodePolicy policy = demonstration_policy(dataset, 50);
  // 110 ms are 4 ticks: asked every 7, a change is seen after 0 .. 6 ticks and acted upon 4 later.
  const LoopReport fast = simulate_loop(dataset, policy, settings(ChunkMode::kReceding, 110));
  EXPECT_EQ(fast.delay, 4);
  EXPECT_EQ(fast.needed, 11);
  EXPECT_NEAR(*fast.worst_reaction_ms, 1000.0 * 10 / 30, 1e-9);
  EXPECT_NEAR(*fast.reaction_ms, 1000.0 * 7 / 30, 2.0);
  EXPECT_EQ(fast.waiting_ticks, 4);
  EXPECT_EQ(fast.idle_ticks, 0);
  EXPECT_NEAR(fast.travel, 0.11 * 30 * 0.1, 1e-6) << "3.3 frames of 0.1 cm";
  EXPECT_EQ(fast.travel_unit, "cm");
  EXPECT_NEAR(*fast.observation_age_ms, 1000.0 * 7 / 30, 2.0) << "ages 4 .. 10";
  // 364 ms are 11 ticks: asked every 11.
  const LoopReport slow = simulate_loop(dataset, policy, settings(ChunkMode::kReceding, 364));
  EXPECT_EQ(slow.delay, 11);
  EXPECT_EQ(slow.needed, 22);
  EXPECT_NEAR(*slow.worst_reaction_ms, 1000.0 * 21 / 30, 1e-9);
  EXPECT_NEAR(*slow.reaction_ms, 1000.0 * 16 / 30, 2.0);
  EXPECT_NEAR(slow.travel, 0.364 * 30 * 0.1, 1e-6);
  EXPECT_EQ(slow.idle_ticks, 0);
}

TEST(SimulateLoop, EnsemblingRestsOnOlderObservations) {
  const Dataset dataset = line(600, zero);
  const EpisodePolicy policy = demonstration_policy(dataset, 50);
  const LoopReport receding = simulate_loop(dataset, policy, settings(ChunkMode::kReceding, 110));
  const LoopReport ensemble = simulate_loop(dataset, policy, settings(ChunkMode::kEnsemble, 110));
  EXPECT_EQ(ensemble.reaction_ms, receding.reaction_ms) << "the first action that knows at all";
  // Of 50 actions, those from the 4th on take part: a chunk's age runs from 4 to 49.
  EXPECT_GT(*ensemble.observation_age_ms, 700);
  EXPECT_LT(*ensemble.observation_age_ms, 1000);
}

TEST(SimulateLoop, ShortChunksIdle) {
  const Dataset dataset = line(200, zero);
  const LoopReport report =
      simulate_loop(dataset, demonstration_policy(dataset, 10), settings(ChunkMode::kReceding, 364, 7, 10));
  EXPECT_EQ(report.needed, 22);
  EXPECT_EQ(report.waiting_ticks, 200) << "every chunk is over before it arrives";
  EXPECT_EQ(report.idle_ticks, 200 - 11);
  EXPECT_FALSE(report.error.has_value());
  const LoopReport some =
      simulate_loop(dataset, demonstration_policy(dataset, 10), settings(ChunkMode::kReceding, 200, 7, 10));
  // 6 ticks; asked every 7: each chunk acts at its actions 6 .. 9, then 3 ticks are idle.
  EXPECT_NEAR(static_cast<double>(some.idle_ticks), 194 * 3 / 7.0, 3);
}

TEST(SimulateLoop, ADemonstrationIsPlayedWithoutError) {
  const Dataset dataset = line(120, [](std::int64_t t) { return std::sin(0.2 * double(t)); });
  for (ChunkMode mode : {ChunkMode::kEnsemble, ChunkMode::kReceding, ChunkMode::kRtc}) {
    const LoopReport report = simulate_loop(dataset, demonstration_policy(dataset, 50), settings(mode, 110));
    EXPECT_NEAR(*report.error, 0, 1e-7);
    EXPECT_NEAR(*report.discontinuity, 0, 1e-6);
    EXPECT_EQ(report.mode, enum_name(mode));
    EXPECT_EQ(report.ticks, 120);
  }
}

TEST(SimulateLoop, JerkIsTheSecondDifferenceOfDisplacements) {
  // a_t = t^2: second difference 2 in one of six dims, at 30 Hz.
  const Dataset dataset = line(50, [](std::int64_t t) { return double(t * t); });
  const LoopReport report = demonstration_report(dataset, settings(ChunkMode::kEnsemble, 0));
  EXPECT_NEAR(*report.jerk, 2 * 27000 / std::sqrt(6.0), 1e-6 * 27000);
}

TEST(SimulateLoop, MeasuresTheJumpBetweenChunks) {
  const Dataset dataset = line(100, zero);
  // Each chunk says the tick it saw: with k = 5 and no latency neighbours differ by 5 in one of six dims.
  const LoopReport report = simulate_loop(dataset, saw(20), settings(ChunkMode::kReceding, 0, 5, 20));
  EXPECT_NEAR(*report.discontinuity, 5.0 / 6, 1e-6);
  // Acts at tick t on what was seen at 5 floor(t / 5); shown is 0 everywhere.
  double expected = 0;
  for (int t = 0; t < 100; ++t) expected += 5 * (t / 5);
  EXPECT_NEAR(*report.error, expected / 700, 1e-6);
  const LoopReport blended = simulate_loop(dataset, saw(20), settings(ChunkMode::kEnsemble, 0, 5, 20));
  EXPECT_LT(*blended.discontinuity, *report.discontinuity) << "what ensembling is for";
}

TEST(SimulateLoop, RtcGetsWhatIsExecutedMeanwhile) {
  const Dataset dataset = line(100, zero);
  std::vector<RobotActions> prefixes;
  const EpisodePolicy continues = [&](const Dataset::Sample& sample, const RobotActions& prefix) {
    prefixes.push_back(prefix);
    RobotActions chunk = saw(20)(sample, {});
    std::copy(prefix.begin(), prefix.end(), chunk.begin());
    return chunk;
  };
  const LoopReport report = simulate_loop(dataset, continues, settings(ChunkMode::kRtc, 100, 5, 20));
  ASSERT_GT(prefixes.size(), 2u);
  EXPECT_TRUE(prefixes[0].empty());
  for (std::size_t i = 1; i < prefixes.size(); ++i) EXPECT_EQ(prefixes[i].size(), 3u);
  EXPECT_EQ(prefixes[2], RobotActions(3, Action{5, 0, 0, 0, 0, 0, -1}));
  EXPECT_GT(report.ticks, 0);
}

TEST(SimulateLoop, TheCommandPrintsRowsAndWritesThem) {
  testing::TempDir dir;
  testing::LiberoFixture libero;
  libero.demos = 2;
  libero.steps = 40;
  testing::write_libero(dir / "demos.hdf5", libero);
  SimulateLoopOptions options;
  options.data = {(dir / "demos.hdf5").string()};
  options.latencies_ms = {364, 110};
  options.json = dir / "loop.json";
  options.episodes = 1;
  ::testing::internal::CaptureStdout();
  run_simulate_loop(options);
  const std::string table = ::testing::internal::GetCapturedStdout();
  for (const char* word : {"demonstration", "ensemble", "receding", "rtc", "364", "110", "travel cm"})
    EXPECT_NE(table.find(word), std::string::npos) << word << "\n" << table;
  const Json json = read_json(dir / "loop.json");
  EXPECT_EQ(json["horizon"], 50);
  ASSERT_EQ(json["rows"].size(), 7u);
  EXPECT_EQ(json["rows"][1]["delay_ticks"], 11);
  EXPECT_EQ(json["rows"][4]["delay_ticks"], 4);
  EXPECT_EQ(json["rows"][4]["episodes"], 1);

  libero.control_hz = 20;
  testing::write_libero(dir / "at_20.hdf5", libero);
  options.data = {(dir / "at_20.hdf5").string()};
  ::testing::internal::CaptureStdout();
  run_simulate_loop(options);
  ::testing::internal::GetCapturedStdout();
  EXPECT_EQ(read_json(dir / "loop.json")["control_hz"], 20);
  EXPECT_EQ(read_json(dir / "loop.json")["rows"][1]["delay_ticks"], 8);
  libero.control_hz = 50;
  testing::write_libero(dir / "at_50.hdf5", libero);
  options.data.push_back((dir / "at_50.hdf5").string());
  expect_error<UsageError>([&] { run_simulate_loop(options); }, "different steps per second (20, 50)");
  options.data = {(dir / "demos.hdf5").string()};

  options.checkpoint = std::string(SHALLOWPI_SOURCE_DIR) + "/configs/quickstart/teacher";
  options.tokenizer = (dir / "none.model").string();
  expect_error<UsageError>([&] { run_simulate_loop(options); }, "none.model", "no such file");
  options.tokenizer.clear();
  testing::write_aloha(dir / "aloha.hdf5");
  options.data = {(dir / "aloha.hdf5").string()};
  expect_error<UsageError>([&] { run_simulate_loop(options); }, "the policy's robot has 8 state dims",
                           "the data has 14");

  options.data = {std::string(SHALLOWPI_SOURCE_DIR) + "/configs/quickstart/butter.hdf5"};
  options.latencies_ms = {110};
  options.modes = {ChunkMode::kReceding};
  options.steps = 1;
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  run_simulate_loop(options);
  EXPECT_NE(::testing::internal::GetCapturedStdout().find("receding"), std::string::npos);
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("these demonstrations repeat images"),
            std::string::npos);
  options.checkpoint.clear();

  options.modes = {ChunkMode::kRtc};
  options.execute = 51;
  expect_error<UsageError>([&] { run_simulate_loop(options); }, "50 actions are too short");
}

}  // namespace
}  // namespace shallowpi
