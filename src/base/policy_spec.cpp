#include "shallowpi/base/policy_spec.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

constexpr std::int64_t kMaxImageSize = 8192, kMaxTokenLen = 100000;
constexpr std::size_t kMaxCameras = 64;

std::vector<std::string> robot_problems(const RobotSpec& robot) {
  std::vector<std::string> problems;
  if (robot.kind == RobotKind::kAloha && (robot.state_dim != kAlohaDim || robot.action_dim != kAlohaDim))
    problems.push_back(str("the ALOHA robot has ", kAlohaDim, " state and action values, not ",
                           robot.state_dim, " and ", robot.action_dim,
                           "; use robot kind 'joints' for other robots"));
  const std::int64_t reach = delta_reach(robot);
  if (reach > std::min(robot.state_dim, robot.action_dim))
    problems.push_back(str("delta_mask marks dim ", reach - 1, ", but there are ", robot.state_dim,
                           " state and ", robot.action_dim, " action values; shorten the mask"));
  return problems;
}

/// Whether `asset_id` stays within assets/ when it is used as a path
/// ("physical-intelligence/libero" has two levels).
bool is_safe_asset_id(const std::string& asset_id) {
  const std::filesystem::path path(asset_id);
  if (path.empty() || path.is_absolute() || asset_id.size() > 200 || asset_id.find('\0') != std::string::npos)
    return false;
  return std::none_of(path.begin(), path.end(), [](const std::filesystem::path& part) {
    return part == ".." || part == "." || part.empty();
  });
}

}  // namespace

std::int64_t delta_reach(const RobotSpec& robot) {
  return robot.delta_mask.rend() - std::find(robot.delta_mask.rbegin(), robot.delta_mask.rend(), true);
}

void check_robot(const RobotSpec& robot) {
  const std::vector<std::string> problems = robot_problems(robot);
  if (!problems.empty()) throw UsageError(join(problems, "; "));
}

std::vector<std::string> spec_problems(const PolicySpec& spec) {
  std::vector<std::string> problems = robot_problems(spec.robot);
  const auto in_range = [&](std::int64_t value, std::int64_t max, const char* what) {
    if (value < 1 || value > max) problems.push_back(str(what, " is ", value, ", expected 1 to ", max));
  };
  in_range(spec.horizon, kMaxHorizon, "horizon");
  in_range(spec.image_size, kMaxImageSize, "image_size");
  in_range(spec.max_token_len, kMaxTokenLen, "max_token_len");
  in_range(spec.robot.state_dim, max_state_dim(spec.prompt_mode, spec.action_width), "robot.state_dim");
  in_range(spec.robot.action_dim, spec.action_width, "robot.action_dim");
  if (spec.demo_image_size < 0) problems.push_back(str("demo_image_size is ", spec.demo_image_size));
  if (spec.control_hz != 0 && !is_control_rate(spec.control_hz))
    problems.push_back(str("control_hz is ", spec.control_hz));
  if (spec.rtc_training_max_delay < 0 || spec.rtc_training_max_delay >= spec.horizon)
    problems.push_back(str("rtc_training_max_delay is ", spec.rtc_training_max_delay,
                           ", expected 0 to less than the horizon, ", spec.horizon));
  if (spec.image_keys.size() > kMaxCameras)
    problems.push_back(str("image_keys lists ", spec.image_keys.size(), " cameras"));
  if (std::set<std::string>(spec.image_keys.begin(), spec.image_keys.end()).size() < spec.image_keys.size())
    problems.push_back(str("image_keys names a camera twice: ", join(spec.image_keys, ", ")));
  if (!is_safe_asset_id(spec.asset_id))
    problems.push_back(str("asset_id '", spec.asset_id, "' is not a relative path below assets/"));
  return problems;
}

void check_spec(const PolicySpec& spec) {
  const std::vector<std::string> problems = spec_problems(spec);
  if (!problems.empty()) throw UsageError(str("policy: ", join(problems, "; ")));
}

}  // namespace shallowpi
