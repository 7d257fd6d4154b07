// LeRobot's config.json, and its names of cameras.
#include <algorithm>
#include <array>

#include "model/checkpoint_internal.h"
#include "model/export.h"
#include "shallowpi/base/cli.h"
#include "shallowpi/base/text.h"

namespace shallowpi::checkpoint {
namespace {

struct CameraName {
  std::string_view lerobot, ours;
};
/// Names in LeRobot's datasets and environments, most common first.
constexpr auto kCameraNames = std::to_array<CameraName>({
    {"image", "base_0_rgb"},
    {"image2", "left_wrist_0_rgb"},
    {"wrist_image", "left_wrist_0_rgb"},
    {"cam_high", "base_0_rgb"},
    {"cam_left_wrist", "left_wrist_0_rgb"},
    {"cam_right_wrist", "right_wrist_0_rgb"},
    {"top", "base_0_rgb"},
    {"front", "base_0_rgb"},
    {"wrist", "left_wrist_0_rgb"},
    {"left_wrist", "left_wrist_0_rgb"},
    {"right_wrist", "right_wrist_0_rgb"},
    {"exterior_image_1_left", "base_0_rgb"},
    {"wrist_image_left", "left_wrist_0_rgb"},
});

Json features_json(const PolicyConfig& config, const PolicySpec& spec) {
  const std::int64_t side = config.vision.image_size;
  Json features = Json::object();
  for (const std::string& camera : spec.image_keys)
    features[lerobot_camera(spec, camera)] = {{"type", "VISUAL"}, {"shape", {3, side, side}}};
  features["observation.state"] = {{"type", "STATE"}, {"shape", {spec.robot.state_dim}}};
  return features;
}

/// Relative dims are told by names: LeRobot excludes joints whose name contains one of the excluded words.
void add_relative_actions(const PolicySpec& spec, Json& json) {
  const auto& mask = spec.robot.delta_mask;
  json["use_relative_actions"] = !mask.empty();
  json["relative_exclude_joints"] = {"gripper"};
  json["action_feature_names"] = nullptr;
  if (mask.empty()) return;
  Json names = Json::array();
  for (std::int64_t i = 0; i < spec.robot.action_dim; ++i)
    names.push_back(str(i < static_cast<std::int64_t>(mask.size()) && mask[i] ? "joint_" : "gripper_", i));
  json["action_feature_names"] = names;
}

/// LeRobot's variants have 18 layers. It would build so many for a policy of fewer, only print that the
/// weights do not fit, and run it with random ones (from_pretrained in its modeling_pi05.py): variants that
/// it does not know stop it, and an export's load_shallow.py knows them.
std::string variant_name(const char* name, const PolicyConfig& config) {
  return has_released_depth(config) ? name : str(name, "_", config.depth(), "_layers_needs_load_shallow.py");
}

}  // namespace

std::string lerobot_camera(const PolicySpec& spec, const std::string& camera) {
  const auto own = spec.lerobot_cameras.find(camera);
  if (own != spec.lerobot_cameras.end()) return own->second;
  if (camera.starts_with("observation.")) return camera;
  const auto named = [&](std::string_view base, std::string_view left, std::string_view right) {
    if (camera == "base_0_rgb") return std::string(base);
    if (camera == "left_wrist_0_rgb") return std::string(left);
    if (camera == "right_wrist_0_rgb") return std::string(right);
    return camera;
  };
  std::string name = camera;
  if (spec.robot.kind == RobotKind::kLibero) name = named("image", "image2", "right_wrist_0_rgb");
  if (spec.robot.kind == RobotKind::kAloha) name = named("cam_high", "cam_left_wrist", "cam_right_wrist");
  return str(kImagePrefix, name);
}

std::string camera_of_lerobot(const std::string& feature) {
  const std::string name = feature.starts_with(kImagePrefix) ? feature.substr(kImagePrefix.size()) : feature;
  for (const CameraName& entry : kCameraNames)
    if (entry.lerobot == name) return std::string(entry.ours);
  return name;
}

std::string lerobot_config_json(const PolicyConfig& config, const PolicySpec& spec, torch::Dtype store) {
  const char* norm = uses_quantiles(spec.norm_mode) ? "QUANTILES" : "MEAN_STD";
  Json json = {{"type", enum_name(config.kind)},
               {"n_obs_steps", 1},
               {"input_features", features_json(config, spec)},
               {"output_features", {{"action", {{"type", "ACTION"}, {"shape", {spec.robot.action_dim}}}}}},
               {"device", nullptr},
               {"use_amp", false},
               {"use_peft", false},
               {"push_to_hub", false},
               {"repo_id", nullptr},
               {"private", nullptr},
               {"tags", nullptr},
               {"license", nullptr},
               {"pretrained_path", nullptr},
               {"pretrained_revision", nullptr},
               {"paligemma_variant", variant_name("gemma_2b", config)},
               {"action_expert_variant", variant_name("gemma_300m", config)},
               {"dtype", dtype_name(store)},
               {"chunk_size", spec.horizon},
               {"n_action_steps", spec.horizon},
               {"max_state_dim", std::max(config.action_dim, spec.robot.state_dim)},
               {"max_action_dim", config.action_dim},
               {"num_inference_steps", kEulerSteps},
               {"time_sampling_beta_alpha", 1.5},
               {"time_sampling_beta_beta", 1.0},
               {"time_sampling_scale", 0.999},
               {"time_sampling_offset", 0.001},
               {"min_period", kMinPeriod},
               {"max_period", kMaxPeriod}};
  add_relative_actions(spec, json);
  const Json rest = {{"rtc_config", nullptr},
                     {"image_resolution", {config.vision.image_size, config.vision.image_size}},
                     {"empty_cameras", 0},
                     {"tokenizer_max_length", spec.max_token_len},
                     {"normalization_mapping", {{"VISUAL", "IDENTITY"}, {"STATE", norm}, {"ACTION", norm}}},
                     {"gradient_checkpointing", false},
                     {"compile_model", false},
                     {"compile_mode", "max-autotune"},
                     {"freeze_vision_encoder", false},
                     {"train_expert_only", false},
                     {"optimizer_lr", 2.5e-05},
                     {"optimizer_betas", {0.9, 0.95}},
                     {"optimizer_eps", 1e-08},
                     {"optimizer_weight_decay", 0.01},
                     {"optimizer_grad_clip_norm", 1.0},
                     {"scheduler_warmup_steps", 1000},
                     {"scheduler_decay_steps", 30000},
                     {"scheduler_decay_lr", 2.5e-06}};
  for (const auto& [key, value] : rest.items()) json[key] = value;
  return json.dump(4) + "\n";
}

}  // namespace shallowpi::checkpoint
