// shallowpi.json: what our checkpoints say beside LeRobot's config.json.
#include "model/checkpoint_internal.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi::checkpoint {
namespace fs = std::filesystem;
namespace {

constexpr std::int64_t kFormatVersion = 1;

Json gemma_json(const GemmaConfig& gemma) {
  return {{"width", gemma.width},       {"mlp", gemma.mlp},           {"heads", gemma.heads},
          {"kv_heads", gemma.kv_heads}, {"head_dim", gemma.head_dim}, {"layers", gemma.depth}};
}

Json architecture_json(const PolicyConfig& config) {
  const VisionConfig& vision = config.vision;
  return {{"kind", enum_name(config.kind)},
          {"layers", config.depth()},
          {"backbone", gemma_json(config.backbone)},
          {"expert", gemma_json(config.expert)},
          {"vision",
           {{"layers", vision.depth},
            {"width", vision.width},
            {"mlp", vision.mlp},
            {"heads", vision.heads},
            {"patch", vision.patch},
            {"image_size", vision.image_size}}},
          {"vocab", config.vocab},
          {"action_dim", config.action_dim}};
}

template <typename E>
E get_enum(const Json& json, std::string_view key, const std::string& where) {
  try {
    return parse_enum<E>(json_get<std::string>(json, key, where), key);
  } catch (const UsageError& error) {
    throw CorruptError(str(where, ": ", error.what()));
  }
}

PolicySpec read_spec(const Json& json, const std::string& where) {
  PolicySpec spec;
  spec.horizon = json_get<std::int64_t>(json, "horizon", where);
  spec.image_size = json_get<std::int64_t>(json, "image_size", where);
  spec.image_keys = json_get<std::vector<std::string>>(json, "image_keys", where);
  const Json lerobot_cameras = json_get_or<Json>(json, "lerobot_cameras", Json::object(), where);
  for (const auto& entry : lerobot_cameras.items())
    spec.lerobot_cameras[entry.key()] = json_get<std::string>(lerobot_cameras, entry.key(), where);
  spec.prompt_mode = get_enum<PromptMode>(json, "prompt_mode", where);
  spec.max_token_len = json_get<std::int64_t>(json, "max_token_len", where);
  spec.norm_mode = get_enum<NormMode>(json, "norm_mode", where);
  spec.resize_mode = get_enum<ResizeMode>(json, "resize_mode", where);
  const Json robot = json_get<Json>(json, "robot", where);
  spec.robot.kind = get_enum<RobotKind>(robot, "kind", where);
  spec.robot.state_dim = json_get<std::int64_t>(robot, "state_dim", where);
  spec.robot.action_dim = json_get<std::int64_t>(robot, "action_dim", where);
  spec.robot.delta_mask = json_get<std::vector<bool>>(robot, "delta_mask", where);
  spec.asset_id = json_get<std::string>(json, "asset_id", where);
  spec.default_prompt = json_get<std::string>(json, "default_prompt", where);
  spec.demo_image_size = json_get_or<std::int64_t>(json, "demo_image_size", 0, where);
  spec.control_hz = json_get_or<double>(json, "control_hz", 0, where);
  spec.rtc_training_max_delay = json_get_or<std::int64_t>(json, "rtc_training_max_delay", 0, where);
  return spec;
}

}  // namespace

std::vector<std::string> spec_problems(PolicySpec spec, const PolicyConfig& config) {
  spec.action_width = config.action_dim;
  std::vector<std::string> problems = shallowpi::spec_problems(spec);
  if (spec.image_size != config.vision.image_size)
    problems.push_back(
        str("image_size is ", spec.image_size, ", but the vision tower takes ", config.vision.image_size));
  return problems;
}

std::string own_config_json(const CheckpointContents& contents) {
  const PolicySpec& spec = contents.spec;
  const Json robot = {{"kind", enum_name(spec.robot.kind)},
                      {"state_dim", spec.robot.state_dim},
                      {"action_dim", spec.robot.action_dim},
                      {"delta_mask", spec.robot.delta_mask}};
  Json json = {{"format_version", kFormatVersion},
               {"architecture", architecture_json(contents.config)},
               {"kept_layers", contents.kept_layers},
               {"teacher_fingerprint", contents.teacher_fingerprint},
               {"horizon", spec.horizon},
               {"image_size", spec.image_size},
               {"image_keys", spec.image_keys},
               {"resize_mode", enum_name(spec.resize_mode)},
               {"prompt_mode", enum_name(spec.prompt_mode)},
               {"max_token_len", spec.max_token_len},
               {"default_prompt", spec.default_prompt},
               {"norm_mode", enum_name(spec.norm_mode)},
               {"norm_epsilon", norm_epsilon(spec.norm_mode)},
               {"asset_id", spec.asset_id},
               {"robot", robot}};
  if (!spec.lerobot_cameras.empty()) json["lerobot_cameras"] = spec.lerobot_cameras;
  if (spec.demo_image_size > 0) json["demo_image_size"] = spec.demo_image_size;
  if (spec.control_hz > 0) json["control_hz"] = spec.control_hz;
  if (spec.rtc_training_max_delay > 0) json["rtc_training_max_delay"] = spec.rtc_training_max_delay;
  return json.dump(2) + "\n";
}

void read_own(const Shapes& shapes, CheckpointInfo& info) {
  const fs::path path = info.folder / kOwnConfig;
  const std::string where = path.string();
  const Json json = read_json(path);
  const auto version = json_get<std::int64_t>(json, "format_version", where);
  if (version != kFormatVersion)
    throw UsageError(str(where, ": format version ", version, " is not known here (this program reads ",
                         kFormatVersion, "); use the version of shallowpi that wrote it, or a newer one"));
  const Json architecture = json_get<Json>(json, "architecture", where);
  const auto heads = json_get<std::int64_t>(json_get<Json>(architecture, "backbone", where), "heads", where);
  const auto vision_heads =
      json_get<std::int64_t>(json_get<Json>(architecture, "vision", where), "heads", where);
  info.config = infer_config_of(info.folder, shapes, heads, vision_heads);
  // nlohmann::json sorts keys: their order in the file does not matter.
  if (nlohmann::json(architecture) != nlohmann::json(architecture_json(info.config)))
    throw CorruptError(str(where, ": the architecture that it states is not that of the weights, which is ",
                           architecture_json(info.config).dump(), "; the files do not belong together"));
  info.spec = read_spec(json, where);
  const std::vector<std::string> problems = spec_problems(info.spec, info.config);
  if (!problems.empty()) throw CorruptError(str(where, ": ", join(problems, "; ")));
  info.kept_layers = json_get<std::vector<std::int64_t>>(json, "kept_layers", where);
  if (!info.kept_layers.empty() && static_cast<std::int64_t>(info.kept_layers.size()) != info.config.depth())
    throw CorruptError(str(where, ": kept_layers lists ", info.kept_layers.size(),
                           " layers and the weights have ", info.config.depth()));
  info.teacher_fingerprint = json_get<std::string>(json, "teacher_fingerprint", where);
  const fs::path stats = norm_stats_path(info.folder, info.spec.asset_id);
  if (fs::exists(stats)) info.stats = read_norm_stats(stats);
}

}  // namespace shallowpi::checkpoint
