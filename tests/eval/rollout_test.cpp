#include "shallowpi/eval/rollout.h"

#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <map>
#include <set>
#include <thread>

#include "eval/rollout_results.h"
#include "eval/video.h"
#include "runtime/policy_service.h"
#include "shallowpi/model/checkpoint.h"
#include "test_util.h"

namespace shallowpi {
namespace {

using testing::expect_error;
using testing::TempDir;

/// A variable of the environment while it lives.
class Environment {
 public:
  Environment(const char* name, const std::string& value) : name_(name) { ::setenv(name, value.c_str(), 1); }
  ~Environment() { ::unsetenv(name_); }

 private:
  const char* name_;
};

/// Each action says which observation it came from and its place in the chunk: [tick, i, f(state), ...].
class ScriptedPolicy final : public RolloutPolicy {
 public:
  explicit ScriptedPolicy(std::int64_t horizon = 20) : horizon_(horizon) {}
  Json identity() const override { return {{"kind", "scripted"}, {"horizon", horizon_}}; }
  std::int64_t horizon() const override { return horizon_; }
  std::vector<RobotActions> infer(const std::vector<PolicyCall>& calls) override {
    batch_sizes.insert(calls.size());
    std::vector<RobotActions> out;
    for (const PolicyCall& call : calls) {
      EXPECT_EQ(call.observation.images.size(), 2u);
      EXPECT_EQ(call.observation.state[0], float(call.tick));  // the fake's clock
      out.emplace_back();
      for (std::int64_t i = 0; i < horizon_; ++i)
        out.back().push_back(
            {float(call.tick), float(i), call.observation.state[4] * 0.5f, float(call.call), 0, 0, 1});
    }
    return out;
  }
  std::set<std::size_t> batch_sizes;

 private:
  std::int64_t horizon_;
};

class RolloutTest : public ::testing::Test {
 protected:
  RolloutTest() {
    options_.suites = {"libero_object"};
    options_.trials = 4;
    options_.max_steps = 40;
    options_.image_size = 16;
    options_.quiet = true;
    options_.python = "/usr/bin/python3";
    options_.worker = std::string(SHALLOWPI_SOURCE_DIR) + "/tests/eval/fake_libero_worker.py";
    options_.out = dir_ / "run";
  }

  RolloutResults run(const std::string& name, RolloutPolicy& policy) {
    options_.out = dir_ / name;
    ::testing::internal::CaptureStdout();
    const int code = run_rollout(options_, policy);
    table_ = ::testing::internal::GetCapturedStdout();
    EXPECT_EQ(code, 0);
    return read_results(options_.out / "results.json");
  }
  RolloutResults run(const std::string& name) {
    ScriptedPolicy policy;
    return run(name, policy);
  }
  /// The actions of every episode as the fake executed them.
  std::map<std::string, Json> logged(const std::string& name) const {
    std::map<std::string, Json> out;
    for (const auto& entry : std::filesystem::directory_iterator(dir_ / name))
      out[entry.path().filename().string()] = read_json(entry.path());
    return out;
  }

  TempDir dir_;
  RolloutOptions options_;
  std::string table_;
};

/// Task, trial -> trace, success, steps.
std::map<EpisodeKey, std::tuple<std::string, bool, std::int64_t>> outcomes(const RolloutResults& results) {
  std::map<EpisodeKey, std::tuple<std::string, bool, std::int64_t>> out;
  for (const auto& [key, record] : results.episodes) out[key] = {record.trace, record.success, record.steps};
  return out;
}

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

TEST_F(RolloutTest, GivesUpOnASimulatorThatAlwaysDies) {
  Environment die("FAKE_DIE", "1");
  ScriptedPolicy policy;
  expect_error<Error>([&] { run_rollout(options_, policy); }, "gave up on libero_object task 0 trial 0",
                      "died", "fake worker dies", "simulator_0.log");
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

TEST_F(RolloutTest, NoLatencyEqualsThePlainRollout) {
  const auto plain = outcomes(run("plain"));
  options_.latency_ms = 0.0;
  EXPECT_EQ(outcomes(run("zero")), plain);
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
  const RolloutResults second = run("a");
  EXPECT_EQ(logged("log").size(), 6u);
  EXPECT_EQ(outcomes(second), outcomes([&] { return run("b"); }()));
  for (const auto& [key, record] : first.episodes)
    EXPECT_EQ(second.episodes.at(key).seconds, record.seconds) << "an episode that was done was played again";
}

TEST_F(RolloutTest, RefusesTheFolderOfAnotherRun) {
  run("a");
  ScriptedPolicy policy, other(30);
  options_.replan = 4;
  expect_error<UsageError>([&] { run_rollout(options_, policy); }, "holds another run",
                           "settings.replan: 5 -> 4");
  options_.replan = 5;
  expect_error<UsageError>([&] { run_rollout(options_, other); }, "policy.horizon: 20 -> 30");
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
  refused(
      [](auto& o) {
        o.latency_from = "/nowhere.json";
        o.latency_ms = 3;
      },
      "contradict");
  refused([](auto& o) { o.trials = 0; }, "--trials 0");
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
  const std::string demos = std::string(SHALLOWPI_SOURCE_DIR) + "/configs/quickstart/alphabet_soup.hdf5";
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
  compare.runs = {(dir_ / "lr=a0.5").string(), (dir_ / "b").string()};
  compare.video = dir_ / "videos";
  expect_error<UsageError>([&] { run_compare(compare); }, "no episode was recorded");
}

/// A server in this process, whose policy moves on from the state and the noise it is shown; before call `at`
/// it does something else. `more` goes into its metadata.
class Server {
 public:
  explicit Server(std::function<void()> something = {}, int at = -1, bool ours = true,
                  const Json& more = Json::object(), std::uint16_t port = 0,
                  const std::string& api_key = "") {
    PolicySpec spec;
    spec.horizon = 8;
    spec.image_keys = {"base_0_rgb", "left_wrist_0_rgb"};
    const InferFunction infer = [this, something, at, ours](const std::vector<InferRequest>& requests,
                                                            const InferOptions&) {
      if (calls_++ == at) something();
      const RobotObservation& seen = requests.at(0).observation;
      EXPECT_EQ(seen.images.size(), 2u);
      const torch::Tensor& noise = requests.at(0).noise_hd;
      EXPECT_EQ(noise.defined(), ours);
      InferResult result;
      for (int i = 0; i < 8; ++i)
        result.actions.push_back({seen.state[0] + float(i), seen.state[4] / 2,
                                  noise.defined() ? noise[i][31].item<float>() : 0, 0, 0, 0, 1});
      if (const torch::Tensor& prefix = requests.at(0).prefix_actions_hd; prefix.defined())
        given_ = prefix.size(0);
      return std::vector<InferResult>{result};
    };
    Json metadata = ours ? policy_metadata(spec) : Json::object();
    metadata.update(more);
    service_ = std::make_unique<PolicyService>(ObservationDecoder(spec, {}, {}), infer, QueueOptions{},
                                               metadata, [] {});
    ServerOptions options;
    options.port = port;
    options.api_key = api_key;
    server_ = std::make_unique<WebsocketServer>(options, *service_);
    thread_ = std::thread([this] { server_->run(); });
  }
  ~Server() {
    server_->stop();
    thread_.join();
  }
  std::uint16_t port() const { return server_->port(); }
  std::string url() const { return str("ws://127.0.0.1:", port()); }
  std::int64_t given() const { return given_; }  // actions of the last prefix

 private:
  std::atomic<int> calls_{0};
  std::atomic<std::int64_t> given_{0};
  std::unique_ptr<PolicyService> service_;
  std::unique_ptr<WebsocketServer> server_;
  std::thread thread_;
};

TEST_F(RolloutTest, PlaysAgainstAServer) {
  const Server server;
  options_.workers = 2;
  const auto policy = server_policy(server.url(), 7);
  const RolloutResults results = run("served", *policy);
  EXPECT_EQ(count_all(results).successes, 6);
  EXPECT_EQ(results.policy.at("url"), server.url());
  EXPECT_EQ(outcomes(run("again", *policy)), outcomes(results)) << "noise is a function of seed and episode";
  const auto other = server_policy(server.url(), 8);
  EXPECT_NE(outcomes(run("other", *other)), outcomes(results));
}

TEST_F(RolloutTest, AServerOfOursContinuesAPrefixAndAnotherOneIsNotAsked) {
  options_.chunking = ChunkMode::kRtc;
  options_.latency_ms = 110;
  const Server server, foreign({}, -1, false);
  const auto policy = server_policy(server.url(), 7);
  EXPECT_EQ(count_all(run("rtc", *policy)).episodes, 12);
  EXPECT_EQ(server.given(), 3);
  const auto unaware = server_policy(foreign.url(), 7);
  options_.out = dir_ / "foreign";
  expect_error<UsageError>([&] { run_rollout(options_, *unaware); }, "--chunking rtc", foreign.url());
}

TEST_F(RolloutTest, AServerThatFailsLosesNoEpisodeEither) {
  const Server calm;
  const auto expected = outcomes(run("calm", *server_policy(calm.url(), 7)));
  const auto fails = [] { throw std::runtime_error("no"); };  // and the server closes the connection
  const auto refuses = [] { throw UsageError("observation/state: too cold"); };
  const auto hangs = [] { usleep(1500000); };
  const std::vector<std::tuple<std::function<void()>, std::string>> cases = {
      {fails, "the policy failed"}, {refuses, "too cold"}, {hangs, "no answer from 127.0.0.1:"}};
  for (const auto& [something, message] : cases) {
    const std::string folder = str("failing", message.size());
    const Server failing(something, 20);
    const auto policy = server_policy(failing.url(), 7, 1.0);
    options_.out = dir_ / folder;
    expect_error<Error>([&] { run_rollout(options_, *policy); }, message);
    const auto before = read_results(options_.out / "results.json").episodes.size();
    EXPECT_GT(before, 0u);
    EXPECT_LT(before, 12u);
    usleep(1000000);  // until a server that hung is back
    EXPECT_EQ(outcomes(run(folder, *policy)), expected) << message;
  }
  expect_error<Error>([&] { server_policy("ws://127.0.0.1:1", 7); }, "127.0.0.1:1");
  expect_error<UsageError>([&] { server_policy("ftp://x", 7); }, "ftp");
}

TEST_F(RolloutTest, GoesOnWithTheSameServedPolicyOnly) {
  const auto serve = [](std::uint16_t port, const char* fingerprint) {
    return std::make_unique<Server>(std::function<void()>{}, -1, true, Json{{"fingerprint", fingerprint}},
                                    port);
  };
  auto server = serve(0, "a");
  const std::uint16_t port = server->port();
  const std::string url = server->url();
  const auto policy = server_policy(url, 7);
  run("served", *policy);
  server.reset();
  server = serve(port, "a");
  options_.trials = 5;
  EXPECT_EQ(run("served", *policy).episodes.size(), 15u) << "the same policy, started again";
  server.reset();
  server = serve(port, "b");
  options_.trials = 6;
  expect_error<Error>([&] { run_rollout(options_, *policy); }, "now serves another policy", "\"b\"");
  expect_error<UsageError>([&] { run_rollout(options_, *server_policy(url, 7)); }, "holds another run",
                           "policy.metadata");
  EXPECT_EQ(read_results(options_.out / "results.json").episodes.size(), 15u);
}

TEST_F(RolloutTest, SendsTheKeyThatTheServerWants) {
  const std::string key(32, 'k');
  const Server server({}, -1, true, Json::object(), 0, key);
  options_.server = server.url();
  expect_error<Error>([&] { run_rollout(options_); }, "it wants another API key");
  options_.api_key_file = dir_ / "key";
  testing::write_text(options_.api_key_file, "short");
  expect_error<UsageError>([&] { run_rollout(options_); }, "--api-key-file", "at least 16 characters");
  testing::write_text(options_.api_key_file, key + "\n");
  EXPECT_EQ(run_rollout(options_), 0);
  EXPECT_EQ(read_file(options_.out / "results.json").find(key), std::string::npos);
}

std::vector<PolicyCall> call_at(const std::string& prompt, std::int64_t tick, std::int64_t trial = 0) {
  return {{{"libero_object", 0, trial}, 0, tick, {{}, std::vector<float>(8), prompt}}};
}

TEST(BaselinePolicy, ReplaysADemonstrationWhateverItSees) {
  const std::string file = std::string(SHALLOWPI_SOURCE_DIR) + "/configs/quickstart/alphabet_soup.hdf5";
  const std::string prompt = "pick up the alphabet soup and place it in the basket";
  const auto policy = baseline_policy("replay:" + file + "#1");
  const RobotActions start = policy->infer(call_at(prompt, 0))[0],
                     later = policy->infer(call_at(prompt, 7, 3))[0];
  ASSERT_EQ(start.size(), later.size());
  EXPECT_NE(start[0], start[7]);
  for (std::size_t i = 7; i < start.size(); ++i) EXPECT_EQ(start[i], later[i - 7]);
  const RobotActions end = policy->infer(call_at(prompt, 100000))[0];
  EXPECT_EQ(end.front(), end.back());
  const auto per_trial = baseline_policy("replay:" + file + "#trial");
  EXPECT_EQ(per_trial->infer(call_at(prompt, 0, 1))[0], start);
  EXPECT_NE(per_trial->infer(call_at(prompt, 0, 0))[0], start);
  expect_error<UsageError>([&] { policy->infer(call_at("open the drawer", 0)); }, "open the drawer",
                           "alphabet soup");
  const auto mean = baseline_policy("mean-action:" + file);
  const RobotActions constant = mean->infer(call_at(prompt, 0))[0];
  EXPECT_EQ(constant.front(), constant.back());
  EXPECT_LT(std::abs(constant[0][0]), 1.0f);
  for (const char* bad : {"reply:x", "noop:x", "replay", "mean-action"})
    expect_error<UsageError>([&] { baseline_policy(bad); }, bad, "replay:FILE.hdf5");
  expect_error<UsageError>([&] { baseline_policy("replay:" + file + "#x"); }, "neither a number nor trial");
}

TEST(CheckpointPolicy, ContinuesAPrefix) {
  const std::string teacher = std::string(SHALLOWPI_SOURCE_DIR) + "/configs/quickstart/teacher";
  const auto policy = checkpoint_policy(teacher, 7, {});
  std::vector<PolicyCall> calls = call_at("pick up the alphabet soup and place it in the basket", 0);
  for (const char* camera : {"base_0_rgb", "left_wrist_0_rgb"})
    calls[0].observation.images[camera] = {8, 8, std::vector<std::uint8_t>(8 * 8 * 3, 100)};
  const RobotActions free = policy->infer(calls)[0];
  EXPECT_EQ(policy->infer(calls)[0], free);
  calls[0].prefix = {free[1], free[0]};
  const RobotActions continued = policy->infer(calls)[0];
  for (std::size_t i = 0; i < 2; ++i)
    for (std::size_t d = 0; d < 7; ++d) EXPECT_NEAR(continued[i][d], calls[0].prefix[i][d], 1e-5);
  EXPECT_NE(continued[3], free[3]) << "the rest does not follow the prefix";
}

TEST(CheckpointPolicy, IsKnownAgainByItsWeights) {
  TempDir dir;
  const std::filesystem::path folder = dir / "policy", file = folder / "model.safetensors";
  std::filesystem::copy(std::string(SHALLOWPI_SOURCE_DIR) + "/configs/quickstart/teacher", folder,
                        std::filesystem::copy_options::recursive);
  std::filesystem::remove(folder / "manifest.json");  // as openpi's and LeRobot's folders
  const auto fingerprint = [&] {
    return checkpoint_policy(folder.string(), 7, {})->identity().at("fingerprint");
  };
  NamedTensors tensors = load_safetensors(file);
  save_safetensors(file, tensors);
  const Json before = fingerprint();
  EXPECT_EQ(fingerprint(), before);
  testing::write_text(folder / "training_state/optimizer.safetensors", "is of no use to a policy");
  EXPECT_EQ(fingerprint(), before);
  testing::write_text(folder / "assets/training_state", "another file");
  EXPECT_NE(fingerprint(), before);
  std::filesystem::remove(folder / "assets/training_state");
  tensors.at("action_out_proj.bias").add_(1);
  save_safetensors(file, tensors);
  EXPECT_NE(fingerprint(), before);
  // Of a large tensor a part counts, which no training leaves as it was.
  const torch::Tensor large = torch::zeros({1 << 20});
  save_safetensors(file, {{"large", large}, {"small", torch::zeros({8})}});
  const std::string zeros = folder_fingerprint(folder);
  save_safetensors(file, {{"large", large + 1e-6}, {"small", torch::zeros({8})}});
  EXPECT_NE(folder_fingerprint(folder), zeros);
}

TEST(VideoWriter, TakesOddSides) {
  TempDir dir;
  VideoWriter video(dir / "odd.mp4", 34, 17, 20);
  video.write(std::string(5 * 34 * 17 * 3, 'x'));
  video.finish(dir / "odd.mp4");
  const std::string probe = str("ffprobe -v error -select_streams v -count_frames -show_entries ",
                                "stream=width,height,nb_read_frames -of csv=p=0 ", (dir / "odd.mp4").string(),
                                " > ", (dir / "probe").string());
  ASSERT_EQ(std::system(probe.c_str()), 0);
  EXPECT_EQ(read_file(dir / "probe"), "34,18,5\n");
}

TEST(CheckpointPolicy, RefusesACheckpointThatDoesNotFitLibero) {
  TempDir dir;
  PolicyConfig config;
  config.vision = {1, 32, 32, 16, 16, 32};
  config.backbone = {2, 16, 32, 8, 1, 8};
  config.expert = {2, 16, 32, 8, 1, 8};
  config.vocab = 512;
  Policy policy(config);
  CheckpointContents contents;
  contents.config = config;
  contents.spec.image_size = config.vision.image_size;
  contents.spec.robot = {RobotKind::kAloha, 14, 14, {}};
  contents.spec.image_keys = {"cam_high"};
  publish_folder(dir / "aloha", [&](const std::filesystem::path& folder) {
    write_checkpoint_files(folder, contents, policy->named_tensors(), torch::kFloat32);
  });
  expect_error<UsageError>([&] { checkpoint_policy((dir / "aloha").string(), 7, {}); }, "does not fit LIBERO",
                           "cam_high", "its state has 14 dims, LIBERO's has 8",
                           "its actions have 14 dims, LIBERO's have 7");
}

}  // namespace
}  // namespace shallowpi
