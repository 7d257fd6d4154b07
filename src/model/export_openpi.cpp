// The files of an openpi folder beside its weights.
#include "model/checkpoint_internal.h"
#include "model/export.h"
#include "shallowpi/base/cli.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/text.h"

namespace shallowpi::checkpoint {
namespace {

constexpr const char* kLoader =
    R"py("""Runs openpi's scripts, which know 18 layers only, with the depth of the policy beside this file.

usage: python load_shallow.py SCRIPT [ARGUMENT...]      such as scripts/serve_policy.py, scripts/train_pytorch.py
In Python, call set_depth() before openpi creates the model.

Every policy of that process gets this depth; openpi stops with an error where weights have another.
"""
import dataclasses
import pathlib
import runpy
import sys

DEPTH = @depth@


def set_depth():
    import openpi.models.gemma as gemma

    full_size = gemma.get_config
    gemma.get_config = lambda variant: dataclasses.replace(full_size(variant), depth=DEPTH)


@main@    if not arguments:
        fail(f"which of openpi's scripts?\n{__doc__}")
    script = pathlib.Path(arguments[0])
    if not script.is_file():
        fail(f"there is no script {script}; name one of openpi's, such as OPENPI/scripts/serve_policy.py")
    set_depth()
    sys.argv, sys.path[0] = arguments, str(script.resolve().parent)  # as where Python starts the script itself
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
)py";

constexpr const char* kReadme = R"(# A @kind@ policy of @depth@ layers for openpi

`model.safetensors` has openpi's tensor names. @loads@

    uv run python THIS_FOLDER/load_shallow.py scripts/serve_policy.py policy:checkpoint \
      --policy.config=YOUR_CONFIG --policy.dir=THIS_FOLDER

So does `scripts/train_pytorch.py`, also behind `torchrun`. From Python:

```python
import sys; sys.path.insert(0, "THIS_FOLDER")
import load_shallow
load_shallow.set_depth()

from openpi.policies import policy_config
from openpi.training import config
policy = policy_config.create_trained_policy(config.get_config("YOUR_CONFIG"), "THIS_FOLDER")
```

The training config must agree with how the policy was trained:

| setting | value |
|---|---|
| `model.pi05` | @pi05@ |
| `model.action_horizon` | @horizon@ |
| `model.max_token_len` | @tokens@ |
| `model.discrete_state_input` | @state@ |
| cameras in the order of the prefix | @cameras@ |
| asset id | `@asset@` |
| relative action dims (`extra_delta_transform`) | @delta@ |
@notes@)";

/// What this policy does otherwise than openpi.
std::string notes_on(const PolicySpec& spec) {
  std::string notes;
  if (spec.prompt_mode == PromptMode::kPi05StatePadded32)
    notes +=
        "\nThe prompt that this policy learned has the state padded to 32 numbers (LeRobot 0.4.x); openpi "
        "writes the robot's own dims only, so expect worse actions.\n";
  if (spec.prompt_mode == PromptMode::kLeRobotPi0)
    notes +=
        "\nThis policy learned from prompts as they were given (LeRobot); openpi replaces underscores and "
        "newlines by spaces and strips the prompt first.\n";
  if (spec.resize_mode != ResizeMode::kPillow)
    notes +=
        "\nThis policy learned from images resized as LeRobot does (no antialiasing); openpi resizes as "
        "Pillow does.\n";
  if (spec.resize_mode == ResizeMode::kTorchLeRobot04)
    notes +=
        "\nLeRobot 0.4.x padded images that are not square with -3, and this policy learned from such; "
        "openpi pads with -1, so expect worse actions from images that are not square.\n";
  if (!spec.default_prompt.empty())
    notes += str("\nObservations without a prompt get ", in_quotes(spec.default_prompt),
                 " here; give openpi the same as `default_prompt`.\n");
  if (spec.rtc_training_max_delay > 0)
    notes += str("\nThis policy learned to continue up to ", spec.rtc_training_max_delay,
                 " given actions (real-time chunking), which openpi does not give.\n");
  const std::vector<std::string> cameras = openpi_cameras(spec.image_keys);
  if (const std::string mapping = camera_mapping(spec.image_keys); !mapping.empty())
    notes += str("\nThis policy's cameras have other names or another order than openpi's: give it ", mapping,
                 ".\n");
  if (cameras.size() < kCanonicalCameras.size())
    notes +=
        "\nopenpi wants all three cameras: give zeros with `image_mask` False for those that this policy "
        "does not see.\n";
  return notes;
}

}  // namespace

void write_openpi_side_files(const std::filesystem::path& folder, const CheckpointInfo& info,
                             torch::Dtype store) {
  const PolicySpec& spec = info.spec;
  const bool pi05 = info.config.kind == PolicyKind::kPi05;
  const Json config = {{"action_dim", info.config.action_dim},
                       {"action_horizon", spec.horizon},
                       {"paligemma_variant", "gemma_2b"},
                       {"action_expert_variant", "gemma_300m"},
                       {"precision", dtype_name(store)}};
  write_json(folder / "config.json", config);
  const std::vector<std::string> cameras = openpi_cameras(spec.image_keys);
  std::vector<std::size_t> relative;
  for (std::size_t dim = 0; dim < spec.robot.delta_mask.size(); ++dim)
    if (spec.robot.delta_mask[dim]) relative.push_back(dim);
  const std::vector<std::pair<std::string, std::string>> values = {
      {"@main@", kLauncherMain},
      {"@depth@", str(info.config.depth())},
      {"@kind@", std::string(enum_name(info.config.kind))},
      {"@loads@", how_to_load(info.config, CheckpointFormat::kOpenpi)},
      {"@pi05@", pi05 ? "True" : "False"},
      {"@horizon@", str(spec.horizon)},
      {"@tokens@", str(spec.max_token_len)},
      {"@state@", prompt_reads_state(spec.prompt_mode) ? "True" : "False"},
      {"@cameras@", cameras.empty() ? "none" : str("`", join(cameras, "`, `"), "`")},
      {"@asset@", spec.asset_id},
      {"@delta@", relative.empty() ? "none" : join(relative, ", ")},
      {"@notes@", notes_on(spec)}};
  write_file_atomically(folder / "load_shallow.py", fill_template(kLoader, values));
  write_file_atomically(folder / "README.md", fill_template(kReadme, values));
  if (!info.stats) return;
  // openpi takes z-scores for pi0 and quantiles for pi0.5, whatever the checkpoint.
  const NormMode mode = pi05 ? NormMode::kQuantile : NormMode::kZScore;
  const NormStats stats{convert_stats(info.stats->state, spec.norm_mode, mode),
                        convert_stats(info.stats->actions, spec.norm_mode, mode)};
  write_stats(folder, stats, spec.asset_id);
}

}  // namespace shallowpi::checkpoint
