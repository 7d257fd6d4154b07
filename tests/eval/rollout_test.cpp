#include "shallowpi/eval/rollout.h"

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <map>

#include "eval/rollout_fixture.h"
#include "eval/rollout_results.h"
#include "shallowpi/base/json.h"
#include "shallowpi/eval/rollout_policy.h"
#include "test_util.h"

namespace shallowpi {
namespace {

using testing::expect_error;

TEST_F(RolloutTest, PlaysEveryEpisodeAndCountsSuccesses) {
  const RolloutResults results = run("a");
  ASSERT_EQ(results.episodes.size(), 12u);
  for (const auto& [key, record] : results.episodes) {
    EXPECT_EQ(record.init_state, key.trial);
    EXPECT_EQ(record.seed, 7u + static_cast<std::uint64_t>(key.trial));
    EXPECT_EQ(record.success, key.trial % 2 == 0);
    EXPECT_EQ(record.steps, record.success ? 12 + key.task : 40);
    EXPECT_EQ(record.calls, (record.steps + 4) / 5);
    EXPECT_EQ(record.attempts, 1);
    EXPECT_EQ(record.perturbation.at("at_start").at("soup_1"), Json({0, 0}));
    EXPECT_EQ(record.perturbation.at("at_end").at("soup_1"), Json({0, record.steps}));
  }
  EXPECT_NE(table_.find("6/12"), std::string::npos) << table_;
  const std::string html = read_file(dir_ / "a" / "report.html");
  EXPECT_NE(html.find("6 of 12 episodes"), std::string::npos);
  EXPECT_EQ(html.find("http"), std::string::npos) << "the page must not need anything else";
}

TEST_F(RolloutTest, ResultsDoNotDependOnTheNumberOfWorkers) {
  const auto one = outcomes(run("one"));
  for (std::int64_t workers : {2, 5}) {
    options_.workers = workers;
    EXPECT_EQ(outcomes(run(str("many", workers))), one);
  }
  options_.seed = 8;  // and the comparison can fail
  EXPECT_NE(outcomes(run("other")), one);
}

TEST_F(RolloutTest, SimulatorsThatDieOrHangLoseNoEpisode) {
  options_.trials = 34;
  options_.workers = 3;
  const RolloutResults calm = run("calm");
  ASSERT_EQ(calm.episodes.size(), 102u);
  Environment die("FAKE_DIE", "0.01"), hang("FAKE_HANG", "0.002");
  options_.step_timeout_s = options_.reset_timeout_s = 5;
  const RolloutResults stormy = run("stormy");
  EXPECT_EQ(outcomes(stormy), outcomes(calm));
  std::int64_t repeated = 0;
  for (const auto& [key, record] : stormy.episodes) repeated += record.attempts - 1;
  EXPECT_GT(repeated, 0);
}

TEST_F(RolloutTest, ASimulatorThatDiesOfItsFirstRequestIsStartedAgain) {
  const RolloutResults calm = run("calm");
  for (int i = 0; i < 4; ++i) testing::write_text(dir_ / "deaths" / str(i), "");
  Environment deaths("FAKE_DEATHS", (dir_ / "deaths").string());
  EXPECT_EQ(outcomes(run("stormy")), outcomes(calm));
  EXPECT_TRUE(std::filesystem::is_empty(dir_ / "deaths"));
}

TEST_F(RolloutTest, GivesUpOnASimulatorThatAlwaysDies) {
  Environment die("FAKE_DIE", "1");
  ScriptedPolicy policy;
  expect_error<Error>([&] { run_rollout(options_, policy); }, "gave up on the list of tasks after 5 attempts",
                      "died", "fake worker dies", "simulator_0.log");
  Environment at("FAKE_AT", "reset");
  expect_error<Error>([&] { run_rollout(options_, policy); }, "gave up on libero_object task 0 trial 0",
                      "died", "fake worker dies", "simulator_0.log");
}

TEST_F(RolloutTest, ASignalSavesTheEpisodesThatHaveEnded) {
  const auto expected = outcomes(run("calm"));
  ScriptedPolicy policy;
  int calls = 0;
  policy.on_call = [&] {
    if (++calls == 20) std::raise(SIGTERM);  // in the fourth episode
  };
  options_.out = dir_ / "stopped";
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(run_rollout(options_, policy), 143);
  const std::string table = ::testing::internal::GetCapturedStdout();
  const std::string message = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(table.find("2/3"), std::string::npos) << table;
  EXPECT_NE(message.find("stopping: the episodes that have ended are saved"), std::string::npos) << message;
  EXPECT_EQ(message.find("this step"), std::string::npos) << message;
  EXPECT_EQ(read_results(options_.out / "results.json").episodes.size(), 3u);
  EXPECT_TRUE(std::filesystem::exists(options_.out / "report.html"));
  EXPECT_EQ(outcomes(run("stopped")), expected);
}

TEST_F(RolloutTest, WhatIsNamedTwiceIsPlayedOnce) {
  options_.suites = {"libero_object", "libero_object"};
  options_.tasks = {1, 1};
  options_.quiet = false;
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(run("twice").episodes.size(), 4u);
  const std::string progress = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(progress.find("4/4 episodes"), std::string::npos) << progress;
}

TEST_F(RolloutTest, SimulatorsAndPolicyShareTheCores) {
  int runs = 0;
  const auto threads = [&](const std::string& more) {
    const std::filesystem::path out = dir_ / str(runs++);
    const std::string command =
        str("OMP_NUM_THREADS=2 ", SHALLOWPI_BIN_DIR,
            "/shallowpi-eval rollout --policy noop --suite libero_object",
            " --tasks 0 --trials 1 --max-steps 1 --quiet --python ", options_.python, " --worker ",
            options_.worker.string(), " --out ", out.string(), " ", more, " >/dev/null");
    EXPECT_EQ(std::system(command.c_str()), 0) << command;
    return read_json(out / "results.json")["machine"]["threads"].get<int>();
  };
  const int cores = threads("--workers=1");
  EXPECT_EQ(threads("--workers=2"), std::max(1, cores / 2));
  EXPECT_EQ(threads("--workers=2 --threads=3"), 3);
}

TEST_F(RolloutTest, AProtocolGivesWhatTheOptionsDoNot) {
  options_.trials.reset();
  options_.tasks = {0};
  options_.protocol = Protocol::kLeRobot;
  const RolloutResults results = run("lerobot");
  EXPECT_EQ(results.episodes.size(), 10u);
  EXPECT_EQ(results.settings.at("replan"), 10);
  EXPECT_EQ(results.settings.at("seed"), 1000);
}

TEST_F(RolloutTest, TheSimulatorDrawsWhatThePolicyWasTrainedOn) {
  options_.image_size.reset();
  options_.trials = 1;
  options_.max_steps = 1;
  ScriptedPolicy policy;
  EXPECT_EQ(run("not_known", policy).settings.at("image_size"), 256);
  policy.demo_images = 24;
  EXPECT_EQ(run("known", policy).settings.at("image_size"), 24);
  options_.image_size = 32;
  EXPECT_EQ(run("given", policy).settings.at("image_size"), 32);
}

TEST_F(RolloutTest, SeveralObservationsShareAForwardPass) {
  const auto single = outcomes(run("single"));
  options_.workers = 4;
  options_.batch = 3;
  ScriptedPolicy policy;
  const RolloutResults batched = run("batched", policy);
  EXPECT_EQ(outcomes(batched), single);
  EXPECT_EQ(*policy.batch_sizes.rbegin(), 3u);
  EXPECT_TRUE(read_json(dir_ / "batched" / "results.json").contains("note"));
  EXPECT_FALSE(read_json(dir_ / "single" / "results.json").contains("note"));
}

TEST_F(RolloutTest, WithoutLatencyEveryActionIsFromTheNewestChunk) {
  std::filesystem::create_directories(dir_ / "log");
  Environment log("FAKE_LOG", (dir_ / "log").string());
  run("plain");
  ASSERT_EQ(logged("log").size(), 12u);
  for (const auto& [name, actions] : logged("log"))
    for (std::size_t t = 0; t < actions.size(); ++t) {
      EXPECT_EQ(actions[t][0], double(t / 5 * 5));
      EXPECT_EQ(actions[t][1], double(t % 5));
    }
}

TEST_F(RolloutTest, ActionsArriveExactlyAsLateAsAsked) {
  for (const auto& [milliseconds, delay] : {std::pair{30.0, 1}, {110.0, 3}, {250.0, 5}, {364.0, 8}}) {
    const std::string name = str("log", delay);
    std::filesystem::create_directories(dir_ / name);
    Environment log("FAKE_LOG", (dir_ / name).string());
    options_.latency_ms = milliseconds;
    run(str("late", delay));
    for (const auto& [file, actions] : logged(name)) {
      std::map<double, double> first_use;  // observation's tick -> the tick of its first action
      for (std::size_t t = 0; t < actions.size(); ++t) {
        if (t < static_cast<std::size_t>(delay)) {
          EXPECT_EQ(actions[t], Json({0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0}))
              << "the world goes on before the first chunk";
          continue;
        }
        const double seen = actions[t][0];
        EXPECT_EQ(actions[t][1], double(t) - seen) << "an action belongs to its tick";
        first_use.try_emplace(seen, double(t));
      }
      ASSERT_GE(first_use.size(), 1u);
      double previous = -1;
      for (const auto& [seen, used] : first_use) {
        EXPECT_EQ(used, seen + delay);
        if (previous >= 0)
          EXPECT_EQ(seen - previous, std::max(5, delay)) << "one request is under way at a time";
        previous = seen;
      }
    }
  }
}

TEST_F(RolloutTest, TakesTheLatencyFromAReport) {
  const auto plain = outcomes(run("plain"));
  options_.latency_ms = 1;
  EXPECT_NE(outcomes(run("one")), plain);
  testing::write_text(dir_ / "bench.json", R"({"results": [{"ms": {"total": {"p50": 1.0}}}]})");
  const auto late = outcomes(run("one"));
  options_.latency_ms = 0;
  options_.latency_from = dir_ / "bench.json";
  EXPECT_EQ(outcomes(run("from")), late);
  testing::write_text(dir_ / "bench.json", R"({"results": []})");
  ScriptedPolicy policy;
  expect_error<CorruptError>([&] { run_rollout(options_, policy); }, "bench.json", "results[0].ms.total.p50");
}

/// Continues what it is told will be executed, and remembers that.
class ContinuingPolicy final : public RolloutPolicy {
 public:
  Json identity() const override { return {{"kind", "continuing"}}; }
  std::int64_t horizon() const override { return 20; }
  std::vector<RobotActions> infer(const std::vector<PolicyCall>& calls) override {
    std::vector<RobotActions> out;
    for (const PolicyCall& call : calls) {
      prefixes[{call.episode, call.tick}] = call.prefix;
      out.push_back(call.prefix);
      for (auto i = std::int64_t(call.prefix.size()); i < horizon(); ++i)
        out.back().push_back({float(call.tick), float(i), 0, 0, 0, 0, 1});
    }
    return out;
  }
  std::map<std::pair<EpisodeKey, std::int64_t>, RobotActions> prefixes;
};

TEST_F(RolloutTest, RealTimeChunkingSaysWhatIsExecutedBeforeTheAnswer) {
  constexpr std::int64_t kDelay = 3;
  std::filesystem::create_directories(dir_ / "log");
  Environment log("FAKE_LOG", (dir_ / "log").string());
  options_.chunking = ChunkMode::kRtc;
  options_.latency_ms = 110;
  ContinuingPolicy policy;
  run("rtc", policy);
  std::size_t checked = 0;
  for (const auto& [name, actions] : logged("log")) {
    const EpisodeKey key{"libero_object", name[0] - '0', name[2] - '0'};
    std::int64_t newest = -1;
    for (const auto& [call, prefix] : policy.prefixes) {
      if (call.first != key) continue;
      ASSERT_EQ(prefix.size(), call.second == 0 ? 0u : std::size_t(kDelay))
          << "before the first chunk there is no plan";
      for (std::size_t i = 0; i < prefix.size() && std::size_t(call.second) + i < actions.size();
           ++i, ++checked)
        EXPECT_EQ(Json(prefix[i]), actions[std::size_t(call.second) + i]);
      newest = call.second;
    }
    EXPECT_GT(newest, 0);
  }
  EXPECT_GT(checked, 100u);
  // It says that this policy was not trained for that.
  ::testing::internal::CaptureStderr();
  run("untrained", policy);
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("trained to continue none"), std::string::npos);
  // Without latency nothing is executed before an answer.
  options_.latency_ms = 0;
  ContinuingPolicy prompt;
  const auto rtc = outcomes(run("prompt", prompt));
  for (const auto& [call, prefix] : prompt.prefixes) EXPECT_TRUE(prefix.empty());
  options_.chunking = ChunkMode::kReceding;
  EXPECT_EQ(outcomes(run("receding", prompt)), rtc);
}

TEST_F(RolloutTest, RefusesAChunkThatIsTooShortForTheLatency) {
  options_.latency_ms = 364;
  ScriptedPolicy policy(15);
  expect_error<UsageError>([&] { run_rollout(options_, policy); }, "chunks of 15 actions are too short",
                           "16");
}

TEST_F(RolloutTest, GoesOnWhereItWas) {
  options_.trials = 1;
  const RolloutResults first = run("a");
  std::filesystem::create_directories(dir_ / "log");
  Environment log("FAKE_LOG", (dir_ / "log").string());
  options_.trials = 3;
  testing::write_text(dir_ / "a/videos/killed.mp4.tmp-999999999-0", "of a killed process");
  const RolloutResults second = run("a");
  EXPECT_FALSE(std::filesystem::exists(dir_ / "a/videos/killed.mp4.tmp-999999999-0"));
  EXPECT_EQ(logged("log").size(), 6u);
  EXPECT_EQ(outcomes(second), outcomes([&] { return run("b"); }()));
  for (const auto& [key, record] : first.episodes)
    EXPECT_EQ(second.episodes.at(key).seconds, record.seconds) << "an episode that was done was played again";
}

TEST_F(RolloutTest, RefusesTheFolderOfAnotherRun) {
  run("a");
  ScriptedPolicy policy, other(30);
  options_.replan = 4;
  expect_error<UsageError>([&] { run_rollout(options_, policy); }, "holds another run", "replan: 5 -> 4");
  options_.replan = 5;
  expect_error<UsageError>([&] { run_rollout(options_, other); }, "horizon: 20 -> 30");
  testing::write_text(options_.out / "results.json", "{\"format\": \"else\"}");
  expect_error<CorruptError>([&] { run_rollout(options_, policy); }, "not a rollout's results.json");
}

TEST_F(RolloutTest, SaysWhatDoesNotFit) {
  ScriptedPolicy policy;
  const auto refused = [&](auto change, const std::string& reason, const std::string& more = "") {
    RolloutOptions options = options_;
    options.out = dir_ / str("bad", std::hash<std::string>{}(reason));
    change(options);
    expect_error<UsageError>([&] { run_rollout(options, policy); }, reason, more);
  };
  refused([](auto& o) { o.suites = {"libero_objct"}; }, "no suite 'libero_objct'", "libero_object");
  refused([](auto& o) { o.suites.clear(); }, "no --suite");
  refused([](auto& o) { o.tasks = {0, 3}; }, "libero_object has no task 3", "2  do task 2");
  refused([](auto& o) { o.python = "/nowhere/python"; }, "/nowhere/python", "scripts/setup_libero.sh");
  refused([](auto& o) { o.worker = "/nowhere.py"; }, "/nowhere.py");
  refused([](auto& o) { o.perturb = {"target=0.03"}; }, "--perturb target=0.03", "_xy");
  refused([](auto& o) { o.perturb = {"target_xy=3"}; }, "0 to 1 m");
  refused([](auto& o) { o.move = {"basket"}; }, "expected NAME=VALUE");
  refused([](auto& o) { o.move = {"basket=fast"}; }, "\"fast\" is not a number");
  refused([](auto& o) { o.latency_ms = -1; }, "--latency-ms -1");
  refused([](auto& o) { o.latency_ms = 1e30; }, "--latency-ms 1e+30 is not from 0 to 60000");
  refused(
      [](auto& o) {
        o.latency_from = "/nowhere.json";
        o.latency_ms = 3;
      },
      "contradict");
  refused([](auto& o) { o.trials = 0; }, "--trials 0");
  refused([](auto& o) { o.video_trials = {4}; }, "--video-trials 4", "trials 0 to 3");
  for (const double seconds : {0.0, -1.0, 1e9, std::nan("")})
    refused([&](auto& o) { o.step_timeout_s = seconds; }, str("--timeout ", seconds));
  refused([](auto& o) { o.replan = 21; }, "chunks of 20 actions are too short");
  refused([](auto& o) { o.seed = 1ull << 40; }, "--seed");
  {
    Environment cache("XDG_CACHE_HOME", dir_.path().string());
    refused([](auto& o) { o.python.clear(); }, "no LIBERO simulator is installed", "scripts/setup_libero.sh");
  }
  Environment error("FAKE_ERROR", "render");
  refused([](auto&) {}, "cannot render", "libEGL");
}

TEST_F(RolloutTest, RefusesAFolderOfOtherFiles) {
  ScriptedPolicy policy;
  testing::write_text(options_.out / "config.yaml", "");
  expect_error<UsageError>([&] { run_rollout(options_, policy); }, "--out ", "it holds config.yaml");
  std::filesystem::rename(options_.out / "config.yaml", options_.out / ".hidden");
  std::filesystem::create_directories(options_.out / "logs");  // of a run without a finished episode
  run("run");
  testing::write_text(options_.out / "notes.txt", "its owner's");
  run("run");
}

/// Has nothing to play on the last task.
class ChoosyPolicy final : public RolloutPolicy {
 public:
  Json identity() const override { return {{"kind", "choosy"}}; }
  std::int64_t horizon() const override { return 20; }
  void check_task(const std::string& instruction) const override {
    if (instruction == "do task 2") throw UsageError("no demonstration of task 2");
  }
  std::vector<RobotActions> infer(const std::vector<PolicyCall>&) override { throw Error("was asked"); }
};

TEST_F(RolloutTest, ATaskThatThePolicyCannotPlayIsSeenBeforeTheFirstEpisode) {
  ChoosyPolicy policy;
  expect_error<UsageError>([&] { run_rollout(options_, policy); }, "no demonstration of task 2");
  const std::string demos = std::string(SHALLOWPI_SOURCE_DIR) + "/tests/data/replay/alphabet_soup.hdf5";
  for (const char* kind : {"replay:", "mean-action:"})
    expect_error<UsageError>([&] { baseline_policy(kind + demos)->check_task("do task 2"); },
                             "no demonstration of \"do task 2\"");
  expect_error<UsageError>(
      [&] {
        baseline_policy("replay:" + demos + "#99")
            ->check_task("pick up the alphabet soup and place it in the basket");
      },
      "there is no demonstration 99");
}

TEST_F(RolloutTest, AFolderIsUsedByOneRunAtATime) {
  std::filesystem::create_directories(options_.out);
  const FolderLock lock(options_.out);
  ScriptedPolicy policy;
  expect_error<UsageError>([&] { run_rollout(options_, policy); }, "run");
}

}  // namespace
}  // namespace shallowpi
