// openpi's PyTorch folders. They hold weights and statistics and little else; what is missing follows from
// the asset id and openpi's named configs.
#include <algorithm>

#include "model/checkpoint_internal.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi::checkpoint {
namespace fs = std::filesystem;
namespace {

/// {asset id, path} of every norm_stats.json, sorted. Asset ids have one or two levels.
std::vector<std::pair<std::string, fs::path>> find_stats(const fs::path& assets) {
  std::vector<std::pair<std::string, fs::path>> found;
  if (!fs::is_directory(assets)) return found;
  const auto look = [&](const fs::path& folder) {
    if (fs::exists(folder / "norm_stats.json"))
      found.push_back({fs::relative(folder, assets).generic_string(), folder / "norm_stats.json"});
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

/// The width of the robot's own numbers: early statistics are padded to the network's width with zeros.
std::int64_t real_width(const FeatureStats& stats, std::int64_t action_dim) {
  const auto is_zero = [](const std::vector<double>& values, std::size_t dim) {
    return dim >= values.size() || values[dim] == 0;
  };
  std::size_t width = stats.width();
  if (static_cast<std::int64_t>(width) < action_dim) return static_cast<std::int64_t>(width);
  while (width > 1 && is_zero(stats.mean, width - 1) && is_zero(stats.std, width - 1) &&
         is_zero(stats.q01, width - 1) && is_zero(stats.q99, width - 1))
    --width;
  return std::min(static_cast<std::int64_t>(width), action_dim);
}

/// Robot, prompt and delta actions of openpi's named config for this asset id: "trossen" or the dataset's
/// name.
void apply_asset(const std::string& asset_id, CheckpointInfo& info) {
  PolicySpec& spec = info.spec;
  const bool pi05 = info.config.kind == PolicyKind::kPi05;
  const auto names = [&asset_id](const char* robot) { return asset_id.find(robot) != std::string::npos; };
  if (names("libero")) {
    spec.robot = {RobotKind::kLibero, 8, 7, {}};
    if (pi05) {
      spec.prompt_mode = PromptMode::kPi05NoState;
      info.notes.push_back(str("assets of ", asset_id,
                               ": taken as openpi's pi05_libero, whose prompt has no robot state "
                               "(prompt mode pi05_no_state)"));
    } else {
      spec.robot.delta_mask = make_bool_mask({6, -1});
      info.notes.push_back(str("assets of ", asset_id,
                               ": taken as openpi's pi0_libero, whose actions are relative to the "
                               "state in all dims but the gripper"));
    }
  } else if (names("trossen") ||
             (names("aloha") && spec.robot.state_dim == 14 && spec.robot.action_dim == 14)) {
    const bool is_simulated = names("aloha_sim");  // openpi's pi0_aloha_sim
    spec.robot = {RobotKind::kAloha, 14, 14,
                  is_simulated ? std::vector<bool>() : make_bool_mask({6, -1, 6, -1})};
    info.notes.push_back(str("assets of ", asset_id, ": taken as ALOHA with ",
                             is_simulated ? "absolute" : "relative", " joint actions"));
  } else {
    info.notes.push_back(
        str("assets of ", asset_id, ": the robot is not known; joints are taken as they are, absolute"));
  }
}

void apply_stats(CheckpointInfo& info) {
  const auto found = find_stats(info.folder / "assets");
  if (found.empty()) {
    info.notes.push_back("there are no normalisation statistics (assets/<asset_id>/norm_stats.json)");
    return;
  }
  const auto& [asset_id, path] = found.front();
  if (found.size() > 1)
    info.notes.push_back(
        str("assets/ has statistics of ", found.size(), " robots; those of ", asset_id, " are used"));
  info.stats = read_norm_stats(path);
  info.spec.asset_id = asset_id;
  info.spec.robot.state_dim = real_width(info.stats->state, info.config.action_dim);
  info.spec.robot.action_dim = real_width(info.stats->actions, info.config.action_dim);
  apply_asset(asset_id, info);
}

}  // namespace

void read_openpi(const Shapes& shapes, CheckpointInfo& info) {
  info.config = infer_config_of(info.folder, shapes);
  const bool pi05 = info.config.kind == PolicyKind::kPi05;
  PolicySpec& spec = info.spec;
  spec.image_keys = {"base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"};
  spec.prompt_mode = pi05 ? PromptMode::kPi05State : PromptMode::kPi0Plain;
  spec.max_token_len = pi05 ? 200 : 48;
  spec.norm_mode = pi05 ? NormMode::kQuantile : NormMode::kZScore;
  spec.resize_mode = ResizeMode::kPillow;
  spec.robot = {RobotKind::kJoints, info.config.action_dim, info.config.action_dim, {}};
  apply_stats(info);
  const fs::path path = info.folder / "config.json";
  const Json json = fs::exists(path) ? read_json(path) : Json::object();
  const auto horizon = json_get_or<std::int64_t>(json, "action_horizon", 0, path.string());
  info.horizon_known = horizon != 0;
  spec.horizon = info.horizon_known ? horizon : 50;
  if (spec.horizon < 1 || spec.horizon > 10000)
    throw CorruptError(str(path.string(), ": action_horizon is ", horizon, ", expected 1 to 10000"));
  if (!info.horizon_known)
    info.notes.push_back("the folder does not say the action horizon; openpi's default of 50 is assumed");
}

}  // namespace shallowpi::checkpoint
