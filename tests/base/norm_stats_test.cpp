#include "shallowpi/base/norm_stats.h"

#include <limits>

#include "test_util.h"

namespace shallowpi {
namespace {

using testing::expect_error;
using testing::TempDir;
using testing::write_text;

constexpr const char* kFeature = R"({"mean": [0.5, 1], "std": [1, 2], "q01": null})";

NormStats read_text(const std::string& text) {
  const TempDir folder;
  write_text(folder / "norm_stats.json", text);
  return read_norm_stats(folder / "norm_stats.json");
}

TEST(NormStats, ReadsOpenpisFile) {
  const NormStats stats =
      read_text(str(R"({"norm_stats": {"state": )", kFeature, R"(, "images": {"mean": "ignored"},
    "actions": {"mean": [1e-3], "std": [0], "q01": [-1.5], "q99": [2]}}})"));
  EXPECT_EQ(stats.state.mean, (std::vector<double>{0.5, 1}));
  EXPECT_EQ(stats.state.std, (std::vector<double>{1, 2}));
  EXPECT_TRUE(stats.state.q01.empty());
  EXPECT_EQ(stats.state.width(), 2u);
  EXPECT_EQ(stats.actions.q01, std::vector<double>{-1.5});
  EXPECT_EQ(stats.actions.q99, std::vector<double>{2});
}

TEST(NormStats, RoundTripIsExact) {
  NormStats stats;
  stats.state = {{0.1, 1.0 / 3, -1e-300}, {1e300, 5e-324, 2}, {-0.1, 0, 1}, {0.7, 8, 9}};
  stats.actions = {{1}, {2}, {}, {}};
  const NormStats read = read_text(norm_stats_json(stats));
  EXPECT_EQ(read.state.mean, stats.state.mean);
  EXPECT_EQ(read.state.std, stats.state.std);
  EXPECT_EQ(read.state.q01, stats.state.q01);
  EXPECT_EQ(read.state.q99, stats.state.q99);
  EXPECT_EQ(read.actions.mean, stats.actions.mean);
  EXPECT_TRUE(read.actions.q99.empty());
  EXPECT_EQ(norm_stats_json(read), norm_stats_json(stats));
}

TEST(NormStats, RefusesWhatCannotBeUsed) {
  const auto refuse = [](const std::string& actions, const std::string& reason) {
    expect_error<CorruptError>(
        [&] { read_text(str(R"({"norm_stats": {"state": )", kFeature, R"(, "actions": )", actions, "}}")); },
        "norm_stats.json: norm_stats", reason);
  };
  refuse(R"({"mean": [1, 2], "std": [1]})", "\"std\" has 1 values, but \"mean\" has 2");
  refuse(R"({"mean": [1], "std": [1], "q01": [1, 2], "q99": [1, 2]})", "\"q01\" has 2 values");
  refuse(R"({"mean": [1], "std": [1], "q01": [1]})", "only one of");
  refuse(R"({"mean": [1], "std": [-1]})", "\"std\"[0] is negative");
  refuse(R"({"mean": [], "std": []})", "\"mean\" is empty");
  refuse(R"({"mean": [1]})", "key \"std\" is missing");
  refuse(R"({"mean": ["a"], "std": [1]})", "\"mean[0]\" must be a number");
  refuse("[]", "must be a JSON object");
  expect_error<CorruptError>([] { read_text(str(R"({"norm_stats": {"state": )", kFeature, "}}")); },
                             "key \"actions\" is missing");
  expect_error<CorruptError>([] { read_text("{}"); }, "key \"norm_stats\" is missing");
  expect_error<UsageError>([] { read_text(R"({"observation.state": {}})"); }, "is LeRobot's stats.json");
  expect_error<IoError>([] { read_norm_stats("/nonexistent/norm_stats.json"); },
                        "/nonexistent/norm_stats.json");
}

TEST(NormStats, WritesOnlyFiniteValues) {
  NormStats stats;
  stats.state = stats.actions = {{1}, {std::numeric_limits<double>::quiet_NaN()}, {}, {}};
  expect_error<UsageError>([&] { norm_stats_json(stats); }, "not finite");
}

}  // namespace
}  // namespace shallowpi
