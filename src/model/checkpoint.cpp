#include "shallowpi/model/checkpoint.h"

#include <cmath>
#include <iterator>
#include <set>
#include <utility>

#include "model/checkpoint_internal.h"
#include "model/tensor_names.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/log.h"
#include "shallowpi/base/manifest.h"
#include "shallowpi/base/text.h"
#include "shallowpi/model/layer_map.h"

namespace shallowpi {
namespace fs = std::filesystem;
namespace {

/// openpi's own training writes JAX arrays into params/, which scripts/convert_jax.py reads.
[[noreturn]] void refuse_jax(const fs::path& folder) {
  const std::string path = folder.string();
  throw UsageError(str(
      path,
      ": this is a JAX checkpoint (it has params/ and no model.safetensors). Convert it, which needs neither "
      "JAX nor a GPU:\n  python3 -m venv ~/convert && ~/convert/bin/pip install tensorstore\n  "
      "~/convert/bin/python scripts/convert_jax.py ",
      path, " --out ", path,
      "_pytorch --horizon H\nH is the number of action steps of a chunk, which a JAX checkpoint does not say "
      "(",
      kUsualHorizons, ")"));
}

/// "owner/name", as the Hub calls its repositories.
bool looks_like_hub_id(const fs::path& path) {
  return path.is_relative() && std::distance(path.begin(), path.end()) == 2 && path.has_filename() &&
         !fs::exists(path.parent_path());
}

/// A checkpoint somewhat below `folder`, the last one by name, for who has named its run; empty: none.
fs::path checkpoint_below(const fs::path& folder) {
  constexpr int kDepth = 3, kMostEntries = 10000;
  std::set<std::pair<std::size_t, fs::path>> found;  // by length first: step 10000 is after 9000
  std::error_code unreadable;
  int seen = 0;
  constexpr auto kSkip = fs::directory_options::skip_permission_denied;
  for (auto entry = fs::recursive_directory_iterator(folder, kSkip, unreadable);
       entry != fs::recursive_directory_iterator() && seen++ < kMostEntries; entry.increment(unreadable)) {
    if (entry.depth() == kDepth) entry.disable_recursion_pending();
    const bool is_half_written = is_temporary(entry->path());
    if (is_half_written) entry.disable_recursion_pending();
    if (!is_half_written && fs::exists(entry->path() / SafetensorsFolder::kFile, unreadable))
      found.emplace(entry->path().string().size(), entry->path());
  }
  return found.empty() ? fs::path() : found.rbegin()->second;
}

/// The folder that holds the weights: `folder`, or its pretrained_model (LeRobot's training writes that).
fs::path find_weights(const fs::path& folder) {
  if (!fs::exists(folder))
    throw UsageError(str(folder.string(), ": there is no such checkpoint folder",
                         looks_like_hub_id(folder)
                             ? str("; if it is one of the Hub, download it first: hf download ",
                                   folder.string(), " --local-dir checkpoints/", folder.filename().string())
                             : std::string()));
  if (!fs::is_directory(folder))
    throw UsageError(str(folder.string(), ": this is a file; give the checkpoint folder that it is in"));
  if (SafetensorsFolder::exists(folder)) return folder;
  if (SafetensorsFolder::exists(folder / "pretrained_model")) return folder / "pretrained_model";
  const fs::path plain = (folder / "").parent_path();  // without a trailing slash
  if (fs::is_directory(folder / "params")) refuse_jax(plain);
  if (plain.filename() == "params" && fs::exists(plain / "_METADATA")) refuse_jax(plain.parent_path());
  const fs::path below =
      SafetensorsFolder::exists(folder / "last") ? folder / "last" : checkpoint_below(folder);
  std::string hint = below.empty() ? "" : str("; did you mean ", below.string(), "?");
  if (fs::exists(folder / "adapter_config.json") ||
      fs::exists(folder / "pretrained_model/adapter_config.json"))
    hint =
        str(". It is a PEFT adapter: merge the adapter into its base first, the policy that "
            "adapter_config.json names: scripts/merge_adapter.py ",
            folder.string(), " --base BASE --out OUT");
  for (const char* pickle : {"pytorch_model.bin", "model.pt", "model.pth"})
    if (fs::exists(folder / pickle))
      hint = str(". Pickled weights (", pickle,
                 ") are never read, since loading them can run code: save them as safetensors");
  throw UsageError(str(folder.string(), ": no weights here: neither ", SafetensorsFolder::kFile, " nor ",
                       SafetensorsFolder::kIndex, hint));
}

/// What is neither openpi's nor LeRobot's format, but was made from it.
void refuse_other_formats(const fs::path& folder, const SafetensorsFolder& file) {
  for (const auto& [name, tensor] : file.tensors()) {
    if (name.find("lora_") != std::string::npos || name.find(".base_layer.") != std::string::npos)
      throw UsageError(str(folder.string(), ": has LoRA tensors, such as ", name,
                           ": merge them into the weights first (PEFT's merge_and_unload) and save that"));
    if (name.find("normalize_inputs.") != std::string::npos)
      throw UsageError(
          str(folder.string(), ": has statistics among its weights (", name,
              "), as LeRobot wrote them before it had processors: have LeRobot convert it first, python -m "
              "lerobot.processor.migrate_policy_normalization --pretrained-path ",
              folder.string()));
  }
}

bool lists_own_config(const fs::path& manifest) {
  if (!fs::exists(manifest)) return false;
  const Json json = read_json(manifest);
  return json.contains("files") && json.at("files").contains(checkpoint::kOwnConfig);
}

CheckpointFormat detect_format(const fs::path& folder) {
  if (fs::exists(folder / checkpoint::kOwnConfig)) return CheckpointFormat::kShallowPi;
  if (lists_own_config(folder / kManifest))
    throw CorruptError(str(folder.string(), ": manifest.json lists ", checkpoint::kOwnConfig,
                           ", which is missing; copy the folder again"));
  const fs::path config = folder / "config.json";
  if (!fs::exists(config)) return CheckpointFormat::kOpenpi;
  const Json json = read_json(config);
  return json.is_object() && json.contains("type") ? CheckpointFormat::kLeRobot : CheckpointFormat::kOpenpi;
}

Policy load(const CheckpointInfo& info, const PolicyConfig& config, const std::vector<std::int64_t>& kept,
            torch::Dtype dtype, torch::Device device, PolicyOptions options) {
  const SafetensorsFolder file(info.folder);
  const auto names = canonical_names(file);
  checkpoint::check_tensors(info.folder, file, names, info.config);
  const torch::NoGradGuard no_grad;
  Policy policy(config, dtype, device, options);
  for (auto& [name, tensor] : policy->named_tensors()) {
    file.read_into(names.at(checkpoint::source_name(name, kept)), tensor);
    // Such a weight would spoil every result, most of them without a word.
    if (!std::isfinite(tensor.sum().item<double>()))
      throw CorruptError(str(info.folder.string(), ": tensor ", name,
                             " is not finite; `shallowpi-infer inspect` says what else is wrong with it"));
  }
  return policy;
}

}  // namespace

CheckpointInfo read_checkpoint_info(const fs::path& folder, std::optional<std::int64_t> horizon) {
  if (horizon && (*horizon < 1 || *horizon > kMaxHorizon))
    throw UsageError(str("horizon ", *horizon, " is not within 1 to ", kMaxHorizon));
  CheckpointInfo info;
  info.folder = fs::canonical(find_weights(folder));  // RUN/last moves on while its run goes on
  const SafetensorsFolder file(info.folder);
  refuse_other_formats(info.folder, file);
  const auto names = canonical_names(file);
  const checkpoint::Shapes shapes = checkpoint::shapes_of(file, names);
  const bool has_embed_tokens =
      file.contains(names::kEmbedTokens) || file.contains("model." + names::kEmbedTokens);
  info.format = detect_format(info.folder);
  switch (info.format) {
    case CheckpointFormat::kShallowPi:
      checkpoint::read_own(shapes, info);
      break;
    case CheckpointFormat::kOpenpi:
      checkpoint::read_openpi(shapes, info);
      break;
    case CheckpointFormat::kLeRobot:
      checkpoint::read_lerobot(shapes, has_embed_tokens, info);
      break;
  }
  checkpoint::check_tensors(info.folder, file, names, info.config);
  info.spec.image_size = info.config.vision.image_size;
  info.spec.action_width = info.config.action_dim;
  if (fs::exists(info.folder / checkpoint::kTokenizer)) info.tokenizer = info.folder / checkpoint::kTokenizer;
  if (horizon) {
    if (info.horizon_known && info.spec.horizon != *horizon)
      log::warning(info.folder.string(), ": the horizon is set to ", *horizon, "; the folder says ",
                   info.spec.horizon);
    info.spec.horizon = *horizon;
    info.horizon_known = true;
  }
  return info;
}

std::string unknown_horizon(const CheckpointInfo& info) {
  return str(info.folder.string(), " does not say how many action steps a chunk has (", kUsualHorizons, ")");
}

void require_horizon(const CheckpointInfo& info) {
  if (!info.horizon_known)
    throw UsageError(unknown_horizon(info) + ": give --horizon H, or horizon in C and C++");
}

void log_warnings(const CheckpointInfo& info) {
  for (const std::string& warning : info.warnings) log::warning(info.folder.string(), ": ", warning);
  if (is_pi0_prompt(info.spec.prompt_mode) != (info.config.kind == PolicyKind::kPi0))
    log::warning(info.folder.string(), ": a ", enum_name(info.config.kind), " policy with prompt mode ",
                 enum_name(info.spec.prompt_mode),
                 ", which makes it useless; shallowpi-infer inspect says more");
}

std::string how_to_add_stats(const CheckpointInfo& info) {
  if (!info.asset_ids.empty()) {
    const std::string folder = info.folder.string();
    return str("assets/ has those of several robots (", join(info.asset_ids, ", "),
               "), and none is taken. Leave only your robot's in assets/, or give its sizes by hand: "
               "shallowpi-distill --init-only OUT teacher.checkpoint=",
               folder, " data.norm_stats=", folder,
               "/assets/NAME/norm_stats.json policy.asset_id=NAME policy.robot.kind=joints "
               "policy.robot.state_dim=S policy.robot.action_dim=A (trossen is ALOHA: kind aloha, 14 and 14, "
               "'policy.robot.delta_mask=[6, -1, 6, -1]'). Training takes the same keys");
  }
  if (info.format == CheckpointFormat::kLeRobot)
    return "copy policy_preprocessor.json, policy_postprocessor.json and the files they name from the run";
  const bool knows_asset = info.format == CheckpointFormat::kShallowPi;
  return str("put openpi's file at ",
             checkpoint::norm_stats_path("", knows_asset ? info.spec.asset_id : "<asset_id>").string(),
             knows_asset ? "" : ", where <asset_id> tells the robot, such as physical-intelligence/libero");
}

FilesState verify_files(const CheckpointInfo& info, OptionalFiles training_state) {
  const fs::path manifest = info.folder / kManifest;
  if (!fs::exists(manifest)) return FilesState::kNoManifest;
  if (info.format != CheckpointFormat::kShallowPi) {  // where it may be somebody else's
    const Json json = read_json(manifest);
    if (!json.is_object() || !json.contains("files") || !json["files"].is_object())
      return FilesState::kNoManifest;
  }
  try {
    return verify_manifest(info.folder, kTrainingState, training_state) ? FilesState::kWithoutTrainingState
                                                                        : FilesState::kIntact;
  } catch (const CorruptError& error) {
    throw CorruptError(str(
        error.what(), "; copy the folder again, or delete manifest.json where you edited a file on purpose"));
  }
}

Policy load_policy(const CheckpointInfo& info, torch::Dtype dtype, torch::Device device,
                   PolicyOptions options) {
  return load(info, info.config, {}, dtype, device, options);
}

Policy load_student(const CheckpointInfo& teacher, const std::vector<std::int64_t>& kept, torch::Dtype dtype,
                    torch::Device device, PolicyOptions options) {
  check_layer_map(kept, teacher.config.depth());
  PolicyConfig config = teacher.config;
  config.set_depth(static_cast<std::int64_t>(kept.size()));
  return load(teacher, config, kept, dtype, device, options);
}

}  // namespace shallowpi
