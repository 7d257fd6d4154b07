// Policies with a network in a rollout: a checkpoint in this process, or a server.
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "eval/rollout_fixture.h"
#include "eval/rollout_results.h"
#include "runtime/policy_service.h"
#include "shallowpi/base/json.h"
#include "shallowpi/base/safetensors.h"
#include "shallowpi/eval/rollout.h"
#include "shallowpi/eval/rollout_policy.h"
#include "shallowpi/model/checkpoint.h"
#include "shallowpi/model/policy.h"
#include "test_util.h"

namespace shallowpi {
namespace {

using testing::expect_error;
using testing::TempDir;

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
      if (const RobotActions& prefix = requests.at(0).prefix_actions; !prefix.empty())
        given_ = std::ssize(prefix);
      return std::vector<InferResult>{result};
    };
    Json metadata = ours ? policy_metadata(spec) : Json::object();
    metadata.update(more);
    service_ =
        std::make_unique<PolicyService>(ObservationDecoder(spec, {}), infer, QueueOptions{}, metadata, [] {});
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
  const Server server, foreign({}, -1, false, {{"demo_image_size", 24}});
  const auto policy = server_policy(server.url(), 7);
  EXPECT_EQ(count_all(run("rtc", *policy)).episodes, 12);
  EXPECT_EQ(server.given(), 3);
  const auto unaware = server_policy(foreign.url(), 7);
  EXPECT_EQ(unaware->demo_image_size(), 0) << "what it means is not known";
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
                           "metadata: ");
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

const std::string kTeacher = std::string(SHALLOWPI_SOURCE_DIR) + "/configs/quickstart/teacher";

/// Of an episode that the teacher knows.
std::vector<PolicyCall> calls_of_the_teacher() {
  std::vector<PolicyCall> calls = call_at("pick up the butter and place it in the basket", 0);
  for (const char* camera : {"base_0_rgb", "left_wrist_0_rgb"})
    calls[0].observation.images[camera] = {8, 8, std::vector<std::uint8_t>(8 * 8 * 3, 100)};
  return calls;
}

TEST(CheckpointPolicy, ScalesItsNoise) {
  std::vector<PolicyCall> calls = calls_of_the_teacher(), later = calls;
  later[0].call = 1;
  const auto drawn = checkpoint_policy(kTeacher, 7, {}),
             steady = checkpoint_policy(kTeacher, 7, {.noise_scale = 0});
  EXPECT_NE(drawn->infer(calls), drawn->infer(later));
  EXPECT_EQ(steady->infer(calls), steady->infer(later));
  EXPECT_FALSE(drawn->identity().contains("noise_scale")) << "older results go on";
  EXPECT_EQ(steady->identity().at("noise_scale"), 0);
  // Neither goes on with what the other has begun.
  TempDir dir;
  for (const auto& [begun, next] : {std::pair(drawn.get(), steady.get()), {steady.get(), drawn.get()}}) {
    RolloutResults results;
    results.policy = begun->identity();
    results.settings = Json::object();
    results.machine = Json::object();
    write_results(dir / "results.json", results);
    resume_from(dir / "results.json", results);
    results.policy = next->identity();
    expect_error<UsageError>([&] { resume_from(dir / "results.json", results); }, "holds another run",
                             "noise_scale: ");
  }
}

TEST(CheckpointPolicy, DrawsAnotherNoiseForEachEpisodeAndCall) {
  const auto policy = checkpoint_policy(kTeacher, 7, {.steps = 1});
  std::set<RobotActions> answers;
  const auto expect_another = [&](const char* what, const std::function<void(PolicyCall&)>& change) {
    std::vector<PolicyCall> calls = calls_of_the_teacher();
    change(calls[0]);
    EXPECT_TRUE(answers.insert(policy->infer(calls)[0]).second) << what;
  };
  expect_another("first", [](PolicyCall&) {});
  expect_another("suite", [](PolicyCall& call) { call.episode.suite = "libero_goal"; });
  expect_another("task", [](PolicyCall& call) { call.episode.task = 1; });
  expect_another("trial", [](PolicyCall& call) { call.episode.trial = 1; });
  expect_another("call", [](PolicyCall& call) { call.call = 1; });
}

TEST(CheckpointPolicy, ContinuesAPrefix) {
  const auto policy = checkpoint_policy(kTeacher, 7, {});
  std::vector<PolicyCall> calls = calls_of_the_teacher();
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
  // A tokenizer from elsewhere is not of the folder, but counts as well.
  const Json own = fingerprint();
  const std::filesystem::path tokenizer = dir / "other.model";
  std::filesystem::copy(folder / "tokenizer.model", tokenizer);
  const auto with_tokenizer = [&] {
    return checkpoint_policy(folder.string(), 7, {.tokenizer = tokenizer})->identity().at("fingerprint");
  };
  const Json other = with_tokenizer();
  EXPECT_NE(other, own);
  EXPECT_EQ(with_tokenizer(), other);
  // Of a large tensor a part counts, which no training leaves as it was.
  const torch::Tensor large = torch::zeros({1 << 20});
  save_safetensors(file, {{"large", large}, {"small", torch::zeros({8})}});
  const std::string zeros = folder_fingerprint(folder);
  save_safetensors(file, {{"large", large + 1e-6}, {"small", torch::zeros({8})}});
  EXPECT_NE(folder_fingerprint(folder), zeros);
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
