#include "shallowpi/data/normalize.h"

#include "data/fake_episodes.h"
#include "shallowpi/base/json.h"
#include "shallowpi/data/stats.h"
#include "shallowpi/data/tokenizer.h"
#include "test_util.h"

namespace shallowpi::testing {
namespace {

std::vector<double> numbers(const Json& json) {
  return json.get<std::vector<double>>();
}

std::vector<float> floats(const Json& json) {
  return json.get<std::vector<float>>();
}

FeatureStats stats_from(const Json& json) {
  return {numbers(json["mean"]), numbers(json["std"]), numbers(json["q01"]), numbers(json["q99"])};
}

template <typename Values>
void expect_close(const Values& got, const std::vector<double>& expected, double relative,
                  const std::string& what) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  for (std::size_t i = 0; i < expected.size(); ++i)
    EXPECT_NEAR(got[i], expected[i], relative * std::max(1.0, std::abs(expected[i]))) << what << " dim " << i;
}

class NormModes : public ::testing::TestWithParam<NormMode> {};

TEST_P(NormModes, EqualsNumpy) {
  const Json golden = read_json(test_data("normalize/golden.json"));
  const FeatureStats stats = stats_from(golden["stats"]);
  const std::string mode(enum_name(GetParam()));
  std::vector<float> x = floats(golden["x"]), y = floats(golden["y"]);
  normalize(stats, GetParam(), x);
  unnormalize(stats, GetParam(), y);
  expect_close(x, numbers(golden["modes"][mode]["normalised"]), 1e-7, mode);
  expect_close(y, numbers(golden["modes"][mode]["unnormalised"]), 1e-7, mode);
}

TEST_P(NormModes, LeavesDimsBeyondTheStatisticsAlone) {
  std::vector<float> values{0.5f, 7.0f};
  normalize({{1.0}, {2.0}, {-3.0}, {3.0}}, GetParam(), values);
  EXPECT_EQ(values[1], 7.0f);
  EXPECT_NE(values[0], 0.5f);
}

INSTANTIATE_TEST_SUITE_P(All, NormModes,
                         ::testing::Values(NormMode::kZScore, NormMode::kQuantile, NormMode::kLeRobotMeanStd,
                                           NormMode::kLeRobotQuantiles),
                         [](const auto& info) { return std::string(enum_name(info.param)); });

TEST(StatsBuilder, EqualsNumpy) {
  const Json golden = read_json(test_data("normalize/golden.json"));
  StatsBuilder builder;
  for (const Json& row : golden["rows"]) builder.add(floats(row));
  const FeatureStats got = builder.finish(), expected = stats_from(golden["rows_stats"]);
  expect_close(got.mean, expected.mean, 1e-13, "mean");
  expect_close(got.std, expected.std, 1e-13, "std");
  expect_close(got.q01, expected.q01, 1e-13, "q01");
  expect_close(got.q99, expected.q99, 1e-13, "q99");
}

TEST(StatsBuilder, OneRow) {
  StatsBuilder builder;
  builder.add({2.5f});
  const FeatureStats stats = builder.finish();
  EXPECT_EQ(stats.mean[0], 2.5);
  EXPECT_EQ(stats.std[0], 0.0);
  EXPECT_EQ(stats.q01[0], 2.5);
  EXPECT_EQ(stats.q99[0], 2.5);
}

TEST(StatsBuilder, WidensNarrowDimsAroundTheirMiddle) {
  StatsBuilder builder;
  for (int i = 0; i <= 100; ++i) builder.add({3.0f, static_cast<float>(i)});
  const FeatureStats stats = builder.finish(0.25);
  EXPECT_DOUBLE_EQ(stats.q01[0], 2.75);
  EXPECT_DOUBLE_EQ(stats.q99[0], 3.25);
  EXPECT_DOUBLE_EQ(stats.std[0], 0.25);
  EXPECT_DOUBLE_EQ(stats.q01[1], 1.0);
  EXPECT_DOUBLE_EQ(stats.q99[1], 99.0);
}

TEST(HideDims, MakesEveryValueTheSameBin) {
  FeatureStats stats{{0, 0}, {1, 1}, {-1, -1}, {1, 1}};
  hide_dims(stats, {1});
  for (const NormMode mode :
       {NormMode::kZScore, NormMode::kQuantile, NormMode::kLeRobotMeanStd, NormMode::kLeRobotQuantiles}) {
    for (const float value : {-1000.0f, -3.1416f, 0.0f, 3.1416f, 1000.0f}) {
      std::vector<float> row{0.5f, value};
      normalize(stats, mode, row);
      EXPECT_NEAR(row[0], 0.5, 1e-5);
      EXPECT_NEAR(row[1], 0.004, 0.0021);
      EXPECT_EQ(state_bin(row[1]), 128);
    }
    EXPECT_NO_THROW(check_stats(stats, mode, 2, "state"));
    EXPECT_TRUE(stats_warnings({stats, stats}, mode).empty());
  }
  expect_error<UsageError>([&] { hide_dims(stats, {2}); }, "cannot hide state dim 2: there are 2");
}

TEST(StatsBuilder, RefusesRaggedRowsAndNoRows) {
  StatsBuilder builder;
  expect_error<UsageError>([&] { builder.finish(); }, "no samples");
  builder.add({1.0f, 2.0f});
  expect_error<UsageError>([&] { builder.add({1.0f}); }, "a row of 1 values after rows of 2");
}

// Every step of every chunk counts, the repeated last action included; state once per sample.
TEST(ComputeNormStats, CountsWholeChunksInPolicySpace) {
  const Dataset dataset = fake_dataset({{.lengths = {4}}});
  PolicySpec spec = fake_spec();
  spec.robot.delta_mask = {true, false};
  StatsBuilder states, actions;
  for (int t = 0; t < 4; ++t) {
    states.add({FakeEpisodes::state_value(0, t, 0), FakeEpisodes::state_value(0, t, 1),
                FakeEpisodes::state_value(0, t, 2)});
    for (int h = 0; h < 3; ++h) {
      const int step = std::min(t + h, 3);
      actions.add({FakeEpisodes::action_value(0, step, 0) - FakeEpisodes::state_value(0, t, 0),
                   FakeEpisodes::action_value(0, step, 1)});
    }
  }
  const NormStats got = compute_norm_stats(dataset, dataset.split(0.0, 1).train, spec);
  const FeatureStats expected_state = states.finish(), expected_actions = actions.finish();
  expect_close(got.state.mean, expected_state.mean, 0, "state mean");
  expect_close(got.state.q99, expected_state.q99, 0, "state q99");
  expect_close(got.actions.mean, expected_actions.mean, 0, "actions mean");
  expect_close(got.actions.std, expected_actions.std, 0, "actions std");
  expect_close(got.actions.q01, expected_actions.q01, 0, "actions q01");
}

TEST(CheckStats, AcceptsGoodOnesAndOldPaddedFiles) {
  const FeatureStats stats{{0, 0}, {1, 1}, {-1, -1}, {1, 1}};
  EXPECT_NO_THROW(check_stats(stats, NormMode::kQuantile, 2, "state"));
  FeatureStats padded = stats;
  for (auto* values : {&padded.mean, &padded.std, &padded.q01, &padded.q99}) values->resize(32, 0.0);
  EXPECT_NO_THROW(check_stats(padded, NormMode::kQuantile, 2, "state"));
  EXPECT_NO_THROW(check_stats(padded, NormMode::kZScore, 2, "state"));
}

TEST(CheckStats, RefusesOtherWidths) {
  const FeatureStats stats{{0, 0}, {1, 1}, {-1, -1}, {1, 1}};
  expect_error<UsageError>([&] { check_stats(stats, NormMode::kZScore, 3, "state"); }, "state", "2 dims",
                           "the robot has 3");
  expect_error<UsageError>([&] { check_stats(stats, NormMode::kZScore, 1, "actions"); }, "actions", "2 dims");
  FeatureStats padded = stats;
  for (auto* values : {&padded.mean, &padded.std, &padded.q01, &padded.q99}) values->resize(32, 0.0);
  expect_error<UsageError>([&] { check_stats(padded, NormMode::kQuantile, 40, "state"); }, "32 dims",
                           "the robot has 40");
}

TEST(CheckStats, RefusesMissingQuantiles) {
  const FeatureStats stats{{0}, {1}, {}, {}};
  EXPECT_NO_THROW(check_stats(stats, NormMode::kLeRobotMeanStd, 1, "state"));
  expect_error<UsageError>([&] { check_stats(stats, NormMode::kLeRobotQuantiles, 1, "state"); },
                           "lack q01 and q99", "lerobot_quantiles");
}

TEST(CheckStats, RefusesDimsWithoutRange) {
  const FeatureStats stats{{0, 0}, {1, 0}, {-1, 2}, {1, 2}};
  for (const NormMode mode : {NormMode::kQuantile, NormMode::kZScore})
    EXPECT_NO_THROW(check_stats(stats, mode, 2, "actions")) << "a policy trained so can be run";
  expect_error<UsageError>([&] { check_ranges(stats, NormMode::kQuantile, "actions"); }, "actions", "dim 1",
                           "no range", "q01 2", "min_norm_range");
  expect_error<UsageError>([&] { check_ranges(stats, NormMode::kZScore, "actions"); }, "dim 1", "std 0");
  const FeatureStats reversed{{0}, {1}, {1}, {-1}};
  expect_error<UsageError>([&] { check_stats(reversed, NormMode::kQuantile, 1, "state"); }, "dim 0",
                           "reversed range", "q01 1");
}

TEST(StatsWarnings, NameNearlyConstantDims) {
  NormStats stats{{{0, 0.5}, {1, 1e-5}, {-2, 0.49999}, {2, 0.50001}}, {{0}, {1}, {-1}, {1}}};
  for (NormMode mode : {NormMode::kQuantile, NormMode::kZScore}) {
    const std::vector<std::string> warnings = stats_warnings(stats, mode);
    ASSERT_EQ(warnings.size(), 1u) << enum_name(mode);
    EXPECT_NE(warnings[0].find("state dim 1"), std::string::npos) << warnings[0];
    EXPECT_NE(warnings[0].find("0.01 away from its middle becomes 1000.0"), std::string::npos) << warnings[0];
    EXPECT_NE(warnings[0].find("data.min_norm_range"), std::string::npos) << warnings[0];
  }
  stats.state = {{0}, {1}, {-2}, {2}};
  EXPECT_TRUE(stats_warnings(stats, NormMode::kQuantile).empty());
}

TEST(StatsWarnings, NameHeavyTails) {
  // 98 % of the values lie within +-0.01, but the std says that the others reach far out.
  const NormStats stats{{{0}, {0.5}, {-0.01}, {0.01}}, {{0}, {1}, {-1}, {1}}};
  const std::vector<std::string> warnings = stats_warnings(stats, NormMode::kQuantile);
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("0.5 away from its middle becomes 50.0"), std::string::npos) << warnings[0];
  EXPECT_TRUE(stats_warnings(stats, NormMode::kZScore).empty());
}

}  // namespace
}  // namespace shallowpi::testing
