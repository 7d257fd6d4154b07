#include "shallowpi/eval/layers.h"

#include "data/fake_episodes.h"
#include "eval/frames.h"
#include "eval/open_gates.h"
#include "shallowpi/base/json.h"
#include "shallowpi/model/checkpoint.h"
#include "test_util.h"

namespace shallowpi {
namespace {

using testing::expect_error;
using testing::FakeEpisodes;
using testing::TempDir;

constexpr std::int64_t kDepth = 4;

PolicyConfig small_config(PolicyKind kind) {
  PolicyConfig config;
  config.kind = kind;
  config.vision = {1, 16, 16, 4, 2, FakeEpisodes::kSide};
  config.backbone = {kDepth, 16, 32, 2, 1, 8};
  config.expert = {kDepth, 16, 32, 2, 1, 8};
  config.vocab = 512;
  return config;
}

/// Cosine similarity of every pair of states as its definition says, token by token.
torch::Tensor plain_similarity(const std::vector<torch::Tensor>& states_sw) {
  const auto n = static_cast<std::int64_t>(states_sw.size());
  torch::Tensor out = torch::zeros({n, n}, torch::kFloat64);
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < n; ++j)
      out[i][j] = torch::cosine_similarity(states_sw[i], states_sw[j], 1).mean();
  return out;
}

class LayersTest : public ::testing::TestWithParam<PolicyKind> {
 protected:
  LayersTest() : policy_(small_config(GetParam())) {
    policy_->initialize(3);
    testing::open_gates(policy_);
    options_.steps = 2;
    options_.batch_size = 5;
  }

  /// Makes a layer an identity in both stacks.
  void silence(std::int64_t layer) {
    torch::NoGradGuard no_grad;
    for (auto& [name, tensor] : policy_->named_tensors())
      for (const char* part : {".self_attn.o_proj.", ".mlp.down_proj."})
        if (name.find(str("layers.", layer, part)) != std::string::npos &&
            name.find("vision") == std::string::npos)
          tensor.zero_();
  }
  /// A policy of these layers, as shallowpi-distill makes it.
  Policy student(const std::vector<std::int64_t>& kept) {
    CheckpointContents contents;
    contents.config = policy_->config();
    contents.spec = testing::fake_spec();
    contents.stats = testing::identity_stats();
    const std::filesystem::path folder = dir_ / str("teacher", files_++);
    publish_folder(folder, [&](const std::filesystem::path& path) {
      write_checkpoint_files(path, contents, policy_->named_tensors(), torch::kFloat32);
    });
    return load_student(read_checkpoint_info(folder), kept);
  }
  LayerSimilarity similarity() { return layer_similarity(policy_, pipeline_, samples_, options_); }
  SkipStudy study() { return SkipStudy(policy_, pipeline_, samples_, options_); }

  TempDir dir_;
  int files_ = 0;
  Policy policy_;
  Dataset dataset_ = testing::fake_dataset();
  SamplePipeline pipeline_{dataset_, testing::fake_spec(), testing::identity_stats(),
                           std::make_shared<Tokenizer>(testing::small_tokenizer()), 512};
  std::vector<Dataset::Sample> samples_ = dataset_.split(0.0, 1).train;
  MeasureOptions options_;
};

TEST_P(LayersTest, AnIdentityLayerIsSimilarAndNotMissed) {
  silence(1);
  const LayerSimilarity found = similarity();
  EXPECT_NEAR(found.backbone(1).value(), 1, 1e-12);
  EXPECT_NEAR(found.expert(1), 1, 1e-12);
  EXPECT_NEAR(found.both(1), 1, 1e-12);
  for (std::int64_t layer : {0, 2}) {
    EXPECT_LT(found.backbone(layer).value(), 0.999);
    EXPECT_LT(found.expert(layer), 0.9999);
  }
  EXPECT_FALSE(found.backbone(kDepth - 1).has_value());
  SkipStudy skipping = study();
  const SkipError whole = skipping.measure({});
  EXPECT_EQ(whole.velocity, 0);
  for (const auto& [stack, name] : kEnumNames<LayerStack>) {
    EXPECT_EQ(skipping.measure({1}, stack).velocity, 0) << name;
    EXPECT_EQ(skipping.measure({1}, stack).action, whole.action) << name;
    EXPECT_GT(skipping.measure({0}, stack).velocity, 1e-9) << name;
  }
  EXPECT_EQ(skipping.measure({kDepth - 1}, LayerStack::kBackbone).velocity, 0)
      << "nobody reads what the backbone's last layer puts out";
  EXPECT_GT(skipping.measure({kDepth - 1}, LayerStack::kExpert).velocity, 1e-9);
}

TEST_P(LayersTest, SkippingIsRemovingTheLayer) {
  SkipStudy skipping = study();
  for (const std::vector<std::int64_t>& skipped : {std::vector<std::int64_t>{0}, {2}, {3}, {1, 3}}) {
    std::vector<std::int64_t> kept;
    for (std::int64_t i = 0; i < kDepth; ++i)
      if (std::find(skipped.begin(), skipped.end(), i) == skipped.end()) kept.push_back(i);
    const SkipError found = skipping.measure(skipped);
    // The measurements of `offline`, of the student that shallowpi-distill would make.
    MeasuredPolicy removed{"removed", student(kept), kept};
    MeasureOptions options = options_;
    options.latency_repetitions = 0;
    const PolicyReport report = measure_policy(removed, &policy_, dataset_, pipeline_, samples_, options);
    EXPECT_GT(found.velocity, 1e-9);
    EXPECT_NEAR(found.velocity, report.velocity_error_teacher.value(), 1e-5 * found.velocity);
    EXPECT_NEAR(found.action, report.action_error.value(), 1e-5 * found.action);
  }
}

TEST_P(LayersTest, WhatWasSkippedComesBack) {
  std::map<std::string, torch::Tensor> before;
  for (const auto& [name, tensor] : policy_->named_tensors()) before[name] = tensor.clone();
  study().measure({0, 2});
  study().measure({3}, LayerStack::kBackbone);
  for (const auto& [name, tensor] : policy_->named_tensors())
    EXPECT_TRUE(tensor.equal(before.at(name))) << name;
}

TEST_P(LayersTest, SimilarityIsTheMeanOverTokensThenFrames) {
  torch::NoGradGuard no_grad;
  const LayerSimilarity found = similarity();
  torch::Tensor backbone = torch::zeros({kDepth, kDepth}, torch::kFloat64);
  torch::Tensor expert = torch::zeros({kDepth + 1, kDepth + 1}, torch::kFloat64);
  for (const auto& sample : samples_) {  // one by one: nothing is padded
    const TrainingBatch batch = pipeline_.make_batch({sample});
    std::vector<torch::Tensor> inputs, rows;
    AttentionTap tap;
    tap.layer_inputs = &inputs;
    const PrefixCache cache = policy_->encode(batch.observation, &tap);
    for (const auto& input : inputs) rows.push_back(input[0]);
    ASSERT_EQ(rows.size(), std::size_t(kDepth));
    backbone += plain_similarity(rows) / double(samples_.size());
    // At tau = 0 the expert sees pure noise. A state token, which pi0 has in front, does not count.
    inputs.clear();
    rows.clear();
    const torch::Tensor noise_bhd = sampling_noise(batch.actions_bhd, {sample}, options_.seed);
    policy_->velocity(cache, batch.observation.state_bd, noise_bhd, torch::ones({1}), &tap);
    for (const auto& input : inputs) rows.push_back(input[0].slice(0, -noise_bhd.size(1)));
    ASSERT_EQ(rows.size(), std::size_t(kDepth + 1));
    expert += plain_similarity(rows) / double(samples_.size());
  }
  EXPECT_TRUE(found.backbone_ii.allclose(backbone, 1e-5, 1e-6)) << found.backbone_ii << backbone;
  EXPECT_TRUE(found.expert_kii[0].allclose(expert, 1e-5, 1e-6)) << found.expert_kii[0] << expert;
  options_.batch_size = 1;
  const LayerSimilarity single = similarity();
  EXPECT_TRUE(found.expert_kii.allclose(single.expert_kii, 1e-4, 1e-5));
  EXPECT_EQ(found.expert_kii.sizes(), at::IntArrayRef({3, kDepth + 1, kDepth + 1}));
  EXPECT_TRUE(found.expert_kii.diagonal(0, 1, 2).allclose(torch::ones({1}, torch::kFloat64)));
  EXPECT_GT((found.expert_kii[0] - found.expert_kii[2]).abs().max().item<double>(), 1e-6)
      << "similarity depends on tau";
}

INSTANTIATE_TEST_SUITE_P(Kinds, LayersTest, ::testing::Values(PolicyKind::kPi0, PolicyKind::kPi05),
                         [](const auto& info) { return std::string(enum_name(info.param)); });

TEST(LeastFirst, KeepsTheOrderOfEqualValues) {
  EXPECT_EQ(least_first({3, 1, 2, 1}), (std::vector<std::int64_t>{1, 3, 2, 0}));
  EXPECT_EQ(kept_after({4, 1, 0}, 5, 3), (std::vector<std::int64_t>{0, 2, 3}));
  EXPECT_EQ(kept_after({}, 2, 2), (std::vector<std::int64_t>{0, 1}));
}

/// The commands, on the quickstart's 18-layer teacher and its demonstrations.
class LayerCommands : public ::testing::Test {
 protected:
  LayerCommands() {
    const std::string quickstart = std::string(SHALLOWPI_SOURCE_DIR) + "/configs/quickstart/";
    options_.offline.checkpoints = {quickstart + "teacher"};
    options_.offline.demos.data.files = {{quickstart + "*.hdf5", 1.0}};
    options_.offline.frames = 3;
    options_.offline.quiet = true;
    options_.offline.measure.steps = 2;
    options_.offline.out = dir_ / "report.json";
    depth_ = read_checkpoint_info(quickstart + "teacher").config.depth();
    options_.keep = depth_ - 2;
  }
  Json run(void (*command)(const LayerStudyOptions&)) {
    ::testing::internal::CaptureStdout();
    command(options_);
    printed_ = ::testing::internal::GetCapturedStdout();
    return read_json(options_.offline.out);
  }

  TempDir dir_;
  LayerStudyOptions options_;
  std::int64_t depth_ = 0;
  std::string printed_;
};

TEST_F(LayerCommands, SimilarityRanksAndNamesTheLayersToKeep) {
  const Json report = run(run_similarity);
  EXPECT_EQ(report["frames"], 3);
  ASSERT_EQ(report["adjacent"].size(), std::size_t(depth_));
  const auto order = report["rankings"]["expert"]["most_similar_first"].get<std::vector<std::int64_t>>();
  ASSERT_EQ(order.size(), std::size_t(depth_));
  for (std::size_t i = 1; i < order.size(); ++i)
    EXPECT_GE(report["adjacent"][std::size_t(order[i - 1])]["expert"].get<double>(),
              report["adjacent"][std::size_t(order[i])]["expert"].get<double>());
  EXPECT_EQ(report["rankings"]["backbone"]["most_similar_first"].back(), depth_ - 1);
  const auto kept = report["rankings"]["both"]["kept"].get<std::vector<std::int64_t>>();
  EXPECT_EQ(kept.size(), std::size_t(depth_ - 2));
  EXPECT_NE(printed_.find(str("student.layer_map=[", join(kept, ","), "]")), std::string::npos) << printed_;
  options_.json = true;
  EXPECT_EQ(run(run_similarity), Json::parse(printed_));
}

TEST_F(LayerCommands, SkipFindsTheSetsThatItsMeasurementsName) {
  const Json report = run(run_skip);
  const auto velocity = [](const Json& entry) { return entry.at("velocity_error").get<double>(); };
  EXPECT_EQ(velocity(report["whole"]), 0);
  std::vector<double> single;
  for (const Json& row : report["single"]) single.push_back(velocity(row["both"]));
  EXPECT_EQ(report["least_sensitive_first"].get<std::vector<std::int64_t>>(), least_first(single));
  ASSERT_EQ(report["ranked"].size(), 2u);
  ASSERT_EQ(report["greedy"].size(), 2u);
  EXPECT_EQ(velocity(report["greedy"][0]), velocity(report["ranked"][0]));
  EXPECT_LE(velocity(report["greedy"][1]), velocity(report["ranked"][1]));
  for (const Json& set : report["sets"]) {
    const auto kept = set["kept"].get<std::vector<std::int64_t>>();
    EXPECT_EQ(kept.size(), std::size_t(depth_ - 2)) << set;
    EXPECT_NE(printed_.find(str("student.layer_map=[", join(kept, ","), "]")), std::string::npos) << printed_;
  }
  EXPECT_EQ(velocity(report["sets"][0]), velocity(report["ranked"][1]));
  EXPECT_EQ(velocity(report["sets"][1]), velocity(report["greedy"][1]));
  options_.greedy = false;
  options_.rank_by = SkipMetric::kAction;
  const Json quick = run(run_skip);
  EXPECT_TRUE(quick["greedy"].empty());
  single.clear();
  for (const Json& row : quick["single"]) single.push_back(row["both"]["action_error"].get<double>());
  EXPECT_EQ(quick["least_sensitive_first"].get<std::vector<std::int64_t>>(), least_first(single));
}

TEST_F(LayerCommands, RefuseWhatDoesNotFit) {
  const auto refused = [&](auto change, const char* part) {
    LayerStudyOptions options = options_;
    change(options);
    for (const auto command : {run_similarity, run_skip})
      expect_error<UsageError>([&] { command(options); }, part);
  };
  refused([](auto& o) { o.keep = 0; }, "--layers 0");
  refused([](auto& o) { o.keep = 100; }, "--layers 100");
  refused([](auto& o) { o.offline.demos.data.files.clear(); }, "--data");
  refused([](auto& o) { o.offline.checkpoints.clear(); }, "--checkpoint");
  refused([](auto& o) { o.offline.frames = -1; }, "--frames -1");
  refused(
      [](auto& o) {
        o.offline.demos.held_out = true;
        o.offline.demos.data.held_out_fraction = 0;
      },
      "holds nothing out");
}

}  // namespace
}  // namespace shallowpi
