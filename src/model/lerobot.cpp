// Reads LeRobot's folders: config.json, and the two processor files with the statistics that they name.
// All of it is read leniently, since the files of different LeRobot versions differ;
// what was assumed goes into the warnings.
#include <algorithm>
#include <cmath>

#include "model/checkpoint_internal.h"
#include "model/export.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi::checkpoint {
namespace fs = std::filesystem;
namespace {

constexpr const char* kStateFeature = "observation.state";
constexpr const char* kActionFeature = "action";

/// One step of a processor pipeline.
struct Step {
  Json config;
  std::string state_file;  ///< empty where it has no state
};
using Steps = std::map<std::string, Step>;  // by registry name

/// The steps of FOLDER/NAME; empty where there is no such file.
Steps read_steps(const fs::path& path) {
  Steps steps;
  if (!fs::exists(path)) return steps;
  const std::string where = path.string();
  for (const Json& json : json_get<std::vector<Json>>(read_json(path), "steps", where)) {
    auto name = json_get_or<std::string>(json, "registry_name", "", where);
    if (name.empty()) name = json_get<std::string>(json, "class", where);
    Step step{json_get_or<Json>(json, "config", Json::object(), where),
              json_get_or<std::string>(json, "state_file", "", where)};
    if (step.state_file.find_first_of("/\\") != std::string::npos || step.state_file == "..")
      throw CorruptError(str(where, ": state_file '", step.state_file, "' is not a plain file name"));
    steps[name] = std::move(step);
  }
  return steps;
}

const Step* find_step(const Steps& steps, const std::string& name) {
  const auto it = steps.find(name);
  return it == steps.end() ? nullptr : &it->second;
}

/// The width of a feature of config.json; `fallback` where it is not described.
std::int64_t feature_width(const Json& features, const char* name, std::int64_t fallback,
                           const std::string& where) {
  const Json feature = json_get_or<Json>(features, name, Json::object(), where);
  const auto shape = json_get_or<std::vector<std::int64_t>>(feature, "shape", {fallback}, where);
  if (shape.size() != 1)
    throw CorruptError(
        str(where, ": feature ", name, " has shape ", shape_text(shape), ", expected one dimension"));
  return shape[0];
}

/// Statistics of one feature under LeRobot's names: "observation.state.mean" and so on.
class StatsFile {
 public:
  explicit StatsFile(const fs::path& path) : file_(open(path)) {}
  /// Empty where the file has no such statistic.
  std::vector<double> get(const std::string& feature, const char* stat) const {
    const std::string name = str(feature, ".", stat);
    if (!file_.contains(name)) return {};
    const torch::Tensor values = file_.read(name).to(torch::kFloat64).flatten();
    if (!values.isfinite().all().item<bool>())
      throw CorruptError(str(file_.path().string(), ": '", name, "' has values that are not finite"));
    return {values.data_ptr<double>(), values.data_ptr<double>() + values.numel()};
  }
  bool has_any(const std::string& feature) const {
    const auto& tensors = file_.tensors();
    return std::any_of(tensors.begin(), tensors.end(),
                       [&](const auto& entry) { return entry.first.starts_with(feature + "."); });
  }
  /// Of a feature's statistics; 0 where there are none.
  std::int64_t width(const std::string& feature) const {
    for (const char* stat : {"mean", "q01", "min"})
      if (const auto values = get(feature, stat); !values.empty()) return std::ssize(values);
    return 0;
  }
  const fs::path& path() const { return file_.path(); }

 private:
  static SafetensorsFile open(const fs::path& path) {
    if (!fs::exists(path))
      throw CorruptError(str(path.string(), ": the statistics that the processor file names are missing"));
    return SafetensorsFile(path);
  }
  SafetensorsFile file_;
};

/// The width of the robot's state where config.json says `said`. A fine-tuned base policy keeps the base's
/// padded width there, which LeRobot does not read: its normaliser goes by the statistics.
std::int64_t read_state_width(const Step& normalizer, std::int64_t said, CheckpointInfo& info) {
  const auto known = StatsFile(info.folder / normalizer.state_file).width(kStateFeature);
  if (known == 0 || known >= said) return said;
  info.notes.push_back(str("config.json says ", said, " state dims, the statistics ", known,
                           ": taken as a fine-tuned base policy's, with ", known));
  return known;
}

/// The two statistics that a mode reads; nothing for IDENTITY.
std::pair<const char*, const char*> stats_of_mode(const std::string& mode, const std::string& where) {
  if (mode == "MEAN_STD") return {"mean", "std"};
  if (mode == "QUANTILES") return {"q01", "q99"};
  if (mode == "QUANTILE10") return {"q10", "q90"};
  if (mode == "MIN_MAX") return {"min", "max"};
  if (mode == "IDENTITY") return {"", ""};
  throw UsageError(str(where, ": normalisation mode '", mode,
                       "' is not known (MEAN_STD, QUANTILES, QUANTILE10, MIN_MAX, IDENTITY)"));
}

/// Statistics that leave a feature as it is: QUANTILES over [-1, 1].
FeatureStats identity(std::int64_t width) {
  const auto all = [width](double value) { return std::vector<double>(width, value); };
  return {all(0), all(1), all(-1), all(1)};
}

/// MIN_MAX and QUANTILE10 use the formula of QUANTILES with other bounds, so their bounds are stored as q01
/// and q99.
FeatureStats read_feature(const StatsFile& file, const std::string& feature, const std::string& mode,
                          std::int64_t width) {
  if (mode == "IDENTITY") return identity(width);
  const auto [low, high] = stats_of_mode(mode, file.path().string());
  const bool by_mean = mode == "MEAN_STD";
  FeatureStats stats;
  stats.mean = file.get(feature, "mean");
  stats.std = file.get(feature, "std");
  stats.q01 = file.get(feature, by_mean ? "q01" : low);
  stats.q99 = file.get(feature, by_mean ? "q99" : high);
  if ((by_mean ? stats.mean : stats.q01).empty() || (by_mean ? stats.std : stats.q99).empty())
    throw CorruptError(str(file.path().string(), ": has no '", feature, ".", low, "' and '", feature, ".",
                           high, "', which normalisation by ", mode, " needs"));
  if (stats.mean.empty() || stats.std.empty()) {
    stats.mean = stats.std = std::vector<double>(stats.q01.size());
    for (std::size_t i = 0; i < stats.q01.size() && i < stats.q99.size(); ++i) {
      stats.mean[i] = (stats.q01[i] + stats.q99[i]) / 2;
      stats.std[i] = (stats.q99[i] - stats.q01[i]) / 2;
    }
  }
  for (const auto* values : {&stats.std, &stats.q01, &stats.q99})
    if (!values->empty() && values->size() != stats.width())
      throw CorruptError(
          str(file.path().string(), ": the statistics of ", feature, " have different widths"));
  return stats;
}

/// The modes of state and actions, as LeRobot's normaliser takes them: one that its map does not name leaves
/// the feature as it is.
struct NormModes {
  std::string state, actions;
};

NormModes read_modes(const Step* normalizer, const Json& config, const fs::path& folder, PolicyKind kind) {
  const std::string where = (folder / (normalizer ? "policy_preprocessor.json" : "config.json")).string();
  const Json& source = normalizer ? normalizer->config : config;
  const char* key = normalizer ? "norm_map" : "normalization_mapping";
  const Json map = json_get_or<Json>(source, key, Json::object(), where);
  const bool has_map = source.contains(key) && !source.at(key).is_null();
  const std::string silent = has_map ? "IDENTITY" : kind == PolicyKind::kPi05 ? "QUANTILES" : "MEAN_STD";
  const NormModes modes{json_get_or<std::string>(map, "STATE", silent, where),
                        json_get_or<std::string>(map, "ACTION", silent, where)};
  stats_of_mode(modes.state, where);
  stats_of_mode(modes.actions, where);
  const std::string images = json_get_or<std::string>(map, "VISUAL", "IDENTITY", where);
  if (images != "IDENTITY")
    throw UsageError(str(where, ": ", key, ": images are normalised by ", images,
                         ", which pi0 and pi0.5 are not made for; only IDENTITY is known"));
  return modes;
}

/// LeRobot leaves a feature of which the file has nothing as it is.
void skip_missing_feature(const StatsFile& file, const char* feature, std::string& mode,
                          CheckpointInfo& info) {
  if (mode == "IDENTITY" || file.has_any(feature)) return;
  info.warnings.push_back(str(file.path().filename().string(), " has no statistics of ", feature,
                              ": it is not normalised, as in LeRobot"));
  mode = "IDENTITY";
}

void read_stats(const Steps& pre, const Steps& post, const Json& config, CheckpointInfo& info) {
  PolicySpec& spec = info.spec;
  const Step* step = find_step(pre, "normalizer_processor");
  NormModes modes = read_modes(step, config, info.folder, info.config.kind);
  const auto choose_mode = [&] {
    const bool mean_std = modes.state == "MEAN_STD" && modes.actions == "MEAN_STD";
    spec.norm_mode = mean_std ? NormMode::kLeRobotMeanStd : NormMode::kLeRobotQuantiles;
    return mean_std;
  };
  choose_mode();
  if (!step || step->state_file.empty()) return;
  const StatsFile state_file(info.folder / step->state_file);
  // What turns the network's output into actions is the postprocessor's copy.
  const Step* unnormalizer = find_step(post, "unnormalizer_processor");
  const bool has_own = unnormalizer && !unnormalizer->state_file.empty();
  if (!has_own)
    info.warnings.push_back(str(
        post.empty() ? "there is no policy_postprocessor.json"
                     : "policy_postprocessor.json has no unnormalizer_processor with statistics",
        ": actions are put into the robot's units with the preprocessor's statistics; copy it and the file "
        "that it names from LeRobot's run"));
  const StatsFile action_file(info.folder / (has_own ? unnormalizer->state_file : step->state_file));
  skip_missing_feature(state_file, kStateFeature, modes.state, info);
  skip_missing_feature(action_file, kActionFeature, modes.actions, info);
  const bool mean_std = choose_mode();
  NormStats stats{read_feature(state_file, kStateFeature, modes.state, spec.robot.state_dim),
                  read_feature(action_file, kActionFeature, modes.actions, spec.robot.action_dim)};
  for (const auto& [mode, feature] : {std::pair{modes.state, &stats.state}, {modes.actions, &stats.actions}})
    if (!mean_std && mode == "MEAN_STD")
      *feature = convert_stats(*feature, NormMode::kLeRobotMeanStd, NormMode::kLeRobotQuantiles);
  if (!mean_std && (modes.state != "QUANTILES" || modes.actions != "QUANTILES"))
    info.notes.push_back(str("normalisation by ", modes.state, " (state) and ", modes.actions,
                             " (actions) is expressed as quantiles with the same result"));
  info.stats = std::move(stats);
}

void read_cameras(const Json& features, const std::string& where, CheckpointInfo& info) {
  std::vector<std::string> unknown, renamed;
  for (const auto& [name, feature] : features.items()) {
    if (json_get_or<std::string>(feature, "type", "", where) != "VISUAL") continue;
    if (name.find("empty_camera") != std::string::npos) continue;  // LeRobot's placeholders: never there
    std::string camera = camera_of_lerobot(name);
    const auto& known = info.spec.image_keys;
    if (std::find(known.begin(), known.end(), camera) != known.end())
      camera = name.starts_with(kImagePrefix) ? name.substr(kImagePrefix.size()) : name;
    if (!camera.ends_with("_rgb"))
      unknown.push_back(camera);
    else if (!name.ends_with(camera))
      renamed.push_back(str(name, " is ", camera));
    if (lerobot_camera(info.spec, camera) != name) info.spec.lerobot_cameras[camera] = name;
    info.spec.image_keys.push_back(camera);
  }
  if (!renamed.empty()) info.notes.push_back(str("cameras: ", join(renamed, ", ")));
  if (!unknown.empty())
    info.warnings.push_back(str("cameras ", join(unknown, ", "),
                                " have no openpi name; they are used in the order of config.json"));
}

/// Fine-tunes of a base policy say which camera of their data stands for which of the policy's.
void read_renamed_cameras(const Steps& pre, const std::string& where, CheckpointInfo& info) {
  const Step* step = find_step(pre, "rename_observations_processor");
  if (!step) return;
  const Json map = json_get_or<Json>(step->config, "rename_map", Json::object(), where);
  std::string options;
  for (const auto& [data, policy] : map.items())
    if (data.starts_with(kImagePrefix) && policy.is_string())
      options += str(" --camera ", data, "=", camera_of_lerobot(policy.get<std::string>()));
  if (!options.empty())
    info.notes.push_back("LeRobot renamed cameras of its data; scripts/convert_lerobot.py does with" +
                         options);
}

/// LeRobot's mask by joint names; without names every dim is relative.
std::vector<bool> read_delta_mask(const Steps& pre, const Json& config, std::int64_t action_dim,
                                  const std::string& where) {
  const Step* step = find_step(pre, "relative_actions_processor");
  const bool enabled = step ? json_get_or<bool>(step->config, "enabled", false, where)
                            : json_get_or<bool>(config, "use_relative_actions", false, where);
  if (!enabled) return {};
  const Json& source = step ? step->config : config;
  const auto excluded = json_get_or<std::vector<std::string>>(
      source, step ? "exclude_joints" : "relative_exclude_joints", {}, where);
  const auto names = json_get_or<std::vector<std::string>>(
      source, step ? "action_names" : "action_feature_names", {}, where);
  const auto lower = [](std::string text) {
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
    return text;
  };
  std::vector<bool> mask(action_dim, true);
  for (std::size_t i = 0; i < names.size() && i < mask.size(); ++i)
    for (const std::string& token : excluded)
      if (!token.empty() && lower(names[i]).find(lower(token)) != std::string::npos) mask[i] = false;
  return mask;
}

/// LeRobot 0.4 padded the state to 32 dims before it wrote it into pi0.5's prompt.
void read_prompt(const Steps& pre, const Json& config, bool is_lerobot04, const std::string& where,
                 CheckpointInfo& info) {
  const bool pi05 = info.config.kind == PolicyKind::kPi05;
  PolicySpec& spec = info.spec;
  spec.max_token_len = json_get_or<std::int64_t>(config, "tokenizer_max_length",
                                                 default_prompt_tokens(info.config.kind), where);
  if (const Step* tokenizer = find_step(pre, "tokenizer_processor"))
    spec.max_token_len =
        json_get_or<std::int64_t>(tokenizer->config, "max_length", spec.max_token_len, where);
  if (!pi05) {
    spec.prompt_mode = PromptMode::kLeRobotPi0;
  } else if (!pre.empty() && !find_step(pre, "pi05_prepare_state_tokenizer_processor_step")) {
    spec.prompt_mode = PromptMode::kPi05NoState;
  } else if (is_lerobot04) {
    spec.prompt_mode = PromptMode::kPi05StatePadded32;
  } else {
    spec.prompt_mode = PromptMode::kPi05State;
  }
}

/// What LeRobot can be told that this program cannot do, or does otherwise.
void check_settings(const Json& config, const std::string& where, CheckpointInfo& info) {
  const auto state_width = json_get_or<std::int64_t>(config, "max_state_dim", 32, where),
             action_width = json_get_or<std::int64_t>(config, "max_action_dim", 32, where);
  if (config.value("type", "") == "pi0" && state_width != action_width)
    throw UsageError(str(where, ": max_state_dim ", state_width, " and max_action_dim ", action_width,
                         " differ; only a pi0 with equal ones can be read"));
  // LeRobot's memory of earlier images has no weights of its own, so the file looks like any other.
  for (const char* key : {"use_visual_memory", "use_proprioceptive_memory"})
    if (json_get_or<bool>(config, key, false, where))
      throw UsageError(
          str(where, ": ", key, " is true; policies that see more than one frame cannot be read"));
  for (const auto& [key, usual] : {std::pair{"min_period", kMinPeriod}, {"max_period", kMaxPeriod}}) {
    const auto period = json_get_or<double>(config, key, usual, where);
    if (!(std::abs(period / usual - 1) < 1e-6))
      throw UsageError(str(where, ": ", key, " is ", period, "; only policies with ", usual, " can be read"));
  }
  const auto steps = json_get_or<std::int64_t>(config, "num_inference_steps", kEulerSteps, where);
  if (steps != kEulerSteps)
    info.warnings.push_back(str("config.json says num_inference_steps ", steps, "; ", kEulerSteps,
                                " are taken here: give --steps ", steps));
}

}  // namespace

void read_lerobot(const Shapes& shapes, bool has_embed_tokens, CheckpointInfo& info) {
  const fs::path path = info.folder / "config.json";
  const std::string where = path.string();
  const Json config = read_json(path);
  const auto type = json_get<std::string>(config, "type", where);
  if (type != "pi0" && type != "pi05")
    throw UsageError(str(where, ": a LeRobot policy of type '", type, "'; only pi0 and pi05 can be read"));
  check_settings(config, where, info);
  info.config = infer_config_of(info.folder, shapes);
  if (type != enum_name(info.config.kind))
    throw CorruptError(
        str(where, ": says '", type, "', but the weights are those of ", enum_name(info.config.kind)));
  PolicySpec& spec = info.spec;
  const Json inputs = json_get_or<Json>(config, "input_features", Json::object(), where);
  const Json outputs = json_get_or<Json>(config, "output_features", Json::object(), where);
  info.horizon_known = json_get_or<std::int64_t>(config, "chunk_size", 0, where) != 0;
  if (info.horizon_known) spec.horizon = json_get<std::int64_t>(config, "chunk_size", where);
  spec.rtc_training_max_delay = json_get_or<std::int64_t>(config, "rtc_training_max_delay", 0, where);
  spec.image_size = info.config.vision.image_size;
  const Steps pre = read_steps(info.folder / "policy_preprocessor.json");
  const Steps post = read_steps(info.folder / "policy_postprocessor.json");
  const Step* normalizer = find_step(pre, "normalizer_processor");
  const bool is_base = !normalizer || normalizer->state_file.empty();  // openpi's, in LeRobot's format
  // Two signs together: the token embedding is stored tied (as lm_head alone; 0.5.0 stores both), and
  // use_relative_actions is missing (0.5.1 added it). A base has learned nothing from LeRobot.
  const bool is_lerobot04 = !has_embed_tokens && !config.contains("use_relative_actions") && !is_base;
  spec.resize_mode = is_lerobot04 ? ResizeMode::kTorchLeRobot04 : ResizeMode::kTorch;
  spec.robot.state_dim = feature_width(inputs, kStateFeature, info.config.action_dim, where);
  if (!is_base) spec.robot.state_dim = read_state_width(*normalizer, spec.robot.state_dim, info);
  spec.robot.action_dim = feature_width(outputs, kActionFeature, info.config.action_dim, where);
  const bool libero = spec.robot.state_dim == kLiberoStateDim && spec.robot.action_dim == kLiberoActionDim;
  spec.robot.kind = libero ? RobotKind::kLibero : RobotKind::kJoints;
  read_cameras(inputs, where, info);
  read_renamed_cameras(pre, where, info);
  spec.robot.delta_mask = read_delta_mask(pre, config, spec.robot.action_dim, where);
  read_prompt(pre, config, is_lerobot04, where, info);
  if (is_lerobot04)
    info.warnings.push_back(
        str("written by LeRobot 0.4.x (lm_head alone, no use_relative_actions), which padded images that are "
            "not square with -3 instead of -1 (resize mode torch_lerobot04)",
            spec.prompt_mode == PromptMode::kPi05StatePadded32
                ? ", and the state in its prompt to 32 numbers (prompt mode pi05_state_padded32)"
                : ""));
  const std::vector<std::string> problems = spec_problems(spec, info.config);
  if (!problems.empty()) throw CorruptError(str(where, ": ", join(problems, "; ")));
  read_stats(pre, post, config, info);
}

}  // namespace shallowpi::checkpoint
