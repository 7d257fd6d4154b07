// Writes folders of our own format.
#include "model/checkpoint_internal.h"
#include "model/export.h"
#include "model/tensor_names.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/text.h"
#include "shallowpi/model/layer_map.h"

namespace shallowpi {
namespace fs = std::filesystem;
namespace checkpoint {
namespace {

std::string model_name(PolicyKind kind) {
  return kind == PolicyKind::kPi05 ? "π0.5" : "π0";
}

/// The model card, with the front matter that model hubs read.
std::string model_card(const CheckpointContents& contents) {
  const PolicyConfig& config = contents.config;
  const PolicySpec& spec = contents.spec;
  const ParameterCount count = count_parameters(config);
  std::string text =
      str("---\nlibrary_name: shallowpi\npipeline_tag: robotics\ntags: [robotics, ", enum_name(config.kind),
          "]\n---\n\n# A ", model_name(config.kind), " policy of ", config.depth(), " layers\n\n");
  if (!contents.kept_layers.empty())
    text += str("A student that keeps layers ", join(contents.kept_layers, ", "),
                " of its teacher, in backbone and action expert alike.\n",
                contents.teacher_fingerprint.empty()
                    ? ""
                    : str("Teacher weights: `", contents.teacher_fingerprint, "`.\n"),
                "\n");
  const auto row = [](const auto& name, const auto& value) { return str("| ", name, " | ", value, " |\n"); };
  text += "| | |\n|---|---|\n";
  text += row("parameters that a forward pass reads", human_count(count.live));
  text += row("action horizon", spec.horizon);
  text += row("cameras", join(spec.image_keys, ", "));
  text += row("image size", config.vision.image_size);
  if (spec.demo_image_size > 0) text += row("image size in the demonstrations", spec.demo_image_size);
  if (spec.control_hz > 0) text += row("actions per second", spec.control_hz);
  if (spec.rtc_training_max_delay > 0)
    text += row("actions that may be given (real-time chunking)", spec.rtc_training_max_delay);
  text += row("prompt mode", enum_name(spec.prompt_mode));
  text += row("normalisation", enum_name(spec.norm_mode));
  text += row("robot", str(enum_name(spec.robot.kind), ", ", spec.robot.state_dim, " state and ",
                           spec.robot.action_dim, " action dims"));
  text +=
      "\n    shallowpi-infer inspect DIR\n"
      "    shallowpi-infer run --checkpoint DIR --input FILE.safetensors --output FILE.safetensors\n";
  if (has_released_heads(config)) text += "    shallowpi-distill export --checkpoint DIR --to lerobot OUT\n";
  if (!contents.card.empty()) text += str("\n", contents.card, contents.card.ends_with('\n') ? "" : "\n");
  return text;
}

}  // namespace

void write_stats(const fs::path& folder, const std::optional<NormStats>& stats, const std::string& asset_id) {
  if (!stats) return;
  const fs::path path = norm_stats_path(folder, asset_id);
  fs::create_directories(path.parent_path());
  write_file_atomically(path, norm_stats_json(*stats));
}

void write_tokenizer(const fs::path& folder, const std::string& bytes) {
  if (!bytes.empty()) write_file_atomically(folder / kTokenizer, bytes);
}

void write_own_side_files(const fs::path& folder, const CheckpointContents& contents, torch::Dtype store) {
  const std::vector<std::string> problems = spec_problems(contents.spec, contents.config);
  if (!problems.empty()) throw UsageError(str("a checkpoint cannot be written: ", join(problems, "; ")));
  write_file_atomically(folder / kOwnConfig, own_config_json(contents));
  write_file_atomically(folder / "config.json", lerobot_config_json(contents.config, contents.spec, store));
  write_file_atomically(folder / "README.md", model_card(contents));
  write_stats(folder, contents.stats, contents.spec.asset_id);
  write_tokenizer(folder, contents.tokenizer);
}

}  // namespace checkpoint

void write_checkpoint_files(const fs::path& folder, const CheckpointContents& contents,
                            const NamedTensors& tensors, torch::Dtype store,
                            const SafetensorsFolder* dead_from) {
  checkpoint::write_own_side_files(folder, contents, store);
  TensorPlan plan;
  const auto dead_names = dead_from ? canonical_names(*dead_from) : std::map<std::string, std::string>();
  for (const auto& [name, expected] : expected_tensors(contents.config)) {
    const torch::Dtype dtype = expected.keep_float32 ? torch::kFloat32 : store;
    if (name == names::kExpertHead) {
      const auto stored = dead_names.find(name);
      if (stored != dead_names.end() && dead_from->tensors().at(stored->second).shape == expected.shape)
        plan[name] = {dtype, expected.shape,
                      [dead_from, from = stored->second] { return dead_from->read(from); }};
      continue;
    }
    const auto it = tensors.find(name);
    if (it == tensors.end())
      throw Error(str("a checkpoint cannot be written: tensor '", name, "' is missing"));
    plan[name == names::kEmbedTokens ? names::kTiedHead : name] = {dtype, expected.shape,
                                                                   [tensor = it->second] { return tensor; }};
  }
  write_safetensors(folder / SafetensorsFolder::kFile, plan, checkpoint::tied_metadata());
}

void init_student(const CheckpointInfo& teacher, const std::vector<std::int64_t>& kept, const fs::path& out) {
  check_layer_map(kept, teacher.config.depth());
  const SafetensorsFolder file(teacher.folder);
  checkpoint::check_tensors(teacher.folder, file, canonical_names(file), teacher.config);
  CheckpointContents contents;
  contents.config = teacher.config;
  contents.config.set_depth(static_cast<std::int64_t>(kept.size()));
  contents.spec = teacher.spec;
  contents.stats = teacher.stats;
  if (!teacher.tokenizer.empty()) contents.tokenizer = read_file(teacher.tokenizer);
  const bool is_copy = contents.config.depth() == teacher.config.depth();
  const bool is_of_a_student = is_copy && !teacher.kept_layers.empty();  // and keeps what it keeps
  contents.kept_layers = is_of_a_student ? teacher.kept_layers : kept;
  contents.teacher_fingerprint = is_of_a_student ? teacher.teacher_fingerprint : weights_fingerprint(teacher);
  contents.card = is_copy ? "A copy with its own settings: the weights are the teacher's."
                          : "Not trained yet: the weights are the teacher's.";
  publish_folder(out, [&](const fs::path& folder) {
    checkpoint::write_own_side_files(folder, contents, checkpoint::stored_dtype(file));
    write_safetensors(folder / SafetensorsFolder::kFile, checkpoint::copy_plan(file, contents.config, kept),
                      checkpoint::tied_metadata());
  });
}

}  // namespace shallowpi
