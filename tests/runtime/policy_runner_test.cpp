#include "shallowpi/runtime/policy_runner.h"

#include <cmath>

#include "data/fake_episodes.h"
#include "parity_fixture.h"
#include "runtime/graph_engine.h"
#include "shallowpi/base/files.h"
#include "shallowpi/data/pipeline.h"

namespace shallowpi {
namespace {

using testing::expect_error;
using testing::expect_tensor_near;

const std::filesystem::path kTeacher = std::string(SHALLOWPI_SOURCE_DIR) + "/configs/quickstart/teacher";
constexpr std::int64_t kHorizon = 20, kDims = 8;

/// The quickstart's teacher, and its real demonstrations as a robot would send them.
class Runner : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    runner_ = new PolicyRunner(PolicyRunner::load(kTeacher, torch::kCPU, torch::kFloat32));
    const std::string folder = std::string(SHALLOWPI_SOURCE_DIR) + "/configs/quickstart/";
    dataset_ = new Dataset(open_dataset({{folder + "*.hdf5", 1.0}}, DataFormat::kAuto));
    pipeline_ = new SamplePipeline(*dataset_, runner_->info().spec, *runner_->info().stats,
                                   std::make_shared<const Tokenizer>(kTeacher / "tokenizer.model"),
                                   runner_->info().config.vocab);
  }
  static void TearDownTestSuite() {
    delete pipeline_;
    delete dataset_;
    delete runner_;
  }

  static InferRequest request(std::int32_t step, std::uint64_t seed = 1) {
    const auto generator = torch::make_generator<torch::CPUGeneratorImpl>(seed);
    return {robot_observation(*dataset_, {0, 0, step}, pipeline_->spec().image_keys),
            torch::randn({kHorizon, kDims}, generator)};
  }

  static PolicyRunner* runner_;
  static Dataset* dataset_;
  static SamplePipeline* pipeline_;
};
PolicyRunner* Runner::runner_;
Dataset* Runner::dataset_;
SamplePipeline* Runner::pipeline_;

TEST_F(Runner, EqualsThePolicyOnADatasetsBatch) {
  const TrainingBatch batch = pipeline_->make_batch({{0, 0, 3}, {0, 0, 40}});
  const std::vector<InferRequest> requests{request(3), request(40, 2)};
  const torch::Tensor noise = torch::stack({requests[0].noise_hd, requests[1].noise_hd});
  Policy policy = load_policy(runner_->info());
  const torch::Tensor expected = policy->sample_actions(batch.observation, noise, 5);
  const std::vector<InferResult> results = runner_->infer(requests, {.steps = 5});
  ASSERT_EQ(results.size(), 2u);
  for (int b = 0; b < 2; ++b) {
    expect_tensor_near(results[b].normalized_hd, expected[b], 1e-5);
    const RobotActions robot = pipeline_->to_robot(expected[b], requests[b].observation.state);
    ASSERT_EQ(results[b].actions.size(), static_cast<std::size_t>(kHorizon));
    for (int h = 0; h < kHorizon; ++h) {
      ASSERT_EQ(results[b].actions[h].size(), 7u);
      for (int d = 0; d < 7; ++d) EXPECT_NEAR(results[b].actions[h][d], robot[h][d], 1e-5);
    }
    EXPECT_GT(results[b].model_ms, 0);
  }
}

TEST_F(Runner, RunsWithoutACameraAndBatchesItWithFullObservations) {
  InferRequest full = request(3), masked = full;
  const std::string camera = runner_->info().spec.image_keys.at(1);
  ASSERT_EQ(masked.observation.images.erase(camera), 1u);
  const InferResult alone = runner_->infer({masked}, {.steps = 2})[0];
  const std::vector<InferResult> both = runner_->infer({full, masked, full}, {.steps = 2});
  expect_tensor_near(both[1].normalized_hd, alone.normalized_hd, 1e-5);
  expect_tensor_near(both[2].normalized_hd, both[0].normalized_hd, 1e-5);
  EXPECT_GT((both[0].normalized_hd - alone.normalized_hd).abs().max().item<double>(), 1e-4);
}

TEST_F(Runner, ChecksObservationsAsTheServerDoes) {
  const RobotObservation good = request(3).observation;
  EXPECT_NO_THROW(runner_->check(good));
  const auto refused = [&](const char* why, const std::function<void(RobotObservation&)>& spoil) {
    RobotObservation wrong = good;
    spoil(wrong);
    expect_error<UsageError>([&] { runner_->check(wrong); }, why);
  };
  refused("camera left_wrist_0_rgb is missing", [](auto& o) { o.images.erase("left_wrist_0_rgb"); });
  refused("no image", [](auto& o) { o.images.clear(); });
  refused("camera moon", [](auto& o) { o.images["moon"] = o.images.begin()->second; });
  refused("no RGB image", [](auto& o) { o.images.begin()->second.bytes.pop_back(); });
  refused("state has 7 values", [](auto& o) { o.state.pop_back(); });
  refused("state is not finite", [](auto& o) { o.state[2] = NAN; });
  refused("prompt is empty", [](auto& o) { o.prompt.clear(); });
}

TEST_F(Runner, OneGraphServesEveryStateInThePrompt) {
  CheckpointInfo info = runner_->info();
  info.spec.prompt_mode = PromptMode::kPi05State;
  info.spec.max_token_len = 200;
  const auto made = [&](std::unique_ptr<Engine> engine) {
    return PolicyRunner(info,
                        std::make_unique<const PolicyTransform>(
                            info.spec, *info.stats,
                            std::make_shared<const Tokenizer>(testing::small_tokenizer()), info.config.vocab),
                        std::move(engine));
  };
  int recordings = 0;
  const auto repeating = [&](const std::function<void()>& work) {
    ++recordings;
    work();
    return work;
  };
  PolicyRunner graph = made(std::make_unique<GraphEngine>(load_policy(info), torch::kCPU, repeating));
  PolicyRunner eager = made(make_engine(load_policy(info), torch::kCPU, EngineKind::kEager));
  // One digit per dim and three, and a prompt with which these end in other buckets.
  InferRequest low = request(3), high = low;
  const FeatureStats& stats = info.stats->state;
  for (std::size_t dim = 0; dim < low.observation.state.size(); ++dim) {
    low.observation.state[dim] = static_cast<float>(stats.q01[dim]);
    high.observation.state[dim] = static_cast<float>(stats.q99[dim]);
  }
  const auto bucket = [&](const InferRequest& one) {
    return (graph.transform().prepare({&one.observation}).tokens_bt.size(1) + 31) / 32;
  };
  for (int words = 0; bucket(low) == bucket(high); ++words) {
    ASSERT_LT(words, 32);
    low.observation.prompt += " a";
    high.observation.prompt += " a";
  }
  for (const InferRequest& one : {low, high})
    expect_tensor_near(graph.infer({one}, {.steps = 2})[0].normalized_hd,
                       eager.infer({one}, {.steps = 2})[0].normalized_hd, 1e-4);
  EXPECT_EQ(recordings, 1);
}

TEST_F(Runner, MakesARequestOfAnObservation) {
  const RobotObservation seen = robot_observation(*dataset_, {0, 0, 3}, pipeline_->spec().image_keys);
  const InferRequest free = runner_->request(seen, {}, 5);
  EXPECT_EQ(free.observation.state, seen.state);
  EXPECT_EQ(free.observation.images.size(), seen.images.size());
  EXPECT_TRUE(torch::equal(free.noise_hd, runner_->noise(5)));
  EXPECT_TRUE(free.prefix_actions.empty());
  const RobotActions prefix(4, std::vector<float>(7, 0.25f));
  EXPECT_EQ(runner_->request(seen, prefix, 5).prefix_actions, prefix);
}

TEST_F(Runner, ContinuesGivenActions) {
  InferRequest next = request(3);
  const RobotActions chunk = runner_->infer({request(3, 2)})[0].actions;
  next.prefix_actions.assign(chunk.begin(), chunk.begin() + 4);
  const std::vector<InferResult> results = runner_->infer({next, request(3)});
  EXPECT_TRUE(torch::equal(results[0].normalized_hd.narrow(0, 0, 4),
                           runner_->transform().from_robot(next.prefix_actions, next.observation.state)));
  expect_tensor_near(results[1].normalized_hd, runner_->infer({request(3)})[0].normalized_hd, 1e-5);
  next.prefix_actions = chunk;
  expect_error<UsageError>([&] { runner_->infer({next}); }, "prefix_actions", "20 actions");
  next.prefix_actions = {std::vector<float>(6)};
  expect_error<UsageError>([&] { runner_->infer({next}); }, "the action has 6 values", "7");
  next.prefix_actions = {std::vector<float>(7, NAN)};
  expect_error<UsageError>([&] { runner_->infer({next}); }, "prefix_actions is not finite");
}

TEST_F(Runner, NamesTheFieldThatDoesNotFit) {
  const auto refused = [](const std::function<void(InferRequest&)>& change, const auto&... parts) {
    InferRequest broken = request(3);
    change(broken);
    expect_error<UsageError>([&] { runner_->infer({broken}); }, parts...);
  };
  refused([](InferRequest& r) { r.observation.state.pop_back(); }, "state has 7 values", "has 8");
  refused([](InferRequest& r) { r.observation.state[2] = INFINITY; }, "state is not finite", "value 2");
  refused([](InferRequest& r) { r.observation.prompt.clear(); }, "prompt");
  refused([](InferRequest& r) { r.observation.images.clear(); }, "no image", "base_0_rgb");
  refused([](InferRequest& r) { r.observation.images["front"] = r.observation.images.begin()->second; },
          "camera front");
  refused([](InferRequest& r) { r.observation.images.begin()->second.bytes.pop_back(); }, "base_0_rgb",
          "no RGB image");
  refused([](InferRequest& r) { r.noise_hd = torch::zeros({3, 32}); }, "noise", "[3, 32]", "[20, 8]");
  refused([](InferRequest& r) { r.noise_hd = torch::Tensor(); }, "noise is missing");
  refused([](InferRequest& r) { r.noise_hd[0][0] = NAN; }, "noise is not finite");
  expect_error<UsageError>([] { runner_->infer({}); }, "at least one observation");
  EXPECT_NO_THROW(runner_->infer({request(3)}, {.steps = 1}));
}

TEST(PolicyRunner, WithholdsActionsThatAreNotFinite) {
  PolicyRunner runner = PolicyRunner::load(kTeacher, torch::kCPU, torch::kFloat32);
  Policy policy = load_policy(runner.info());
  testing::TempDir dir;
  publish_folder(dir / "broken", [&](const std::filesystem::path& folder) {
    CheckpointContents contents;
    contents.config = runner.info().config;
    contents.spec = runner.info().spec;
    contents.stats = runner.info().stats;
    contents.stats->actions.q99[0] = 1e300;  // no float in robot units
    contents.tokenizer = read_file(kTeacher / "tokenizer.model");
    write_checkpoint_files(folder, contents, policy->named_tensors(), torch::kFloat32);
  });
  PolicyRunner broken = PolicyRunner::load(dir / "broken", torch::kCPU, torch::kFloat32);
  InferRequest request{{{}, std::vector<float>(8, 0.0f), "pick up the butter"},
                       torch::zeros({kHorizon, kDims})};
  request.observation.images["base_0_rgb"] = {2, 2, std::vector<std::uint8_t>(12)};
  expect_error<NotFiniteError>([&] { broken.infer({request}); }, "not finite");
}

TEST(PolicyRunner, RefusesADamagedCheckpoint) {
  testing::TempDir dir;
  std::filesystem::copy(kTeacher, dir / "policy", std::filesystem::copy_options::recursive);
  const auto load = [&] { PolicyRunner::load(dir / "policy", torch::kCPU, torch::kFloat32); };
  EXPECT_NO_THROW(load());
  testing::write_text(dir / "policy/training_state/state.json", "not listed, and of no use to a policy");
  EXPECT_NO_THROW(load());
  std::string weights = read_file(dir / "policy/model.safetensors");
  weights[weights.size() / 2] ^= 1;
  testing::write_text(dir / "policy/model.safetensors", weights);
  expect_error<CorruptError>(load, "model.safetensors", "its SHA-256 is not the one in manifest.json");
}

TEST(PolicyRunner, WarnsOfWhatItAssumes) {
  testing::TempDir dir;
  testing::write_parity_openpi(dir / "policy", "pi05");
  testing::write_text(dir / "policy/assets/ur5e/norm_stats.json",
                      norm_stats_json(testing::identity_stats(8, 8)));
  ::testing::internal::CaptureStderr();
  expect_error<UsageError>(  // which comes after it
      [&] {
        PolicyRunner::load(dir / "policy", torch::kCPU, torch::kFloat32, 10,
                           testing::small_tokenizer().string());
      },
      "embedding only 256 rows");
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("assets of ur5e: the robot is not known"), std::string::npos) << log;
}

TEST_F(Runner, SaysWhereAPromptWouldLoseTheState) {
  RobotObservation observation = request(3).observation;
  PolicySpec spec = runner_->info().spec;
  spec.prompt_mode = PromptMode::kPi05State;
  spec.max_token_len = 64;
  const PolicyTransform with_state(spec, *runner_->info().stats,
                                   std::make_shared<const Tokenizer>(kTeacher / "tokenizer.model"),
                                   runner_->info().config.vocab);
  EXPECT_NO_THROW(with_state.check_prompt(observation));
  for (int i = 0; i < 40; ++i) observation.prompt += " and the butter";
  expect_error<UsageError>([&] { with_state.check_prompt(observation); }, "prompt: ", " tokens, at most 64");
  EXPECT_NO_THROW(runner_->transform().check_prompt(observation)) << "pi0's prompt has no state";
}

TEST(PolicyRunner, SaysWhatACheckpointLacks) {
  testing::TempDir dir;
  testing::write_parity_openpi(dir / "teacher", "pi05");
  const auto load = [&](std::optional<std::int64_t> horizon) {
    PolicyRunner::load(dir / "teacher", torch::kCPU, torch::kFloat32, horizon);
  };
  expect_error<UsageError>([&] { load({}); }, "--horizon");
  expect_error<UsageError>([&] { load(10); }, "no normalisation statistics", "norm_stats.json");
}

}  // namespace
}  // namespace shallowpi
