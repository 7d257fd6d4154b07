// The files of a LeRobot 0.6.1 folder beside its weights: config.json, the two processor pipelines with their
// statistics, and the lines of Python that tell LeRobot the depth.
#include "model/checkpoint_internal.h"
#include "model/export.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/text.h"

namespace shallowpi::checkpoint {
namespace {

constexpr const char* kLoader =
    R"(# Loads the policy beside this file in LeRobot 0.6.1, whose variant table knows 18 layers only.
import pathlib

import torch
from lerobot.policies.@kind@ import modeling_@kind@ as modeling
from safetensors import safe_open

DEPTH = @depth@


def load(folder=pathlib.Path(__file__).parent, **kwargs):
    full_size = modeling.get_gemma_config

    def shallow(variant):
        config = full_size(variant)
        config.depth = DEPTH
        return config

    modeling.get_gemma_config = shallow
    try:
        policy = modeling.@class@.from_pretrained(folder, **kwargs)
    finally:
        modeling.get_gemma_config = full_size
    # LeRobot only prints a warning where the weights did not fit, and goes on with random ones.
    name = "model.action_out_proj.weight"
    with safe_open(pathlib.Path(folder) / "model.safetensors", "pt") as file:
        if not torch.equal(policy.state_dict()[name].cpu().float(), file.get_tensor(name).float()):
            raise RuntimeError(f"LeRobot did not load the weights of {folder}; see its messages")
    return policy
)";

constexpr const char* kReadme = R"(# A @kind@ policy of @depth@ layers for LeRobot 0.6.1

@loads@

```python
import sys; sys.path.insert(0, "THIS_FOLDER")
import load_shallow
from lerobot.policies.factory import make_pre_post_processors

policy = load_shallow.load()
device = {"device_processor": {"device": str(policy.config.device)}}
preprocess, postprocess = make_pre_post_processors(policy.config, "THIS_FOLDER", preprocessor_overrides=device)
```

`policy_preprocessor.json` and `policy_postprocessor.json` name the normalisation statistics.
@notes@)";

Json step_json(const char* name, Json config) {
  return {{"registry_name", name}, {"config", std::move(config)}};
}

Json feature_json(const char* type, std::int64_t width) {
  return {{"type", type}, {"shape", Json::array({width})}};
}

/// Writes the pipeline NAME.json; a normaliser gets a state file whose name holds its
/// position, as LeRobot's do.
void write_pipeline(const std::filesystem::path& folder, const std::string& name, std::vector<Json> steps,
                    const NamedTensors& stats) {
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const auto step = steps[i]["registry_name"].get<std::string>();
    if (stats.empty() || !step.ends_with("normalizer_processor")) continue;
    const std::string file = str(name, "_step_", i, "_", step, ".safetensors");
    write_safetensors(folder / file, stats);
    steps[i]["state_file"] = file;
  }
  write_json(folder / (name + ".json"), {{"name", name}, {"steps", steps}});
}

/// The flat tensors of a normaliser, cut to the robot's own dims (openpi's base statistics have 32).
NamedTensors stats_tensors(const CheckpointInfo& info) {
  NamedTensors tensors;
  if (!info.stats) return tensors;
  const NormMode from = info.spec.norm_mode;
  const NormMode to = uses_quantiles(from) ? NormMode::kLeRobotQuantiles : NormMode::kLeRobotMeanStd;
  const auto add = [&](const std::string& feature, const FeatureStats& stats, std::int64_t width) {
    const FeatureStats converted = convert_stats(stats, from, to);
    const auto put = [&](const char* stat, std::vector<double> values) {
      if (values.empty()) return;
      values.resize(std::min<std::size_t>(values.size(), width));
      tensors[str(feature, ".", stat)] = torch::tensor(values, torch::kFloat64).to(torch::kFloat32);
    };
    put("mean", converted.mean);
    put("std", converted.std);
    put("q01", converted.q01);
    put("q99", converted.q99);
  };
  add("observation.state", info.stats->state, info.spec.robot.state_dim);
  add("action", info.stats->actions, info.spec.robot.action_dim);
  return tensors;
}

/// The order of LeRobot's own pipelines: pi0 normalises last,
/// pi0.5 before it writes the state into the prompt.
std::vector<Json> preprocessor_steps(const CheckpointInfo& info, const Json& config, const Json& normalizer) {
  const Json relative =
      step_json("relative_actions_processor", {{"enabled", config["use_relative_actions"]},
                                               {"exclude_joints", config["relative_exclude_joints"]},
                                               {"action_names", config["action_feature_names"]}});
  const Json tokenizer = step_json("tokenizer_processor", {{"max_length", info.spec.max_token_len},
                                                           {"task_key", "task"},
                                                           {"padding_side", "right"},
                                                           {"padding", "max_length"},
                                                           {"truncation", true},
                                                           {"tokenizer_name", "google/paligemma-3b-pt-224"}});
  const Json device = step_json("device_processor", {{"device", "cpu"}, {"float_dtype", nullptr}});
  const Json new_line = step_json("pi0_new_line_processor", Json::object());
  const Json state_prompt = step_json("pi05_prepare_state_tokenizer_processor_step", Json::object());
  std::vector<Json> steps = {step_json("rename_observations_processor", {{"rename_map", Json::object()}}),
                             step_json("to_batch_processor", Json::object())};
  if (info.config.kind == PolicyKind::kPi0)
    steps.insert(steps.end(), {new_line, tokenizer, device, relative, normalizer});
  else
    steps.insert(steps.end(),
                 {relative, normalizer, prompt_reads_state(info.spec.prompt_mode) ? state_prompt : new_line,
                  tokenizer, device});
  return steps;
}

std::string notes_of(const CheckpointInfo& info) {
  std::string notes;
  if (info.config.vocab != PolicyConfig{}.vocab)
    notes +=
        "\nThe policy's tokenizer is not PaliGemma's: `policy_preprocessor.json` names "
        "google/paligemma-3b-pt-224 (`tokenizer_name`), which must be changed.\n";
  if (info.spec.prompt_mode == PromptMode::kPi05StatePadded32)
    notes +=
        "\nThe prompt that this policy learned has the state padded to 32 numbers (LeRobot 0.4.x); LeRobot "
        "0.6.1 writes the robot's own dims only, so expect worse actions.\n";
  if (info.spec.prompt_mode == PromptMode::kPi0Plain || info.spec.prompt_mode == PromptMode::kPi05NoState)
    notes +=
        "\nThis policy learned from prompts without underscores, newlines and outer spaces, as openpi cleans "
        "them; LeRobot takes them as they are. Give it clean ones.\n";
  if (info.spec.robot.kind == RobotKind::kAloha)
    notes +=
        "\nStates and actions are in pi's ALOHA convention (flipped joints, its gripper range); LeRobot does "
        "not convert them.\n";
  if (info.spec.resize_mode == ResizeMode::kPillow)
    notes +=
        "\nThis policy learned from images resized as Pillow does; LeRobot resizes without antialiasing. "
        "Give it images of the policy's size to avoid the difference.\n";
  if (!info.spec.default_prompt.empty())
    notes += str("\nObservations without a prompt get ", in_quotes(info.spec.default_prompt),
                 " here; give LeRobot that as the task.\n");
  // Not in config.json: a LeRobot that does not know a key there refuses the file.
  if (info.spec.rtc_training_max_delay > 0)
    notes += str("\nThis policy learned to continue up to ", info.spec.rtc_training_max_delay,
                 " given actions (real-time chunking). Where your LeRobot's configuration of the policy has "
                 "`rtc_training_max_delay`, write that number into `config.json`.\n");
  return notes;
}

std::string fill(const char* text, const CheckpointInfo& info) {
  return fill_template(text, {{"@depth@", str(info.config.depth())},
                              {"@kind@", std::string(enum_name(info.config.kind))},
                              {"@loads@", how_to_load(info.config, CheckpointFormat::kLeRobot)},
                              {"@class@", info.config.kind == PolicyKind::kPi05 ? "PI05Policy" : "PI0Policy"},
                              {"@notes@", notes_of(info)}});
}

}  // namespace

void write_lerobot_side_files(const std::filesystem::path& folder, const CheckpointInfo& info,
                              torch::Dtype store) {
  const std::string text = lerobot_config_json(info.config, info.spec, store);
  const Json config = Json::parse(text);
  write_file_atomically(folder / "config.json", text);
  Json features = config["input_features"];
  features["action"] = feature_json("ACTION", info.spec.robot.action_dim);
  const auto normalizer = [&](const char* name, const Json& normalized) {
    return step_json(
        name, {{"eps", 1e-8}, {"features", normalized}, {"norm_map", config["normalization_mapping"]}});
  };
  const NamedTensors stats = stats_tensors(info);
  write_pipeline(folder, "policy_preprocessor",
                 preprocessor_steps(info, config, normalizer("normalizer_processor", features)), stats);
  write_pipeline(folder, "policy_postprocessor",
                 {normalizer("unnormalizer_processor", {{"action", features["action"]}}),
                  step_json("absolute_actions_processor", {{"enabled", config["use_relative_actions"]}}),
                  step_json("device_processor", {{"device", "cpu"}, {"float_dtype", nullptr}})},
                 stats);
  write_file_atomically(folder / "load_shallow.py", fill(kLoader, info));
  write_file_atomically(folder / "README.md", fill(kReadme, info));
}

}  // namespace shallowpi::checkpoint
