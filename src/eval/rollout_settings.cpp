#include "eval/rollout_settings.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <numbers>

#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"
#include "shallowpi/runtime/action_chunk_controller.h"

namespace shallowpi {
namespace {

constexpr std::int64_t kMinImageSize = 16;

struct ProtocolValues {
  std::int64_t trials, settle, replan, image_size;
  std::uint64_t seed;
  std::map<std::string, std::int64_t> max_steps;
};

const ProtocolValues& values_of(Protocol protocol) {
  // openpi: examples/libero/main.py.
  // LeRobot: lerobot-eval with env.type=libero, n_episodes and n_action_steps as its docs use them.
  static const ProtocolValues kOpenpiValues = {50,
                                               10,
                                               5,
                                               256,
                                               7,
                                               {{"libero_spatial", 220},
                                                {"libero_object", 280},
                                                {"libero_goal", 300},
                                                {"libero_10", 520},
                                                {"libero_90", 400}}};
  static const ProtocolValues kLeRobotValues = [] {
    ProtocolValues values = kOpenpiValues;
    values.max_steps["libero_spatial"] = 280;
    values.trials = 10;
    values.image_size = 360;
    values.replan = 10;
    values.seed = 1000;
    return values;
  }();
  return protocol == Protocol::kOpenpi ? kOpenpiValues : kLeRobotValues;
}

double parse_number(std::string_view text, const std::string& option) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || !std::isfinite(value))
    throw UsageError(str(option, ": ", in_quotes(text), " is not a number"));
  return value;
}

std::pair<std::string, std::string> split_assignment(const std::string& text, const std::string& option,
                                                     const char* example) {
  const auto equals = text.find('=');
  if (equals == std::string::npos || equals == 0)
    throw UsageError(str(option, " ", text, ": expected NAME=VALUE, as in ", example));
  return {text.substr(0, equals), text.substr(equals + 1)};
}

Perturbation parse_perturbation(const std::string& text) {
  const std::string option = "--perturb " + text;
  const auto [name, value] = split_assignment(text, "--perturb", "target_xy=0.03");
  const auto underscore = name.rfind('_');
  Perturbation out;
  if (underscore != std::string::npos && underscore > 0) {
    out.object = name.substr(0, underscore);
    out.kind = name.substr(underscore + 1);
  }
  if (out.kind != "xy" && out.kind != "x" && out.kind != "y" && out.kind != "r")
    throw UsageError(
        str(option, ": NAME must end in _xy, _x, _y (uniform within +-VALUE) or _r (exactly VALUE away)"));
  out.metres = parse_number(value, option);
  if (out.metres < 0 || out.metres > 1) throw UsageError(str(option, ": the displacement must be 0 to 1 m"));
  return out;
}

Movement parse_movement(const std::string& text) {
  const std::string option = "--move " + text;
  auto [name, value] = split_assignment(text, "--move", "basket=0.008 or basket=0.008@90");
  Movement out{.object = name, .speed = 0, .angle = {}};
  if (const auto at = value.find('@'); at != std::string::npos) {
    out.angle = parse_number(std::string_view(value).substr(at + 1), option) * std::numbers::pi / 180;
    value.resize(at);
  }
  out.speed = parse_number(value, option);
  if (out.speed < 0 || out.speed > 1) throw UsageError(str(option, ": the speed must be 0 to 1 m/s"));
  return out;
}

/// The latency of one chunk in a report of `shallowpi-infer bench --json`.
double read_latency(const std::filesystem::path& path) {
  const Json report = read_json(path);
  const Json::json_pointer median("/ms/total/p50");
  if (report.contains("results") && report["results"].is_array() && report["results"].size() == 1 &&
      report["results"][0].contains(median) && report["results"][0][median].is_number())
    return report["results"][0][median].get<double>();
  throw CorruptError(str(path.string(),
                         ": is not a report of one policy by shallowpi-infer bench --json"
                         " (results[0].ms.total.p50); without --sweep, or give --latency-ms"));
}

void require_at_least(const char* option, std::int64_t value, std::int64_t least) {
  if (value < least) throw UsageError(str(option, " ", value, ": must be at least ", least));
}

}  // namespace

std::int64_t RolloutSettings::steps_allowed(const std::string& suite) const {
  if (max_steps) return *max_steps;
  const auto& steps = values_of(protocol).max_steps;
  const auto found = steps.find(suite);
  if (found == steps.end())
    throw UsageError(
        str("the ", enum_name(protocol), " protocol has no step limit for ", suite, ": give --max-steps"));
  return found->second;
}

bool RolloutSettings::records(std::int64_t trial) const {
  return trial < videos || std::find(video_trials.begin(), video_trials.end(), trial) != video_trials.end();
}

ChunkingOptions RolloutSettings::chunking_options(std::int64_t horizon) const {
  PolicySpec spec;
  spec.horizon = horizon;
  spec.robot = {RobotKind::kLibero, kLiberoStateDim, kLiberoActionDim, {}};
  ChunkingOptions options = chunking_for(spec);
  options.mode = chunking;
  options.execute = replan;
  options.control_hz = kControlHz;
  options.expected_delay = delay();
  return options;
}

Json RolloutSettings::json() const {
  Json out;
  out["protocol"] = enum_name(protocol);
  out["max_steps"] = max_steps ? Json(*max_steps) : Json(nullptr);
  out["settle"] = settle;
  out["replan"] = replan;
  out["image_size"] = image_size;
  out["seed"] = seed;
  out["perturb"] = Json::array();
  for (const Perturbation& p : perturb)
    out["perturb"].push_back({{"object", p.object}, {"kind", p.kind}, {"metres", p.metres}});
  out["move"] = Json::array();
  for (const Movement& m : move)
    out["move"].push_back(
        {{"object", m.object}, {"speed", m.speed}, {"angle", m.angle ? Json(*m.angle) : Json(nullptr)}});
  out["latency_ms"] = latency_ms;
  out["delay_steps"] = delay();
  out["chunking"] = enum_name(chunking);
  out["batch"] = batch;
  return out;
}

RolloutSettings resolve_settings(const RolloutOptions& options, std::int64_t demo_image_size) {
  const ProtocolValues& protocol = values_of(options.protocol);
  RolloutSettings out;
  out.protocol = options.protocol;
  out.max_steps = options.max_steps;
  out.trials = options.trials.value_or(protocol.trials);
  out.settle = options.settle.value_or(protocol.settle);
  out.replan = options.replan.value_or(protocol.replan);
  out.image_size =
      options.image_size.value_or(demo_image_size >= kMinImageSize ? demo_image_size : protocol.image_size);
  out.seed = options.seed.value_or(protocol.seed);
  for (const std::string& text : options.perturb) out.perturb.push_back(parse_perturbation(text));
  for (const std::string& text : options.move) out.move.push_back(parse_movement(text));
  if (!options.latency_from.empty() && options.latency_ms != 0)
    throw UsageError("--latency-ms and --latency-from contradict each other: drop one");
  out.latency_ms = options.latency_from.empty() ? options.latency_ms : read_latency(options.latency_from);
  out.chunking = options.chunking;
  out.batch = options.batch;
  out.videos = options.videos;
  out.video_trials = options.video_trials;
  out.always_render = options.always_render;
  if (!(out.latency_ms >= 0 && out.latency_ms <= kMaxLatencyMs))
    throw UsageError(str("--latency-ms ", out.latency_ms, " is not from 0 to ", kMaxLatencyMs));
  if (out.max_steps) require_at_least("--max-steps", *out.max_steps, 1);
  require_at_least("--settle", out.settle, 0);
  require_at_least("--replan", out.replan, 1);
  require_at_least("--image-size", out.image_size, kMinImageSize);
  require_at_least("--workers", options.workers, 1);
  require_at_least("--batch", out.batch, 1);
  require_at_least("--trials", out.trials, 1);
  require_at_least("--video", out.videos, 0);
  for (const std::int64_t trial : out.video_trials)
    if (trial < 0 || trial >= out.trials)
      throw UsageError(str("--video-trials ", trial, ": there are trials 0 to ", out.trials - 1));
  constexpr double kDay = 86400;
  if (!(options.step_timeout_s > 0 && options.step_timeout_s <= kDay))  // nor NaN
    throw UsageError(str("--timeout ", options.step_timeout_s, ": must be above 0 and at most ", kDay, " s"));
  constexpr std::uint64_t kMaxSeed = 0xfff00000;  // numpy takes 32 bits, and the trial is added
  if (out.seed > kMaxSeed) throw UsageError(str("--seed ", out.seed, ": must be at most ", kMaxSeed));
  return out;
}

}  // namespace shallowpi
