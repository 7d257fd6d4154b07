#include <cstdint>
#include <filesystem>
#include <regex>
#include <string>
#include <utility>

#include "eval/rollout_fixture.h"
#include "eval/rollout_results.h"
#include "shallowpi/base/json.h"
#include "shallowpi/eval/rollout.h"
#include "test_util.h"

namespace shallowpi {
namespace {

using testing::expect_error;

TEST_F(RolloutTest, ComparesRunsOnTheSameEpisodes) {
  run("lr=a0.5");
  // The second run loses the first task's successes.
  RolloutResults worse = read_results(dir_ / "lr=a0.5" / "results.json");
  for (auto& [key, record] : worse.episodes) record.success = record.success && key.task > 0;
  std::filesystem::create_directories(dir_ / "b");
  write_results(dir_ / "b" / "results.json", worse);
  CompareOptions compare;
  compare.runs = {(dir_ / "lr=a0.5").string(), "worse=" + (dir_ / "b" / "results.json").string()};
  compare.out = dir_ / "comparison.json";
  ::testing::internal::CaptureStdout();
  run_compare(compare);
  const std::string table = ::testing::internal::GetCapturedStdout();
  EXPECT_NE(table.find("worse"), std::string::npos) << table;
  EXPECT_NE(table.find("lr=a0.5 "), std::string::npos) << table;
  const Json report = read_json(compare.out);
  EXPECT_EQ(report[1]["successes"], 4);
  EXPECT_EQ(report[1]["paired"]["only_first"], 2);
  EXPECT_EQ(report[1]["paired"]["both"], 4);
  EXPECT_NEAR(report[1]["paired"]["difference"].get<double>(), -2.0 / 12, 1e-12);
  EXPECT_NEAR(report[1]["paired"]["mcnemar_p"].get<double>(), 0.5, 1e-12);
  EXPECT_EQ(table.find("noise_scale"), std::string::npos) << table;  // all were played alike
  EXPECT_EQ(report[1]["handling"], report[0]["handling"]);
  EXPECT_EQ(report[0]["handling"]["latency_ms"], 0);
  // Runs that were played in different ways say so.
  RolloutResults late_answers = worse;
  late_answers.settings["latency_ms"] = 110.0;
  late_answers.policy["noise_scale"] = 0.0;
  testing::write_text(dir_ / "late_answers" / "results.json", late_answers.json().dump());
  compare.runs = {(dir_ / "b").string(), (dir_ / "late_answers").string()};
  ::testing::internal::CaptureStdout();
  run_compare(compare);
  const std::string different = ::testing::internal::GetCapturedStdout();
  EXPECT_NE(different.find("latency_ms  noise_scale  success"), std::string::npos) << different;
  EXPECT_TRUE(std::regex_search(different, std::regex("late_answers +110 +0 +4/12"))) << different;
  EXPECT_EQ(read_json(compare.out)[1]["handling"]["noise_scale"], 0);
  // A server of ours says it in its metadata; another one may say nothing.
  const auto served = [&](const std::string& name, const Json& metadata) {
    RolloutResults results = worse;
    results.policy = {{"kind", "server"}, {"url", "ws://robot"}, {"metadata", metadata}};
    testing::write_text(dir_ / name / "results.json", results.json().dump());
    return (dir_ / name).string();
  };
  compare.runs = {served("steady", {{"euler_steps", 1}, {"noise_scale", 0.0}}),
                  served("noisy", {{"euler_steps", 10}}), served("foreign", nullptr)};
  ::testing::internal::CaptureStdout();
  run_compare(compare);
  const std::string servers = ::testing::internal::GetCapturedStdout();
  EXPECT_TRUE(std::regex_search(servers, std::regex("steady +1 +0 +4/12"))) << servers;
  EXPECT_TRUE(std::regex_search(servers, std::regex("noisy +10 +1 +4/12"))) << servers;
  EXPECT_TRUE(std::regex_search(servers, std::regex("foreign +- +- +4/12"))) << servers;
  // Successes that came late.
  RolloutResults late = read_results(dir_ / "lr=a0.5" / "results.json");
  std::int64_t steps = 0;
  for (auto& [key, record] : late.episodes) record.steps = ++steps;
  std::filesystem::create_directories(dir_ / "late");
  write_results(dir_ / "late" / "results.json", late);
  compare.runs = {(dir_ / "late").string(), (dir_ / "b").string()};
  const auto successes = [&](std::int64_t within) {
    compare.within = within;
    ::testing::internal::CaptureStdout();
    run_compare(compare);
    ::testing::internal::GetCapturedStdout();
    return read_json(compare.out)[0]["successes"].get<std::int64_t>();
  };
  EXPECT_EQ(successes(steps), count_all(late).successes);
  std::int64_t early = 0;
  for (const auto& [key, record] : late.episodes) early += record.success && record.steps <= steps / 2;
  EXPECT_EQ(successes(steps / 2), early);
  EXPECT_LT(early, count_all(late).successes);
  compare.within = 0;
  expect_error<UsageError>([&] { run_compare(compare); }, "--within 0");
  compare.within.reset();
  // Two runs of the same name, with more difference than four decimals show.
  RolloutResults never = read_results(dir_ / "b" / "results.json"), always = never;
  for (std::int64_t trial = 100; trial < 120; ++trial)
    for (RolloutResults* results : {&never, &always}) {
      EpisodeRecord record = never.episodes.begin()->second;
      record.key.trial = trial;
      record.success = results == &always;
      results->episodes[record.key] = record;
    }
  for (const auto& [name, results] : {std::pair{"x", never}, {"y", always}}) {
    std::filesystem::create_directories(dir_ / name / "run");
    write_results(dir_ / name / "run" / "results.json", results);
  }
  compare.runs = {(dir_ / "x/run").string(), (dir_ / "y/run").string()};
  ::testing::internal::CaptureStdout();
  run_compare(compare);
  const std::string close = ::testing::internal::GetCapturedStdout();
  EXPECT_NE(close.find("y/run"), std::string::npos) << close;
  EXPECT_NE(close.find("only x/run / only it"), std::string::npos) << close;
  EXPECT_NE(close.find("< 0.0001"), std::string::npos) << close;
  compare.runs = {"/nowhere", (dir_ / "lr=a0.5").string()};
  expect_error<UsageError>([&] { run_compare(compare); }, "/nowhere", "results.json");
  Json damaged = read_json(dir_ / "b" / "results.json");
  damaged["settings"] = Json::array();
  testing::write_text(dir_ / "damaged" / "results.json", damaged.dump());
  compare.runs = {(dir_ / "b").string(), (dir_ / "damaged").string()};
  expect_error<CorruptError>([&] { run_compare(compare); }, "damaged", "settings");
  compare.runs = {(dir_ / "lr=a0.5").string(), (dir_ / "b").string()};
  compare.video = dir_ / "videos";
  expect_error<UsageError>([&] { run_compare(compare); }, "no episode was recorded");
}

}  // namespace
}  // namespace shallowpi
