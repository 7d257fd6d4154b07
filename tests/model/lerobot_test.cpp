// LeRobot's folders: config.json and the processors' statistics.
#include <gtest/gtest.h>

#include "shallowpi/base/error.h"
#include "shallowpi/base/files.h"
#include "shallowpi/model/checkpoint.h"
#include "small_checkpoint.h"

namespace shallowpi {
namespace {

using namespace testing;

/// A pi05 folder with both files of statistics under names that no LeRobot version writes:
/// the JSON must be followed.
class LeRobotFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    NamedTensors weights = random_weights(small_config());
    weights[kEmbedName] = weights.at(kHeadName);
    write_weights_file(dir_.path(), renamed(weights, "model."));
    write_text(dir_ / "config.json", config_.dump());
    write_processors("QUANTILES", "QUANTILES");
  }
  void write_processors(const std::string& state_mode, const std::string& action_mode,
                        const Json& more_steps = Json::array()) {
    const Json modes = {{"VISUAL", "IDENTITY"}, {"STATE", state_mode}, {"ACTION", action_mode}};
    Json steps = Json::array(
        {{{"registry_name", "normalizer_processor"},
          {"config", {{"norm_map", modes}}},
          {"state_file", "in.safetensors"}},
         {{"registry_name", "pi05_prepare_state_tokenizer_processor_step"}, {"config", Json::object()}},
         {{"registry_name", "tokenizer_processor"}, {"config", {{"max_length", 77}}}}});
    for (const Json& step : more_steps) steps.push_back(step);
    write_text(dir_ / "policy_preprocessor.json", Json{{"name", "x"}, {"steps", steps}}.dump());
    const Json post =
        Json::array({{{"registry_name", "unnormalizer_processor"}, {"state_file", "out.safetensors"}}});
    write_text(dir_ / "policy_postprocessor.json", Json{{"steps", post}}.dump());
    NormStats stats = small_stats();
    save_safetensors(dir_ / "in.safetensors", lerobot_stats(stats));
    stats.actions.mean[0] = 42;  // what un-normalises actions is the postprocessor's copy
    save_safetensors(dir_ / "out.safetensors", lerobot_stats(stats));
  }
  CheckpointInfo read() const { return read_checkpoint_info(dir_.path()); }

  TempDir dir_;
  Json config_ = lerobot_config("pi05");
};

TEST_F(LeRobotFolder, IsRead) {
  const CheckpointInfo info = read();
  EXPECT_EQ(info.format, CheckpointFormat::kLeRobot);
  EXPECT_EQ(info.spec.horizon, 10);
  EXPECT_EQ(info.spec.image_keys, (std::vector<std::string>{"base_0_rgb", "left_wrist_0_rgb"}))
      << "no empty camera";
  EXPECT_EQ(info.spec.max_token_len, 77);
  EXPECT_EQ(info.spec.prompt_mode, PromptMode::kPi05State);
  EXPECT_EQ(info.spec.norm_mode, NormMode::kLeRobotQuantiles);
  EXPECT_EQ(info.spec.resize_mode, ResizeMode::kTorch);
  EXPECT_EQ(info.spec.robot.kind, RobotKind::kLibero);
  EXPECT_TRUE(info.spec.robot.delta_mask.empty());
  ASSERT_TRUE(info.stats);
  EXPECT_EQ(info.stats->state.q99, small_stats().state.q99);
  EXPECT_EQ(info.stats->actions.mean[0], 42);
}

TEST_F(LeRobotFolder, KeepsItsCameraNamesThroughOurFormat) {
  Json& inputs = config_["input_features"];
  for (const char* name : {"observation.images.image", "observation.images.image2"}) inputs.erase(name);
  const Json image = {{"type", "VISUAL"}, {"shape", {3, 28, 28}}};
  for (const char* name : {"top", "wrist_image", "side"}) inputs[str("observation.images.", name)] = image;
  write_text(dir_ / "config.json", config_.dump());
  EXPECT_EQ(read().spec.image_keys, (std::vector<std::string>{"base_0_rgb", "left_wrist_0_rgb", "side"}));
  const TempDir out;
  const CheckpointInfo info = read();
  CheckpointContents contents;
  contents.config = info.config;
  contents.spec = info.spec;
  contents.stats = info.stats;
  std::filesystem::create_directories(out / "own");
  write_checkpoint_files(out / "own", contents, load_policy(info)->named_tensors(), torch::kFloat32);
  export_checkpoint(out / "own", CheckpointFormat::kLeRobot, out / "lerobot");
  const Json exported = read_json(out / "lerobot/config.json").at("input_features");
  for (const char* name : {"top", "wrist_image", "side"})
    EXPECT_TRUE(exported.contains(str("observation.images.", name))) << exported;
}

TEST_F(LeRobotFolder, TwoCamerasForOnePlaceKeepTheirOwnNames) {
  Json& inputs = config_["input_features"];
  for (const char* name : {"observation.images.image", "observation.images.image2"}) inputs.erase(name);
  for (const char* name : {"front", "top"})
    inputs[str("observation.images.", name)] = {{"type", "VISUAL"}, {"shape", {3, 28, 28}}};
  write_text(dir_ / "config.json", config_.dump());
  EXPECT_EQ(read().spec.image_keys, (std::vector<std::string>{"base_0_rgb", "top"}));
}

TEST_F(LeRobotFolder, SaysHowLeRobotRenamedTheCamerasOfItsData) {
  write_processors(
      "QUANTILES", "QUANTILES",
      {{{"registry_name", "rename_observations_processor"},
        {"config", {{"rename_map", {{"observation.images.side", "observation.images.base_0_rgb"}}}}}}});
  const std::vector<std::string> notes = read().notes;
  EXPECT_NE(join(notes, "; ").find("--camera observation.images.side=base_0_rgb"), std::string::npos)
      << join(notes, "; ");
}

TEST_F(LeRobotFolder, KeepsTheMeaningOfEveryNormalisationMode) {
  write_processors("MEAN_STD", "MEAN_STD");
  EXPECT_EQ(read().spec.norm_mode, NormMode::kLeRobotMeanStd);
  write_processors("MEAN_STD", "QUANTILES");
  const CheckpointInfo mixed = read();
  EXPECT_EQ(mixed.spec.norm_mode, NormMode::kLeRobotQuantiles);
  const FeatureStats state = small_stats().state;
  EXPECT_NEAR(mixed.stats->state.q01[2], state.mean[2] - state.std[2], 1e-12);
  EXPECT_NEAR(mixed.stats->state.q99[2], state.mean[2] + state.std[2], 1e-12);
  EXPECT_EQ(mixed.stats->actions.q01, small_stats().actions.q01);
  write_processors("IDENTITY", "QUANTILES");
  EXPECT_EQ(read().stats->state.q01, std::vector<double>(8, -1.0));
  EXPECT_EQ(read().stats->state.q99, std::vector<double>(8, 1.0));
  write_processors("QUANTILES", "MIN_MAX");
  expect_error<CorruptError>([&] { read(); }, "out.safetensors", "'action.min' and 'action.max'");
  write_processors("QUANTILES", "SOFTMAX");
  expect_error<UsageError>([&] { read(); }, "'SOFTMAX' is not known");
  write_processors("QUANTILES", "QUANTILES");
  std::string pre = read_file(dir_ / "policy_preprocessor.json");
  pre.replace(pre.find("IDENTITY"), 8, "MEAN_STD");
  write_text(dir_ / "policy_preprocessor.json", pre);
  expect_error<UsageError>([&] { read(); }, "policy_preprocessor.json", "images are normalised by MEAN_STD");
}

TEST_F(LeRobotFolder, AConstantInAMixOfModesIsTheMiddleOfItsRange) {
  write_processors("MEAN_STD", "QUANTILES");
  NormStats stats = small_stats();
  stats.state.std[1] = 0;
  save_safetensors(dir_ / "in.safetensors", lerobot_stats(stats));
  const FeatureStats state = read().stats->state;
  EXPECT_LT(state.q01[1], stats.state.mean[1]);
  EXPECT_GT(state.q99[1], stats.state.mean[1]);
  EXPECT_NEAR(state.q99[1] - state.q01[1], 2e-6, 1e-9);
}

TEST_F(LeRobotFolder, LeavesAsItIsWhatTheNormaliserDoesNotName) {
  const std::vector<double> low(8, -1.0), high(8, 1.0);
  std::string pre = read_file(dir_ / "policy_preprocessor.json");
  const std::string mode = R"("STATE":"QUANTILES",)";
  ASSERT_NE(pre.find(mode), std::string::npos) << pre;
  pre.erase(pre.find(mode), mode.size());
  write_text(dir_ / "policy_preprocessor.json", pre);
  EXPECT_EQ(read().stats->state.q01, low) << "no mode";
  EXPECT_EQ(read().stats->state.q99, high);
  EXPECT_TRUE(read().warnings.empty()) << join(read().warnings, "; ");
  write_processors("QUANTILES", "QUANTILES");
  NamedTensors tensors = lerobot_stats(small_stats());
  std::erase_if(tensors, [](const auto& entry) { return entry.first.starts_with("observation.state"); });
  save_safetensors(dir_ / "in.safetensors", tensors);
  const CheckpointInfo info = read();
  EXPECT_EQ(info.stats->state.q01, low) << "no statistics";
  EXPECT_EQ(info.stats->actions.q01, small_stats().actions.q01);
  EXPECT_NE(join(info.warnings, "\n").find("no statistics of observation.state"), std::string::npos);
}

TEST_F(LeRobotFolder, TellsWhereThePostprocessorIsMissing) {
  std::filesystem::remove(dir_ / "policy_postprocessor.json");
  const CheckpointInfo info = read();
  EXPECT_EQ(info.stats->actions.mean, small_stats().actions.mean) << "the preprocessor's";
  EXPECT_NE(join(info.warnings, "\n").find("no policy_postprocessor.json"), std::string::npos);
}

TEST_F(LeRobotFolder, SaysWhichCamerasAreWhich) {
  EXPECT_EQ(join(read().notes, "\n"),
            "cameras: observation.images.image is base_0_rgb, observation.images.image2 is left_wrist_0_rgb");
  Json& inputs = config_["input_features"];
  const Json image = inputs["observation.images.image"];
  inputs["observation.images.side"] = image;
  write_text(dir_ / "config.json", config_.dump());
  EXPECT_NE(join(read().warnings, "\n").find("cameras side have no openpi name"), std::string::npos);
}

TEST_F(LeRobotFolder, RefusesOrReportsSettingsThatAreNotOurs) {
  const auto with = [&](const char* key, const Json& value) {
    Json config = config_;
    config[key] = value;
    write_text(dir_ / "config.json", config.dump());
    return [this] { read(); };
  };
  expect_error<UsageError>(with("use_visual_memory", true), "use_visual_memory is true");
  expect_error<UsageError>(with("use_proprioceptive_memory", true), "use_proprioceptive_memory is true");
  expect_error<UsageError>(with("min_period", 0.01), "min_period is 0.01");
  expect_error<UsageError>(with("max_period", 8), "max_period is 8");
  with("max_period", 4.0)();
  with("rtc_training_max_delay", 3)();
  EXPECT_EQ(read().spec.rtc_training_max_delay, 3);
  with("num_inference_steps", 5)();
  EXPECT_NE(join(read().warnings, "\n").find("give --steps 5"), std::string::npos);
}

TEST_F(LeRobotFolder, APi05StateMayBeWiderThanTheNetwork) {
  const auto with_state = [&](std::int64_t width) {
    config_["input_features"]["observation.state"]["shape"] = Json::array({width});
    write_text(dir_ / "config.json", config_.dump());
    save_safetensors(dir_ / "in.safetensors", lerobot_stats(small_stats(width)));
  };
  with_state(40);
  EXPECT_EQ(read().spec.robot.state_dim, 40);
  EXPECT_EQ(read().stats->state.width(), 40u);
  with_state(1025);
  expect_error<CorruptError>([&] { read(); }, "robot.state_dim is 1025, expected 1 to 1024");
  with_state(40);
  config_.erase("use_relative_actions");  // with lm_head alone: LeRobot 0.4, whose prompt has 32 numbers
  write_text(dir_ / "config.json", config_.dump());
  write_weights_file(dir_.path(), renamed(random_weights(small_config()), "model."));
  expect_error<CorruptError>([&] { read(); }, "robot.state_dim is 40, expected 1 to 32");
}

TEST_F(LeRobotFolder, AFineTunedBaseHasTheStateOfItsStatistics) {
  config_["input_features"]["observation.state"]["shape"] = Json::array({32});
  write_text(dir_ / "config.json", config_.dump());
  save_safetensors(dir_ / "in.safetensors", lerobot_stats(small_stats(6)));
  const CheckpointInfo info = read();
  EXPECT_EQ(info.spec.robot.state_dim, 6);
  EXPECT_EQ(info.spec.robot.kind, RobotKind::kJoints);
  EXPECT_NE(join(info.notes, "\n").find("config.json says 32 state dims, the statistics 6"),
            std::string::npos);
  save_safetensors(dir_ / "in.safetensors", lerobot_stats(small_stats(8)));
  EXPECT_EQ(read().spec.robot.kind, RobotKind::kLibero) << "8 and 7";
}

TEST_F(LeRobotFolder, TellsThePromptOfOldVersions) {
  write_weights_file(dir_.path(), renamed(random_weights(small_config()), "model."));  // lm_head alone
  EXPECT_EQ(read().spec.prompt_mode, PromptMode::kPi05State) << "one sign is not enough";
  config_.erase("use_relative_actions");
  write_text(dir_ / "config.json", config_.dump());
  const CheckpointInfo info = read();
  EXPECT_EQ(info.spec.prompt_mode, PromptMode::kPi05StatePadded32);
  EXPECT_EQ(info.spec.resize_mode, ResizeMode::kTorchLeRobot04);
  EXPECT_NE(join(info.warnings, "\n").find("LeRobot 0.4.x"), std::string::npos);
  write_weights_file(dir_.path(), renamed(random_weights(small_config(PolicyKind::kPi0)), "model."));
  config_["type"] = "pi0";
  write_text(dir_ / "config.json", config_.dump());
  EXPECT_EQ(read().spec.resize_mode, ResizeMode::kTorchLeRobot04) << "of pi0 as well";
  EXPECT_NE(join(read().warnings, "\n").find("with -3 instead of -1 (resize mode torch_lerobot04)"),
            std::string::npos);
  write_text(dir_ / "policy_preprocessor.json", R"({"steps": [{"registry_name": "normalizer_processor"}]})");
  EXPECT_EQ(read().spec.resize_mode, ResizeMode::kTorch)
      << "a base without statistics has learned nothing of it";
  std::filesystem::remove(dir_ / "policy_preprocessor.json");
  EXPECT_EQ(read().spec.resize_mode, ResizeMode::kTorch) << "nor has one without processors";
  config_["max_state_dim"] = 64;
  write_text(dir_ / "config.json", config_.dump());
  expect_error<UsageError>([&] { read(); }, "max_state_dim 64 and max_action_dim 32 differ");
}

TEST_F(LeRobotFolder, BuildsTheMaskOfRelativeActions) {
  config_["use_relative_actions"] = true;
  config_["relative_exclude_joints"] = {"Gripper"};
  config_["action_feature_names"] = {"x", "y", "z", "rx", "ry", "rz", "gripper_left"};
  write_text(dir_ / "config.json", config_.dump());
  EXPECT_EQ(read().spec.robot.delta_mask, (std::vector<bool>{true, true, true, true, true, true, false}));
  write_processors(
      "QUANTILES", "QUANTILES",
      Json::array({{{"registry_name", "relative_actions_processor"}, {"config", {{"enabled", false}}}}}));
  EXPECT_TRUE(read().spec.robot.delta_mask.empty()) << "the processor is what runs";
}

TEST_F(LeRobotFolder, ReadsWithoutProcessors) {
  std::filesystem::remove(dir_ / "policy_preprocessor.json");
  const CheckpointInfo info = read();
  EXPECT_FALSE(info.stats);
  EXPECT_EQ(info.spec.max_token_len, 64);
  EXPECT_NE(how_to_add_stats(info).find("policy_preprocessor.json"), std::string::npos);
}

TEST_F(LeRobotFolder, RefusesContradictions) {
  std::filesystem::remove(dir_ / "in.safetensors");
  expect_error<CorruptError>([&] { read(); }, "in.safetensors", "are missing");
  write_text(dir_ / "policy_preprocessor.json",
             R"({"steps": [{"registry_name": "normalizer_processor", "state_file": "../../secret"}]})");
  expect_error<CorruptError>([&] { read(); }, "'../../secret' is not a plain file name");
  write_text(dir_ / "policy_preprocessor.json", R"({"steps": 3})");
  expect_error<CorruptError>([&] { read(); }, "policy_preprocessor.json", "steps");
  config_["type"] = "pi0";
  write_text(dir_ / "config.json", config_.dump());
  expect_error<CorruptError>([&] { read(); }, "says 'pi0'", "those of pi05");
  config_["type"] = "smolvla";
  write_text(dir_ / "config.json", config_.dump());
  expect_error<UsageError>([&] { read(); }, "'smolvla'", "only pi0 and pi05");
}

}  // namespace
}  // namespace shallowpi
