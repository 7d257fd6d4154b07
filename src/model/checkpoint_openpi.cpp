// openpi's PyTorch folders. They hold weights and statistics and little else; what is missing follows from
// the asset id and openpi's named configs.
#include <algorithm>

#include "model/checkpoint_internal.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi::checkpoint {
namespace fs = std::filesystem;
namespace {

/// The asset ids that `folder` has statistics of, sorted. They have one or two levels.
std::vector<std::string> find_stats(const fs::path& folder) {
  const fs::path assets = folder / "assets";
  std::vector<std::string> found;
  if (!fs::is_directory(assets)) return found;
  const auto look = [&](const fs::path& asset) {
    const std::string id = asset.lexically_relative(assets).generic_string();
    if (fs::exists(norm_stats_path(folder, id))) found.push_back(id);
  };
  for (const auto& entry : fs::directory_iterator(assets)) {
    if (!entry.is_directory()) continue;
    look(entry.path());
    for (const auto& inner : fs::directory_iterator(entry.path()))
      if (inner.is_directory()) look(inner.path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

/// The width of the robot's own numbers, at most `max`: early statistics are padded to the network's width,
/// `action_dim`, with zeros.
std::int64_t real_width(const FeatureStats& stats, std::int64_t action_dim, std::int64_t max) {
  const auto is_zero = [](const std::vector<double>& values, std::size_t dim) {
    return dim >= values.size() || values[dim] == 0;
  };
  std::size_t width = stats.width();
  if (static_cast<std::int64_t>(width) < action_dim) return static_cast<std::int64_t>(width);
  while (width > 1 && is_zero(stats.mean, width - 1) && is_zero(stats.std, width - 1) &&
         is_zero(stats.q01, width - 1) && is_zero(stats.q99, width - 1))
    --width;
  return std::min(static_cast<std::int64_t>(width), max);
}

/// openpi's configs of DROID's joint positions, of its UR5 example and of two arms have relative actions in
/// all dims but the grippers, DROID's also shorter prompts: nothing in the folder says so.
std::string unknown_robot(const CheckpointInfo& info) {
  const RobotSpec& robot = info.spec.robot;
  const std::int64_t joints = std::max<std::int64_t>(std::min(robot.action_dim - 1, robot.state_dim), 1);
  const bool has_two_arms = robot.action_dim >= kAlohaDim && robot.state_dim == kAlohaDim;
  const bool is_droid = info.spec.asset_id.find("droid") != std::string::npos;
  return str(
      "assets of ", info.spec.asset_id,
      ": the robot is not known, so its actions are taken as absolute joints and its prompts as at most ",
      info.spec.max_token_len,
      " tokens long. Where openpi's config of the policy says otherwise (DROID's joint positions are "
      "relative in 7 dims, in pi0 with 100 tokens), write a folder that says so: shallowpi-distill "
      "--init-only "
      "OUT teacher.checkpoint=",
      info.folder.string(), " 'policy.robot.delta_mask=[",
      has_two_arms ? std::string("6, -1, 6, -1") : str(joints, ", -1"), "]'",
      is_droid && info.config.kind == PolicyKind::kPi0 ? " policy.max_token_len=100" : "");
}

/// Robot, prompt and delta actions of openpi's named config for this asset id:
/// "trossen" or the dataset's name.
void apply_asset(const std::string& asset_id, CheckpointInfo& info) {
  PolicySpec& spec = info.spec;
  const bool pi05 = info.config.kind == PolicyKind::kPi05;
  const auto names = [&asset_id](const char* robot) { return asset_id.find(robot) != std::string::npos; };
  if (names("libero")) {
    spec.robot = {RobotKind::kLibero, kLiberoStateDim, kLiberoActionDim, {}};
    if (pi05) {
      spec.prompt_mode = PromptMode::kPi05NoState;
      info.warnings.push_back(str("assets of ", asset_id,
                                  ": taken as openpi's pi05_libero, whose prompt has no robot state "
                                  "(prompt mode pi05_no_state)"));
    } else {
      spec.robot.delta_mask = make_bool_mask({6, -1});
      info.warnings.push_back(str("assets of ", asset_id,
                                  ": taken as openpi's pi0_libero, whose actions are relative to the "
                                  "state in all dims but the gripper"));
    }
  } else if ((names("trossen") || names("aloha")) && spec.robot.state_dim == kAlohaDim &&
             spec.robot.action_dim == kAlohaDim) {
    const bool is_simulated = names("aloha_sim");  // openpi's pi0_aloha_sim
    spec.robot = {RobotKind::kAloha, kAlohaDim, kAlohaDim,
                  is_simulated ? std::vector<bool>() : make_bool_mask({6, -1, 6, -1})};
    if (is_simulated) spec.default_prompt = "Transfer cube";  // openpi's clients there send none
    info.warnings.push_back(
        str("assets of ", asset_id, ": taken as ALOHA with ", is_simulated ? "absolute" : "relative",
            " joint actions", is_simulated ? ", the default prompt \"Transfer cube\"" : "",
            " and pi's joint flips and gripper maps; for a policy that openpi trained with "
            "adapt_to_pi=False write a folder without these: shallowpi-distill --init-only OUT "
            "teacher.checkpoint=",
            info.folder.string(), " policy.robot.kind=joints"));
  } else {
    info.warnings.push_back(unknown_robot(info));
  }
}

void apply_stats(CheckpointInfo& info) {
  const std::vector<std::string> found = find_stats(info.folder);
  for (const fs::path& place : {info.folder, info.folder / "assets"})
    if (const fs::path file = place / "norm_stats.json"; found.empty() && fs::exists(file))
      info.warnings.push_back(
          str(file.string(), " is not where openpi has it, and not read: ", how_to_add_stats(info)));
  if (found.size() > 1) {  // openpi's base checkpoints
    info.asset_ids = found;
    info.warnings.push_back(str("normalisation statistics: ", how_to_add_stats(info)));
  }
  if (found.size() != 1) return;
  const std::string& asset_id = found.front();
  const std::int64_t width = info.config.action_dim;
  RobotSpec& robot = info.spec.robot;
  info.stats = read_norm_stats(norm_stats_path(info.folder, asset_id));
  info.spec.asset_id = asset_id;
  robot.state_dim = real_width(info.stats->state, width, max_state_dim(info.spec.prompt_mode, width));
  robot.action_dim = real_width(info.stats->actions, width, width);
  apply_asset(asset_id, info);
}

}  // namespace

void read_openpi(const Shapes& shapes, CheckpointInfo& info) {
  info.config = infer_config_of(info.folder, shapes);
  const bool pi05 = info.config.kind == PolicyKind::kPi05;
  PolicySpec& spec = info.spec;
  spec.image_keys = kCanonicalCameras;
  spec.prompt_mode = pi05 ? PromptMode::kPi05State : PromptMode::kPi0Plain;
  spec.max_token_len = default_prompt_tokens(info.config.kind);
  spec.norm_mode = pi05 ? NormMode::kQuantile : NormMode::kZScore;
  spec.resize_mode = ResizeMode::kPillow;
  spec.robot = {RobotKind::kJoints, info.config.action_dim, info.config.action_dim, {}};
  apply_stats(info);
  const fs::path path = info.folder / "config.json";
  const Json json = fs::exists(path) ? read_json(path) : Json::object();
  const auto horizon = json_get_or<std::int64_t>(json, "action_horizon", 0, path.string());
  info.horizon_known = horizon != 0;
  if (info.horizon_known) spec.horizon = horizon;
  if (spec.horizon < 1 || spec.horizon > kMaxHorizon)
    throw CorruptError(str(path.string(), ": action_horizon is ", horizon, ", expected 1 to ", kMaxHorizon));
}

}  // namespace shallowpi::checkpoint
