// The files of a LeRobot 0.6.1 folder beside its weights: config.json, the two processor pipelines with their
// statistics, and the Python that lets LeRobot know the depth.
#include "model/checkpoint_internal.h"
#include "model/export.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/text.h"

namespace shallowpi::checkpoint {
namespace {

constexpr const char* kLoader =
    R"py("""Runs LeRobot 0.6.1, which knows 18 layers only, with policies of fewer, such as the one beside this file.

usage: python load_shallow.py lerobot-COMMAND [ARGUMENT...]   such as lerobot-eval --policy.path=FOLDER ...
       python load_shallow.py -m MODULE [ARGUMENT...]         such as lerobot.async_inference.policy_server
In Python, load() returns the policy of this folder.

The config.json of such a policy names variants that say how many layers they have. LeRobot alone refuses them. Leave
them so: under the plain names it builds 18 layers, prints a warning that the weights do not fit, and goes on with
random ones. What LeRobot trains from such a policy has these variants too; any load_shallow.py runs it.
"""
import functools
import importlib
import importlib.metadata
import pathlib
import re
import runpy
import sys

SHALLOW = re.compile(r"_(\d+)_layers_needs_load_shallow\.py$")  # how such a variant ends


@functools.cache
def patch(kind):
    """Lets LeRobot know such variants, and stop where weights do not fit, until this process ends.

    Returns the class of pi0's or pi05's policies. Variants without a number of layers stay as they are.
    """
    modeling = importlib.import_module(f"lerobot.policies.{kind}.modeling_{kind}")
    config_class, policy_class = (getattr(modeling, kind.upper() + part) for part in ("Config", "Policy"))
    full_size, validate = modeling.get_gemma_config, config_class.__post_init__
    load_weights, from_pretrained = policy_class.load_state_dict, policy_class.from_pretrained.__func__

    def get_gemma_config(variant):
        config = full_size(SHALLOW.sub("", variant))
        if shallow := SHALLOW.search(variant):
            config.depth = int(shallow[1])
        return config

    def post_init(config):
        variants = config.paligemma_variant, config.action_expert_variant
        config.paligemma_variant, config.action_expert_variant = (SHALLOW.sub("", name) for name in variants)
        validate(config)
        config.paligemma_variant, config.action_expert_variant = variants

    def load_state_dict(policy, *args, **kwargs):
        result = load_weights(policy, *args, **kwargs)
        policy.has_loaded = True
        return result

    def checked(cls, pretrained_name_or_path, **kwargs):
        policy = from_pretrained(cls, pretrained_name_or_path, **kwargs)
        if not getattr(policy, "has_loaded", False):  # LeRobot has caught and printed why
            raise RuntimeError(f"LeRobot did not load the weights of {pretrained_name_or_path}; see its messages above")
        return policy

    modeling.get_gemma_config, config_class.__post_init__ = get_gemma_config, post_init
    policy_class.load_state_dict, policy_class.from_pretrained = load_state_dict, classmethod(checked)
    return policy_class


def load(folder=pathlib.Path(__file__).parent, **kwargs):
    return patch("@kind@").from_pretrained(folder, **kwargs)


def patch_all():
    for kind in ("pi0", "pi05"):
        patch(kind)


@main@    module = arguments[:1] == ["-m"]
    sys.argv = arguments[module:]  # what the command sees
    if not sys.argv:
        fail(f"which command of LeRobot?\n{__doc__}")
    if module:
        patch_all()
        return runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    scripts = importlib.metadata.entry_points(group="console_scripts")
    commands = {script.name: script for script in scripts if script.name.startswith("lerobot-")}
    if not commands:
        fail(f"LeRobot is not installed for {sys.executable}; use the Python that has it")
    if sys.argv[0] not in commands:
        fail(f"LeRobot has no command {sys.argv[0]}; it has {', '.join(sorted(commands))}")
    patch_all()
    return commands[sys.argv[0]].load()()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
)py";

constexpr const char* kReadme = R"(# A @kind@ policy of @depth@ layers for LeRobot 0.6.1

@loads@

    python THIS_FOLDER/load_shallow.py lerobot-eval --policy.path=THIS_FOLDER ...

LeRobot's other commands (`lerobot-rollout`, `lerobot-train`, ...) run the same way, its policy server with
`-m lerobot.async_inference.policy_server`, and training on several GPUs with
`accelerate launch ... THIS_FOLDER/load_shallow.py lerobot-train ...`.
@warning@
From Python:

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

// Only where LeRobot's own table does not fit.
constexpr const char* kWarning = R"(
**Without `load_shallow.py` LeRobot refuses this folder**, and whatever it trained from it: "Invalid
paligemma_variant", after the names in `config.json`. Do not replace those by `gemma_2b` and `gemma_300m`: LeRobot
would then build 18 layers, print "Warning: Could not load state dict" and go on, on a robot too, with random weights.
)";

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
  if (info.spec.resize_mode == ResizeMode::kTorchLeRobot04)
    notes +=
        "\nLeRobot 0.4.x padded images that are not square with -3, and this policy learned from such; "
        "LeRobot 0.6.1 pads with -1, so expect worse actions from images that are not square.\n";
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
  return fill_template(text, {{"@main@", kLauncherMain},
                              {"@depth@", str(info.config.depth())},
                              {"@kind@", std::string(enum_name(info.config.kind))},
                              {"@loads@", how_to_load(info.config, CheckpointFormat::kLeRobot)},
                              {"@warning@", has_released_depth(info.config) ? "" : kWarning},
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
