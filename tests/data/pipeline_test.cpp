#include "shallowpi/data/pipeline.h"

#include <cmath>

#include "data/fake_episodes.h"
#include "shallowpi/data/stats.h"
#include "test_util.h"

namespace shallowpi::testing {
namespace {

std::shared_ptr<const Tokenizer> tokenizer() {
  static const auto shared = std::make_shared<const Tokenizer>(small_tokenizer());
  return shared;
}

constexpr std::int64_t kVocab = 512;

// [3, side, side] of one grey value.
torch::Tensor grey(std::uint8_t value) {
  return torch::full({3, FakeEpisodes::kSide, FakeEpisodes::kSide}, value / 255.0 * 2.0 - 1.0);
}

TEST(SamplePipeline, FillsStateAndActions) {
  const Dataset dataset = fake_dataset();
  const SamplePipeline pipeline(dataset, fake_spec(), identity_stats(), tokenizer(), kVocab);
  const TrainingBatch batch = pipeline.make_batch({{0, 1, 2}, {0, 0, 3}});
  ASSERT_EQ(batch.actions_bhd.sizes(), (std::vector<std::int64_t>{2, 3, 32}));
  ASSERT_EQ(batch.observation.state_bd.sizes(), (std::vector<std::int64_t>{2, 32}));
  torch::Tensor state = torch::zeros({2, 32}), actions = torch::zeros({2, 3, 32});
  const std::pair<int, int> samples[] = {{1, 2}, {0, 3}};
  const int lengths[] = {5, 7};
  for (int b = 0; b < 2; ++b) {
    const auto [episode, step] = samples[b];
    for (int d = 0; d < 3; ++d) state[b][d] = FakeEpisodes::state_value(episode, step, d);
    for (int h = 0; h < 3; ++h)  // episode 0 ends at step 4, so its last action repeats
      for (int d = 0; d < 2; ++d)
        actions[b][h][d] = FakeEpisodes::action_value(episode, std::min(step + h, lengths[episode] - 1), d);
  }
  expect_tensor_near(batch.observation.state_bd, state, 1e-6);
  expect_tensor_near(batch.actions_bhd, actions, 1e-6);
}

TEST(SamplePipeline, PadsToThePolicysWidth) {
  const Dataset dataset = fake_dataset();
  PolicySpec spec = fake_spec();
  spec.action_width = 3;
  const SamplePipeline pipeline(dataset, spec, identity_stats(), tokenizer(), kVocab);
  const TrainingBatch batch = pipeline.make_batch({{0, 1, 2}});
  EXPECT_EQ(batch.observation.state_bd.sizes(), (std::vector<std::int64_t>{1, 3}));
  ASSERT_EQ(batch.actions_bhd.sizes(), (std::vector<std::int64_t>{1, 3, 3}));
  EXPECT_NEAR(batch.actions_bhd[0][0][1].item<double>(), FakeEpisodes::action_value(1, 2, 1), 1e-6);
  EXPECT_EQ(batch.actions_bhd[0][0][2].item<double>(), 0.0);
  spec.action_width = 2;
  for (const PromptMode mode : {PromptMode::kPi0Plain, PromptMode::kPi05StatePadded32}) {
    spec.prompt_mode = mode;
    expect_error<UsageError>([&] { SamplePipeline(dataset, spec, identity_stats(), tokenizer(), kVocab); },
                             "robot.state_dim is 3, expected 1 to 2");
  }
}

TEST(PolicyTransform, AWideStateIsWholeOnlyInThePrompt) {
  PolicySpec spec = fake_spec();
  spec.image_keys = {"base_0_rgb"};
  spec.robot.state_dim = 43;
  spec.prompt_mode = PromptMode::kPi05State;
  spec.max_token_len = 400;
  const PolicyTransform transform(spec, identity_stats(43), tokenizer(), kVocab);
  RobotObservation observation;
  observation.images["base_0_rgb"] = {4, 4, std::vector<std::uint8_t>(48)};
  for (int dim = 0; dim < 43; ++dim) observation.state.push_back(static_cast<float>(dim) / 128.0f);
  observation.prompt = "open the drawer";
  const Observation prepared = transform.prepare({&observation, &observation});
  ASSERT_EQ(prepared.state_bd.sizes(), (std::vector<std::int64_t>{2, 32}));
  for (int b = 0; b < 2; ++b) expect_tensor_near(prepared.state_bd[b], torch::arange(32) / 128.0, 1e-6);
  std::vector<std::int64_t> bins;
  for (int dim = 0; dim < 43; ++dim) bins.push_back(128 + dim);
  std::vector<std::int64_t> expected =
      tokenizer()->encode(str("Task: open the drawer, State: ", join(bins, " "), ";\nAction: "));
  expected.insert(expected.begin(), 2);
  ASSERT_LE(expected.size(), static_cast<std::size_t>(spec.max_token_len));
  EXPECT_TRUE(prepared.tokens_bt[1].equal(torch::tensor(expected)));
  spec.robot.state_dim = kMaxTextStateDim + 1;
  expect_error<UsageError>([&] { PolicyTransform(spec, identity_stats(1025), tokenizer(), kVocab); },
                           "robot.state_dim is 1025, expected 1 to 1024");
}

TEST(SamplePipeline, NormalisesBeforePadding) {
  const Dataset dataset = fake_dataset();
  PolicySpec spec = fake_spec();
  spec.norm_mode = NormMode::kZScore;
  NormStats stats = identity_stats();
  stats.state.mean = {5.0, 6.0, 7.0};
  stats.actions.std = {2.0, 4.0};
  const TrainingBatch batch =
      SamplePipeline(dataset, spec, stats, tokenizer(), kVocab).make_batch({{0, 1, 0}});
  torch::Tensor state = torch::zeros({1, 32});
  for (int d = 0; d < 3; ++d) state[0][d] = (FakeEpisodes::state_value(1, 0, d) - (5.0 + d)) / (1.0 + 1e-6);
  expect_tensor_near(batch.observation.state_bd, state, 1e-6);
  EXPECT_NEAR(batch.actions_bhd[0][0][0].item<double>(), -0.5, 1e-6);
  EXPECT_EQ(batch.actions_bhd.slice(2, 2).abs().max().item<double>(), 0.0);
}

TEST(SamplePipeline, SubtractsTheStateFromDeltaDimsAndAddsItBack) {
  const Dataset dataset = fake_dataset();
  PolicySpec spec = fake_spec();
  spec.robot.delta_mask = {true, false};
  const SamplePipeline pipeline(dataset, spec, identity_stats(), tokenizer(), kVocab);
  const TrainingBatch batch = pipeline.make_batch({{0, 1, 2}});
  EXPECT_NEAR(batch.actions_bhd[0][1][0].item<double>(),
              FakeEpisodes::action_value(1, 3, 0) - FakeEpisodes::state_value(1, 2, 0), 1e-6);
  EXPECT_NEAR(batch.actions_bhd[0][1][1].item<double>(), FakeEpisodes::action_value(1, 3, 1), 1e-6);
  const auto robot = pipeline.to_robot(batch.actions_bhd[0], dataset.sources()[0].file->states(1)[2]);
  ASSERT_EQ(robot.size(), 3u);
  for (int h = 0; h < 3; ++h) {
    ASSERT_EQ(robot[h].size(), 2u);
    for (int d = 0; d < 2; ++d) EXPECT_NEAR(robot[h][d], FakeEpisodes::action_value(1, 2 + h, d), 1e-6);
  }
  expect_error<UsageError>([&] { pipeline.to_robot(torch::zeros({3, 1}), {0, 0, 0}); }, "[3, 1]");

  // With noise on the state, the chunk leads from the noisy state to the same actions.
  const TrainingBatch noisy =
      pipeline.make_batch({{0, 1, 2}}, Augmentation{.seed = 1, .images = false, .state_noise = {0.5, 0, 0}});
  const float seen = noisy.observation.state_bd[0][0].item<float>();  // identity_stats: as it is
  EXPECT_GT(std::abs(seen - batch.observation.state_bd[0][0].item<float>()), 1e-3);
  EXPECT_NEAR(pipeline.to_robot(noisy.actions_bhd[0], {seen, 0, 0})[1][0],
              FakeEpisodes::action_value(1, 3, 0), 1e-5);
}

TEST(SamplePipeline, FillsTheCamerasThatExistInTheSpecsOrder) {
  const Dataset dataset = fake_dataset();
  PolicySpec spec = fake_spec();
  spec.image_keys = {"left_wrist_0_rgb", "right_wrist_0_rgb", "base_0_rgb"};
  const SamplePipeline pipeline(dataset, spec, identity_stats(), tokenizer(), kVocab);
  EXPECT_EQ(pipeline.spec().image_keys, (std::vector<std::string>{"left_wrist_0_rgb", "base_0_rgb"}));
  const Observation observation = pipeline.make_batch({{0, 1, 2}, {0, 0, 3}}).observation;
  ASSERT_EQ(observation.images_bcyx.size(), 2u);
  ASSERT_EQ(observation.image_masks_b.size(), 2u);
  for (int camera = 0; camera < 2; ++camera) {
    const int file_camera = 1 - camera;
    EXPECT_TRUE(observation.image_masks_b[camera].all().item<bool>());
    expect_tensor_near(observation.images_bcyx[camera][0], grey(FakeEpisodes::pixel(1, 2, file_camera)),
                       1e-6);
    expect_tensor_near(observation.images_bcyx[camera][1], grey(FakeEpisodes::pixel(0, 3, file_camera)),
                       1e-6);
  }
}

TEST(SamplePipeline, RefusesACameraThatOnlySomeFilesHave) {
  const Dataset dataset = fake_dataset(
      {{}, {.name = "one.hdf5", .cameras = {"base_0_rgb"}}, {.name = "two.hdf5", .cameras = {"base_0_rgb"}}});
  PolicySpec spec = fake_spec();
  spec.image_keys = {"base_0_rgb", "left_wrist_0_rgb"};
  expect_error<UsageError>([&] { SamplePipeline(dataset, spec, identity_stats(), tokenizer(), kVocab); },
                           "left_wrist_0_rgb is missing in 2 of 3 files", "one.hdf5");
  spec.image_keys = {"base_0_rgb", "right_wrist_0_rgb"};  // no file has it
  EXPECT_EQ(SamplePipeline(dataset, spec, identity_stats(), tokenizer(), kVocab).spec().image_keys,
            std::vector<std::string>{"base_0_rgb"});
}

TEST(SamplePipeline, TakesAllCamerasWhereTheSpecNamesNone) {
  const Dataset dataset = fake_dataset({{}, {.cameras = {"left_wrist_0_rgb", "base_0_rgb"}}});
  const SamplePipeline pipeline(dataset, fake_spec(), identity_stats(), tokenizer(), kVocab);
  EXPECT_EQ(pipeline.spec().image_keys, (std::vector<std::string>{"base_0_rgb", "left_wrist_0_rgb"}));
  // The second file lists them the other way round.
  const Observation observation = pipeline.make_batch({{1, 0, 1}}).observation;
  expect_tensor_near(observation.images_bcyx[0][0], grey(FakeEpisodes::pixel(0, 1, 1)), 1e-6);
}

TEST(SamplePipeline, TakesAlohasLowCameraOnlyWhereItIsNamed) {
  const Dataset dataset = fake_dataset({{.cameras = {"base_0_rgb", "cam_low"}}});
  const auto cameras = [&](PolicySpec spec) {
    return SamplePipeline(dataset, std::move(spec), identity_stats(), tokenizer(), kVocab).spec().image_keys;
  };
  PolicySpec spec = fake_spec();
  spec.image_keys.clear();
  EXPECT_EQ(cameras(spec), std::vector<std::string>{"base_0_rgb"});
  spec.image_keys = {"base_0_rgb", "cam_low"};
  EXPECT_EQ(cameras(spec), spec.image_keys);
}

TEST(SamplePipeline, AugmentsBySeedAndPosition) {
  const Dataset dataset = fake_dataset();
  const SamplePipeline pipeline(dataset, fake_spec(), identity_stats(), tokenizer(), kVocab);
  const auto image = [&](std::uint64_t seed) {
    return pipeline.make_batch({{0, 1, 2}, {0, 1, 2}}, Augmentation{.seed = seed, .state_noise = {}})
        .observation.images_bcyx[0];
  };
  const torch::Tensor first = image(1);
  EXPECT_TRUE(first.equal(image(1)));
  EXPECT_FALSE(first.equal(image(2)));
  EXPECT_FALSE(first[0].equal(first[1]));
  EXPECT_FALSE(first[0].equal(pipeline.make_batch({{0, 1, 2}}).observation.images_bcyx[0][0]));
}

TEST(SamplePipeline, CropsAndRotatesNoWristCamera) {
  const Dataset dataset = fake_dataset();
  const SamplePipeline pipeline(dataset, fake_spec(), identity_stats(), tokenizer(), kVocab);
  const auto spread = [](const torch::Tensor& image) { return (image.max() - image.min()).item<double>(); };
  double base = 0;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const auto images = pipeline.make_batch({{0, 1, 2}}, Augmentation{.seed = seed, .state_noise = {}})
                            .observation.images_bcyx;
    base = std::max(base, spread(images[0]));
    EXPECT_LT(spread(images[1]), 1e-5) << "not of one grey any more with seed " << seed;
  }
  EXPECT_GT(base, 0.01) << "no dark corners";
}

TEST(SamplePipeline, AddsNoiseToTheStateBySeedAndPosition) {
  const Dataset dataset = fake_dataset();
  const SamplePipeline pipeline(dataset, fake_spec(), identity_stats(), tokenizer(), kVocab);
  const std::vector<Dataset::Sample> samples(400, {0, 1, 2});
  const TrainingBatch plain = pipeline.make_batch(samples);
  const auto noisy = [&](std::uint64_t seed) {
    Augmentation augmentation{.seed = seed, .images = false, .state_noise = {}};
    augmentation.state_noise.assign(fake_spec().robot.state_dim, 0.0);
    augmentation.state_noise[1] = 0.25;
    return pipeline.make_batch(samples, augmentation);
  };
  const TrainingBatch first = noisy(1);
  EXPECT_TRUE(first.observation.state_bd.equal(noisy(1).observation.state_bd));
  EXPECT_FALSE(first.observation.state_bd.equal(noisy(2).observation.state_bd));
  const torch::Tensor added_bd = first.observation.state_bd - plain.observation.state_bd;
  EXPECT_NEAR(added_bd.select(1, 1).std().item<double>(), 0.25, 0.03);
  EXPECT_NEAR(added_bd.select(1, 1).mean().item<double>(), 0.0, 0.05);
  EXPECT_EQ(added_bd.select(1, 0).abs().max().item<double>(), 0.0);
  EXPECT_TRUE(first.actions_bhd.equal(plain.actions_bhd));
  EXPECT_TRUE(first.observation.images_bcyx[0].equal(plain.observation.images_bcyx[0]));
}

TEST(SamplePipeline, PadsPromptsToTheLongest) {
  const Dataset dataset =
      fake_dataset({{.prompt = "pick up the milk"}, {.prompt = "open the top drawer of the cabinet"}});
  const SamplePipeline pipeline(dataset, fake_spec(), identity_stats(), tokenizer(), kVocab);
  const Observation observation = pipeline.make_batch({{0, 0, 0}, {1, 0, 0}}).observation;
  const auto shorter = encode_prompt(*tokenizer(), fake_spec(), "pick up the milk", {});
  const auto longer = encode_prompt(*tokenizer(), fake_spec(), "open the top drawer of the cabinet", {});
  ASSERT_LT(shorter.size(), longer.size());
  ASSERT_EQ(observation.tokens_bt.size(1), static_cast<std::int64_t>(longer.size()));
  for (std::size_t t = 0; t < longer.size(); ++t) {
    EXPECT_EQ(observation.tokens_bt[0][t].item<std::int64_t>(), t < shorter.size() ? shorter[t] : 0);
    EXPECT_EQ(observation.token_mask_bt[0][t].item<bool>(), t < shorter.size());
    EXPECT_EQ(observation.tokens_bt[1][t].item<std::int64_t>(), longer[t]);
    EXPECT_TRUE(observation.token_mask_bt[1][t].item<bool>());
  }
}

TEST(SamplePipeline, CutsPromptsOnTheRight) {
  const Dataset dataset = fake_dataset();
  PolicySpec spec = fake_spec();
  std::vector<std::int64_t> ids = encode_prompt(*tokenizer(), spec, "pick up the milk", {});
  const auto tokens = [&] {
    spec.max_token_len = std::ssize(ids);
    const SamplePipeline pipeline(dataset, spec, identity_stats(), tokenizer(), kVocab);
    return pipeline.make_batch({{0, 0, 0}}).observation.tokens_bt[0];
  };
  EXPECT_TRUE(tokens().equal(torch::tensor(ids)));
  ids.pop_back();
  EXPECT_TRUE(tokens().equal(torch::tensor(ids)));
}

TEST(PolicyTransform, KnowsHowLongAPromptCanBecome) {
  PolicySpec spec = fake_spec();
  spec.image_keys = {"base_0_rgb"};
  spec.prompt_mode = PromptMode::kPi05State;
  RobotObservation observation;
  observation.images["base_0_rgb"] = {4, 4, std::vector<std::uint8_t>(48)};
  observation.prompt = "open the drawer";
  const auto tokens = [&](float value, std::int64_t& longest) {
    const PolicyTransform transform(spec, identity_stats(), tokenizer(), kVocab);
    observation.state.assign(3, value);
    longest = transform.longest_prompt(observation);
    return transform.prepare({&observation}).tokens_bt.size(1);
  };
  std::int64_t longest = 0;
  const std::int64_t most = tokens(0.9f, longest), least = tokens(-1, longest);
  EXPECT_EQ(most, longest);
  EXPECT_LT(least, most) << "a state of one digit";
  EXPECT_LE(tokens(-7, longest), longest);
  spec.max_token_len = 10;
  EXPECT_EQ(tokens(0, longest), longest);
  EXPECT_EQ(longest, 10);
  spec.prompt_mode = PromptMode::kPi05NoState;
  EXPECT_EQ(tokens(0, longest), longest);
}

TEST(SamplePipeline, WritesTheNormalisedStateIntoThePrompt) {
  const Dataset dataset = fake_dataset();
  PolicySpec spec = fake_spec();
  spec.prompt_mode = PromptMode::kPi05State;
  const auto tokens = [&] {
    const SamplePipeline pipeline(dataset, spec, identity_stats(), tokenizer(), kVocab);
    return pipeline.make_batch({{0, 0, 4}}).observation.tokens_bt[0];
  };
  // (0 + 4/128, + 1/8192, + 2/8192): all in bin 128 + 4.
  std::vector<std::int64_t> expected =
      tokenizer()->encode("Task: pick up the milk, State: 132 132 132;\nAction: ");
  expected.insert(expected.begin(), 2);
  EXPECT_TRUE(tokens().equal(torch::tensor(expected)));
  expected.resize(expected.size() - 5);  // in training it is cut, too
  spec.max_token_len = std::ssize(expected);
  EXPECT_TRUE(tokens().equal(torch::tensor(expected)));
}

TEST(SamplePipeline, WarnsOfStatisticsOfOtherData) {
  const Dataset dataset = fake_dataset();
  const auto warning = [&](const NormStats& stats) {
    ::testing::internal::CaptureStderr();
    const SamplePipeline pipeline(dataset, fake_spec(), stats, tokenizer(), kVocab);
    return ::testing::internal::GetCapturedStderr();
  };
  NormStats stats = identity_stats();
  EXPECT_EQ(warning(stats).find("far from the usual"), std::string::npos);
  stats.state.mean[1] = 10;
  stats.state.q01[1] = 9;
  stats.state.q99[1] = 11;
  const std::string text = warning(stats);
  EXPECT_NE(text.find("state dim 1 lies at -10.0 to -9."), std::string::npos) << text;
  EXPECT_EQ(text.find("dim 0"), std::string::npos) << text;
  EXPECT_EQ(text.find("action dim"), std::string::npos) << text;
}

TEST(SamplePipeline, UsesTheDefaultPromptWhereTheDataHasNone) {
  const Dataset dataset = fake_dataset({{.prompt = ""}});
  PolicySpec spec = fake_spec();
  expect_error<UsageError>([&] { SamplePipeline(dataset, spec, identity_stats(), tokenizer(), kVocab); },
                           "fake.hdf5", "demo_0", "default_prompt");
  spec.default_prompt = "open the drawer";
  const SamplePipeline pipeline(dataset, spec, identity_stats(), tokenizer(), kVocab);
  EXPECT_TRUE(pipeline.make_batch({{0, 0, 0}})
                  .observation.tokens_bt[0]
                  .equal(torch::tensor(encode_prompt(*tokenizer(), spec, "open the drawer", {}))));
}

TEST(SamplePipeline, ReadsThePromptOfEachStep) {
  const Dataset dataset = fake_dataset({{.lengths = {2}, .step_prompts = {"open it", "close it"}}});
  EXPECT_NO_THROW(SamplePipeline(dataset, fake_spec(), identity_stats(), tokenizer(), kVocab));
  EXPECT_EQ(robot_observation(dataset, {0, 0, 0}, {}).prompt, "open it");
  EXPECT_EQ(robot_observation(dataset, {0, 0, 1}, {}).prompt, "close it");
  const Dataset partly = fake_dataset({{.lengths = {2}, .step_prompts = {"open it", ""}}});
  expect_error<UsageError>(
      [&] { SamplePipeline(partly, fake_spec(), identity_stats(), tokenizer(), kVocab); },
      "demo_0 has steps that have no instruction", "default_prompt");
}

TEST(SamplePipeline, CutsStatisticsOfOldPaddedFiles) {
  const Dataset dataset = fake_dataset();
  NormStats stats = identity_stats();
  for (FeatureStats* feature : {&stats.state, &stats.actions})
    for (auto* values : {&feature->mean, &feature->std, &feature->q01, &feature->q99})
      values->resize(32, 0.0);
  const SamplePipeline pipeline(dataset, fake_spec(), stats, tokenizer(), kVocab);
  EXPECT_EQ(pipeline.stats().state.q99.size(), 3u);
  EXPECT_EQ(pipeline.stats().actions.mean.size(), 2u);
}

TEST(SamplePipeline, RefusesWhatDoesNotFitTogether) {
  const Dataset dataset = fake_dataset();
  const auto build = [&](const std::function<void(PolicySpec&, NormStats&)>& change,
                         std::int64_t vocab = kVocab) {
    PolicySpec spec = fake_spec();
    NormStats stats = identity_stats();
    change(spec, stats);
    SamplePipeline(dataset, spec, stats, tokenizer(), vocab);
  };
  EXPECT_NO_THROW(build([](auto&, auto&) {}));
  expect_error<UsageError>([&] { build([](auto&, auto&) {}, 511); }, "512 pieces", "511 rows");
  expect_error<UsageError>([&] { build([](auto& spec, auto&) { spec.horizon = 0; }); }, "horizon");
  expect_error<UsageError>([&] { build([](auto& spec, auto&) { spec.image_size = 0; }); }, "image_size");
  expect_error<UsageError>([&] { build([](auto& spec, auto&) { spec.max_token_len = 0; }); },
                           "max_token_len");
  expect_error<UsageError>([&] { build([](auto& spec, auto&) { spec.robot.state_dim = 8; }); },
                           "8 state dims", "the data has 3");
  expect_error<UsageError>([&] { build([](auto& spec, auto&) { spec.robot.action_dim = 7; }); },
                           "7 action dims");
  expect_error<UsageError>(
      [&] { build([](auto& spec, auto&) {
              spec.robot.delta_mask = {false, false, true};
            }); }, "delta_mask",
      "dim 2");
  expect_error<UsageError>([&] { build([](auto&, auto& stats) { stats.state.q01.pop_back(); }); }, "state",
                           "2 dims");
  expect_error<UsageError>([&] { build([](auto&, auto& stats) { stats.actions.q99[1] = -1.0; }); }, "actions",
                           "dim 1");
  expect_error<UsageError>([&] { build([](auto&, auto& stats) { stats.actions = {}; }); }, "actions", "lack");
  expect_error<UsageError>([&] { build([](auto& spec, auto&) { spec.image_keys = {"front"}; }); }, "front",
                           "base_0_rgb, left_wrist_0_rgb");
  const Dataset wide = fake_dataset({{.action_dim = 33}});
  PolicySpec spec = fake_spec();
  spec.robot.action_dim = 33;
  expect_error<UsageError>([&] { SamplePipeline(wide, spec, identity_stats(3, 33), tokenizer(), kVocab); },
                           "robot.action_dim is 33, expected 1 to 32");
}

TEST(SamplePipeline, TakesAPolicysConstantDimWhereTheDataKeepsItToo) {
  const Dataset constant = fake_dataset({{.lengths = {1}}}), moving = fake_dataset();
  NormStats stats = identity_stats();
  stats.state.q01[0] = stats.state.q99[0] = stats.state.std[0] = 0;
  const auto build = [&](const Dataset& dataset, StatsOrigin origin) {
    SamplePipeline(dataset, fake_spec(), stats, tokenizer(), kVocab, origin);
  };
  expect_error<UsageError>([&] { build(constant, StatsOrigin::kData); }, "state: dim 0 has no range");
  EXPECT_NO_THROW(build(constant, StatsOrigin::kPolicy));
  expect_error<UsageError>([&] { build(moving, StatsOrigin::kPolicy); }, "fake.hdf5: demo_0 step 1",
                           "state dim 0", "never changes");
}

TEST(SamplePipeline, RefusesAnEmptyBatch) {
  const Dataset dataset = fake_dataset();
  const SamplePipeline pipeline(dataset, fake_spec(), identity_stats(), tokenizer(), kVocab);
  expect_error<UsageError>([&] { pipeline.make_batch({}); }, "at least one sample");
}

// From a real LIBERO file to a batch, and the statistics of it.
TEST(SamplePipeline, RealDemonstrations) {
  const std::string folder = std::string(SHALLOWPI_SOURCE_DIR) + "/configs/quickstart/";
  const Dataset dataset = open_dataset({{folder + "*.hdf5", 1.0}}, DataFormat::kAuto);
  PolicySpec spec;
  spec.horizon = 10;
  spec.image_size = 56;
  spec.image_keys = {"base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"};
  const Dataset::Split split = dataset.split(0.2, 42);
  ASSERT_FALSE(split.held_out.empty());
  const NormStats stats = compute_norm_stats(dataset, split.train, spec, 0.01);
  const SamplePipeline pipeline(dataset, spec, stats, tokenizer(), kVocab);
  const TrainingBatch batch =
      pipeline.make_batch({split.train.front(), split.train.back(), split.held_out.front()});
  ASSERT_EQ(batch.observation.images_bcyx.size(), 2u);
  for (const torch::Tensor& image : batch.observation.images_bcyx) {
    EXPECT_EQ(image.sizes(), (std::vector<std::int64_t>{3, 3, 56, 56}));
    EXPECT_GE(image.min().item<double>(), -1.0);
    EXPECT_LE(image.max().item<double>(), 1.0);
    EXPECT_GT(image.std().item<double>(), 0.05);
  }
  const torch::Tensor real = batch.actions_bhd.slice(2, 0, 7);
  EXPECT_TRUE(batch.actions_bhd.isfinite().all().item<bool>());
  EXPECT_GT(real.abs().max().item<double>(), 0.1);
  EXPECT_LT(real.abs().max().item<double>(), 20.0);
  EXPECT_EQ(batch.actions_bhd.slice(2, 7).abs().max().item<double>(), 0.0);
  const Dataset::Sample& first = split.train.front();
  const EpisodeFile& file = dataset.file(first);
  const auto actions = pipeline.to_robot(batch.actions_bhd[0], file.states(first.episode)[first.step]);
  for (int d = 0; d < 7; ++d)
    EXPECT_NEAR(actions[9][d], file.actions(first.episode)[first.step + 9][d], 1e-5) << "dim " << d;
}

}  // namespace
}  // namespace shallowpi::testing
