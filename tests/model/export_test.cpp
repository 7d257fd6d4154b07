// Exports to openpi's and LeRobot's folders, as far as C++ can check them
// (tests/integration has the real LeRobot).
#include "model/export.h"

#include <gtest/gtest.h>

#include <set>

#include "model/checkpoint_internal.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/files.h"
#include "small_checkpoint.h"

namespace shallowpi {
namespace {

using namespace testing;

class Export : public ::testing::TestWithParam<PolicyKind> {
 protected:
  /// A student in our format, without the dead head.
  void SetUp() override {
    contents_.config = small_config(GetParam(), 2);
    contents_.spec.horizon = 6;
    contents_.spec.image_size = 28;
    contents_.spec.image_keys = {"base_0_rgb", "left_wrist_0_rgb"};
    const bool pi05 = GetParam() == PolicyKind::kPi05;
    contents_.spec.prompt_mode = pi05 ? PromptMode::kPi05State : PromptMode::kLeRobotPi0;
    contents_.spec.norm_mode = pi05 ? NormMode::kQuantile : NormMode::kZScore;
    contents_.spec.max_token_len = 48;
    contents_.spec.rtc_training_max_delay = 4;
    contents_.stats = small_stats();
    weights_ = random_weights(contents_.config);
    write_own();
  }
  void write_own() {
    NamedTensors live = weights_;
    live.erase(kDeadHeadName);
    live[kEmbedName] = live.at(kHeadName);
    live.erase(kHeadName);
    std::filesystem::create_directories(dir_ / "own");
    write_checkpoint_files(dir_ / "own", contents_, live, torch::kFloat32);
  }

  TempDir dir_;
  CheckpointContents contents_;
  NamedTensors weights_;
};

TEST_P(Export, ToOpenpiHoldsExactlyItsTensors) {
  export_checkpoint(dir_ / "own", CheckpointFormat::kOpenpi, dir_ / "out");
  NamedTensors stored = load_safetensors(dir_ / "out/model.safetensors");
  EXPECT_EQ(stored.size(), weights_.size());
  for (const auto& [name, tensor] : weights_) {
    ASSERT_TRUE(stored.count(name)) << name;
    const torch::Tensor expected = name == kDeadHeadName ? torch::zeros_like(tensor) : tensor;
    EXPECT_TRUE(torch::equal(stored.at(name), expected)) << name;
  }
  EXPECT_EQ(SafetensorsFile(dir_ / "out/model.safetensors").metadata().at(kEmbedName), kHeadName)
      << "openpi's tie";
  const CheckpointInfo info = read_checkpoint_info(dir_ / "out");
  EXPECT_EQ(info.format, CheckpointFormat::kOpenpi);
  EXPECT_EQ(info.spec.horizon, 6);
  EXPECT_EQ(info.stats->actions.q01, contents_.stats->actions.q01);
  EXPECT_NE(read_file(dir_ / "out/load_shallow.py").find("DEPTH = 2\n"), std::string::npos);
  EXPECT_EQ(read_file(dir_ / "out/README.md").find('@'), std::string::npos) << "a template key was left";
  EXPECT_NE(read_file(dir_ / "out/README.md").find("load_shallow.py scripts/serve_policy.py"),
            std::string::npos);
}

TEST_P(Export, ToLeRobotHoldsBothOfTheTiedPairUnderThePrefix) {
  export_checkpoint(dir_ / "own", CheckpointFormat::kLeRobot, dir_ / "out");
  const NamedTensors stored = load_safetensors(dir_ / "out/model.safetensors");
  EXPECT_EQ(stored.size(), weights_.size() + 1);
  EXPECT_TRUE(torch::equal(stored.at("model." + kEmbedName), weights_.at(kHeadName)));
  EXPECT_TRUE(torch::equal(stored.at("model." + kHeadName), weights_.at(kHeadName)));
  EXPECT_TRUE(stored.count("model." + kDeadHeadName));
  const CheckpointInfo info = read_checkpoint_info(dir_ / "out");
  EXPECT_EQ(info.format, CheckpointFormat::kLeRobot);
  EXPECT_EQ(info.spec.image_keys, contents_.spec.image_keys);
  EXPECT_EQ(info.spec.prompt_mode, contents_.spec.prompt_mode);
  EXPECT_EQ(info.spec.max_token_len, 48);
  EXPECT_EQ(info.spec.robot.kind, RobotKind::kLibero);
  EXPECT_EQ(weights_fingerprint(info), weights_fingerprint(read_checkpoint_info(dir_ / "own")));
}

/// Equal, up to the epsilon of the convention.
void expect_stats_near(const FeatureStats& got, const FeatureStats& expected) {
  for (const auto stat : {&FeatureStats::mean, &FeatureStats::std, &FeatureStats::q01, &FeatureStats::q99})
    expect_tensor_near(torch::tensor(got.*stat, torch::kFloat64),
                       torch::tensor(expected.*stat, torch::kFloat64), 1e-5);
}

TEST_P(Export, ToLeRobotKeepsWhatNumbersMean) {
  contents_.spec.robot.delta_mask = make_bool_mask({6, -1});
  write_own();
  export_checkpoint(dir_ / "own", CheckpointFormat::kLeRobot, dir_ / "out");
  const CheckpointInfo info = read_checkpoint_info(dir_ / "out");
  ASSERT_TRUE(info.stats);
  expect_stats_near(info.stats->state, contents_.stats->state);
  expect_stats_near(info.stats->actions, contents_.stats->actions);
  EXPECT_EQ(uses_quantiles(info.spec.norm_mode), uses_quantiles(contents_.spec.norm_mode));
  EXPECT_EQ(info.spec.robot.delta_mask, contents_.spec.robot.delta_mask);
  EXPECT_EQ(info.spec.horizon, contents_.spec.horizon);
  const Json absolute = read_json(dir_ / "out/policy_postprocessor.json").at("steps").at(1);
  EXPECT_EQ(absolute.at("registry_name"), "absolute_actions_processor");
  EXPECT_EQ(absolute.at("config").at("enabled"), true);
}

TEST_P(Export, ToLeRobotNamesVariantsThatOnlyItsLauncherKnows) {
  export_checkpoint(dir_ / "own", CheckpointFormat::kLeRobot, dir_ / "out");
  const Json config = read_json(dir_ / "out/config.json");
  EXPECT_EQ(config["paligemma_variant"], "gemma_2b_2_layers_needs_load_shallow.py");
  EXPECT_EQ(config["action_expert_variant"], "gemma_300m_2_layers_needs_load_shallow.py");
  const std::string loader = read_file(dir_ / "out/load_shallow.py");
  EXPECT_NE(loader.find(R"("_(\d+)_layers_needs_load_shallow\.py$")"), std::string::npos);
  EXPECT_NE(loader.find(str("patch(\"", enum_name(GetParam()), "\").from_pretrained")), std::string::npos);
  const std::string readme = read_file(dir_ / "out/README.md");
  EXPECT_NE(readme.find("load_shallow.py lerobot-eval"), std::string::npos);
  EXPECT_NE(readme.find("Without `load_shallow.py` LeRobot refuses"), std::string::npos);
  EXPECT_EQ(readme.find('@'), std::string::npos) << "a template key was left";
}

TEST_P(Export, ToLeRobotKeepsItsVariantsAtTheirDepth) {
  contents_.config = small_config(GetParam(), 18);
  weights_ = random_weights(contents_.config);
  write_own();
  export_checkpoint(dir_ / "own", CheckpointFormat::kLeRobot, dir_ / "out");
  const Json config = read_json(dir_ / "out/config.json");
  EXPECT_EQ(config["paligemma_variant"], "gemma_2b");
  EXPECT_EQ(config["action_expert_variant"], "gemma_300m");
  EXPECT_EQ(read_file(dir_ / "out/README.md").find("refuses"), std::string::npos);
}

TEST_P(Export, WritesLeRobotsConfigKeysAndNoOther) {
  const std::string kind(enum_name(GetParam()));
  const Json reference = read_json(test_data("parity/" + kind + "/lerobot_config.json"));
  export_checkpoint(dir_ / "own", CheckpointFormat::kLeRobot, dir_ / "out");
  for (const char* folder : {"own", "out"}) {
    const Json json = read_json(dir_ / folder / "config.json");
    for (const auto& [key, value] : reference.items()) {
      ASSERT_TRUE(json.contains(key)) << key;
      if (!value.is_null() && !json[key].is_null()) {
        EXPECT_EQ(json[key].type(), value.type()) << key;
      }
    }
    for (const auto& [key, value] : json.items()) EXPECT_TRUE(reference.contains(key)) << key;
    EXPECT_EQ(json["input_features"]["observation.images.image2"]["shape"], Json::array({3, 28, 28}));
    EXPECT_EQ(json["output_features"]["action"]["shape"], Json::array({7}));
  }
  EXPECT_NE(read_file(dir_ / "out/README.md").find("continue up to 4 given actions"), std::string::npos);
}

TEST_P(Export, PutsTheStepsInLeRobotsOrder) {
  export_checkpoint(dir_ / "own", CheckpointFormat::kLeRobot, dir_ / "out");
  std::vector<std::string> steps;
  const Json pipeline = read_json(dir_ / "out/policy_preprocessor.json");
  for (const Json& step : pipeline["steps"]) steps.push_back(step["registry_name"]);
  using Names = std::vector<std::string>;
  EXPECT_EQ(steps,
            GetParam() == PolicyKind::kPi0
                ? (Names{"rename_observations_processor", "to_batch_processor", "pi0_new_line_processor",
                         "tokenizer_processor", "device_processor", "relative_actions_processor",
                         "normalizer_processor"})
                : (Names{"rename_observations_processor", "to_batch_processor", "relative_actions_processor",
                         "normalizer_processor", "pi05_prepare_state_tokenizer_processor_step",
                         "tokenizer_processor", "device_processor"}));
}

INSTANTIATE_TEST_SUITE_P(Kinds, Export, ::testing::Values(PolicyKind::kPi0, PolicyKind::kPi05),
                         [](const auto& param) { return std::string(enum_name(param.param)); });

TEST(ExportStats, KeepTheNormalisedValuesAcrossConventions) {
  const auto normalised = [](const FeatureStats& stats, NormMode mode, double x) {
    switch (mode) {
      case NormMode::kZScore:
        return (x - stats.mean[0]) / (stats.std[0] + 1e-6);
      case NormMode::kQuantile:
        return (x - stats.q01[0]) / (stats.q99[0] - stats.q01[0] + 1e-6) * 2 - 1;
      case NormMode::kLeRobotMeanStd:
        return (x - stats.mean[0]) / (stats.std[0] + 1e-8);
      case NormMode::kLeRobotQuantiles:
        return 2 * (x - stats.q01[0]) / (stats.q99[0] - stats.q01[0]) - 1;
    }
    return 0.0;
  };
  const FeatureStats stats{{0.3}, {0.02}, {-0.1}, {0.05}};
  for (const auto& from : kEnumNames<NormMode>)
    for (const auto& to : kEnumNames<NormMode>)
      for (const double x : {-0.4, 0.1, 2.0})
        EXPECT_NEAR(normalised(checkpoint::convert_stats(stats, from.value, to.value), to.value, x),
                    normalised(stats, from.value, x), 1e-5 * std::abs(normalised(stats, from.value, x)))
            << from.name << " to " << to.name;
}

TEST(ExportStats, KeepAConstantDimsRangeAtZero) {
  const FeatureStats stats{{2.0}, {0.0}, {2.0}, {2.0}};
  const FeatureStats converted =
      checkpoint::convert_stats(stats, NormMode::kLeRobotQuantiles, NormMode::kQuantile);
  EXPECT_EQ(converted.q01[0], 2.0);
  EXPECT_EQ(converted.q99[0], 2.0) << "a range of -1e-6 would make openpi divide by 0";
}

TEST(ExportStats, GiveAConstantDimTheMiddleOfItsQuantiles) {
  const FeatureStats stats{{-300.0}, {0.0}, {}, {}};
  const FeatureStats lerobot =
      checkpoint::convert_stats(stats, NormMode::kLeRobotMeanStd, NormMode::kLeRobotQuantiles);
  EXPECT_NEAR((lerobot.q01[0] + lerobot.q99[0]) / 2, -300.0, 1e-9);
  EXPECT_LT(static_cast<float>(lerobot.q01[0]), -300.0f) << "LeRobot's files are float32";
  EXPECT_GT(static_cast<float>(lerobot.q99[0]), -300.0f);
  const FeatureStats openpi =
      checkpoint::convert_stats(stats, NormMode::kLeRobotMeanStd, NormMode::kQuantile);
  EXPECT_NEAR((-300.0 - openpi.q01[0]) / (openpi.q99[0] - openpi.q01[0] + 1e-6) * 2 - 1, 0.0, 1e-6);
}

TEST(ExportStats, RefuseWhatTheirModeLacks) {
  const FeatureStats stats{{0.3}, {0.02}, {}, {}};
  expect_error<CorruptError>(
      [&] { checkpoint::convert_stats(stats, NormMode::kQuantile, NormMode::kLeRobotMeanStd); },
      "q01 and q99");
}

TEST_P(Export, ToOpenpiSaysWhichCamerasAreWhich) {
  const auto readme_with = [&](const std::vector<std::string>& cameras) {
    contents_.spec.image_keys = cameras;
    write_own();
    std::filesystem::remove_all(dir_ / "out");
    export_checkpoint(dir_ / "own", CheckpointFormat::kOpenpi, dir_ / "out");
    return read_file(dir_ / "out/README.md");
  };
  const std::string gap = readme_with({"base_0_rgb", "right_wrist_0_rgb"});
  EXPECT_NE(gap.find("| `base_0_rgb`, `right_wrist_0_rgb` |"), std::string::npos) << gap;
  EXPECT_NE(gap.find("zeros with `image_mask` False"), std::string::npos);
  EXPECT_EQ(gap.find("another order"), std::string::npos);
  ::testing::internal::CaptureStderr();
  const std::string mapped = readme_with({"left_wrist_0_rgb", "top", "base_0_rgb"});
  const std::string warning = ::testing::internal::GetCapturedStderr();
  for (const std::string& text : {mapped, warning})
    EXPECT_NE(text.find("left_wrist_0_rgb as base_0_rgb, top as left_wrist_0_rgb, base_0_rgb as "
                        "right_wrist_0_rgb"),
              std::string::npos)
        << text;
  expect_error<UsageError>([&] { readme_with({"a", "b", "c", "d"}); }, "sees 4 cameras (a, b, c, d)");
}

TEST_P(Export, RefusesAnExportedFolderThatWasDamaged) {
  export_checkpoint(dir_ / "own", CheckpointFormat::kLeRobot, dir_ / "out");
  write_text(dir_ / "out/README.md", "edited");
  expect_error<CorruptError>(
      [&] { export_checkpoint(dir_ / "out", CheckpointFormat::kOpenpi, dir_ / "again"); }, "README.md");
}

TEST_P(Export, RefusesHeadsThatTheTargetWouldNotKnow) {
  contents_.config.vision.heads = 4;
  write_own();
  for (const CheckpointFormat format : {CheckpointFormat::kOpenpi, CheckpointFormat::kLeRobot})
    expect_error<UsageError>([&] { export_checkpoint(dir_ / "own", format, dir_ / "out"); },
                             "8 attention heads and 4", "16");
}

TEST_P(Export, SaysWhichSizesTheTargetDoesNotHave) {
  for (const CheckpointFormat format : {CheckpointFormat::kOpenpi, CheckpointFormat::kLeRobot}) {
    ::testing::internal::CaptureStderr();
    export_checkpoint(dir_ / "own", format, dir_ / "out");
    const std::string warning = ::testing::internal::GetCapturedStderr();
    const std::string readme = read_file(dir_ / "out/README.md");
    for (const std::string& text : {warning, readme}) {
      for (const char* size : {"backbone width 16 (released: 2048)", "expert MLP 12 (released: 4096)",
                               "vision depth 1 (released: 27)", "vocabulary 40 (released: 257152)"})
        EXPECT_NE(text.find(size), std::string::npos) << size << " in " << text;
      EXPECT_EQ(text.find("image size 28") != std::string::npos, format == CheckpointFormat::kOpenpi);
    }
    EXPECT_EQ(readme.find("The weights load strictly"), std::string::npos);
    EXPECT_EQ(readme.find("tokenizer_name") != std::string::npos, format == CheckpointFormat::kLeRobot);
    std::filesystem::remove_all(dir_ / "out");
  }
}

TEST(ExportSizes, OfAShallowReleasedPolicyAreKnown) {
  PolicyConfig config;
  config.set_depth(6);
  for (const CheckpointFormat format : {CheckpointFormat::kOpenpi, CheckpointFormat::kLeRobot}) {
    EXPECT_TRUE(checkpoint::unreleased_sizes(config, format).empty());
    EXPECT_TRUE(checkpoint::how_to_load(config, format).starts_with("The weights load strictly, once "));
  }
}

TEST(ExportCameras, HaveLeRobotsNamesAndComeBack) {
  PolicySpec spec;
  for (const RobotKind robot : {RobotKind::kAloha, RobotKind::kJoints, RobotKind::kLibero}) {
    spec.robot.kind = robot;
    for (const char* camera : {"base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb", "my_camera"})
      EXPECT_EQ(checkpoint::camera_of_lerobot(checkpoint::lerobot_camera(spec, camera)), camera);
  }
  EXPECT_EQ(checkpoint::lerobot_camera(spec, "base_0_rgb"), "observation.images.image");
}

}  // namespace
}  // namespace shallowpi
