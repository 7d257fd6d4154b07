// What the files that read and write checkpoint folders share.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "shallowpi/base/json.h"
#include "shallowpi/model/checkpoint.h"

namespace shallowpi::checkpoint {

using Shapes = std::map<std::string, std::vector<std::int64_t>>;

inline constexpr const char* kOwnConfig = "shallowpi.json";
inline constexpr const char* kTokenizer = "tokenizer.model";

/// Where a folder keeps the statistics of `asset_id`.
inline std::filesystem::path norm_stats_path(const std::filesystem::path& folder,
                                             const std::string& asset_id) {
  return folder / "assets" / asset_id / "norm_stats.json";
}

/// openpi's max_token_len.
constexpr std::int64_t default_prompt_tokens(PolicyKind kind) {
  return kind == PolicyKind::kPi05 ? 200 : 48;
}

/// Shapes by openpi's names.
Shapes shapes_of(const SafetensorsFolder& file, const std::map<std::string, std::string>& names);

/// Throws one CorruptError that lists every tensor of `file` that is missing, unexpected, misshapen or not of
/// a floating type. The expert's lm_head may be missing.
void check_tensors(const std::filesystem::path& folder, const SafetensorsFolder& file,
                   const std::map<std::string, std::string>& names, const PolicyConfig& config);

/// The teacher's tensor that becomes the student's `name`: layer i of both stacks comes from layer kept[i]
/// (empty: from layer i).
std::string source_name(const std::string& name, const std::vector<std::int64_t>& kept);

/// infer_config, with the folder in front of its messages.
PolicyConfig infer_config_of(const std::filesystem::path& folder, const Shapes& shapes,
                             std::int64_t heads = GemmaConfig{}.heads,
                             std::int64_t vision_heads = VisionConfig{}.heads);

// One reader per format; each fills config, spec, horizon_known, stats, kept_layers,
// teacher_fingerprint, asset_ids, notes and warnings.
void read_own(const Shapes& shapes, CheckpointInfo& info);
void read_openpi(const Shapes& shapes, CheckpointInfo& info);
/// `has_embed_tokens`: files of LeRobot 0.4 have only the tied twin.
void read_lerobot(const Shapes& shapes, bool has_embed_tokens, CheckpointInfo& info);

/// All that is wrong with a spec for a network of these sizes, one sentence each.
std::vector<std::string> spec_problems(PolicySpec spec, const PolicyConfig& config);

/// The bytes of shallowpi.json.
std::string own_config_json(const CheckpointContents& contents);
/// The bytes of LeRobot 0.6.1's config.json (PI0Config / PI05Config: every key,
/// no other) for weights stored as `store`.
std::string lerobot_config_json(const PolicyConfig& config, const PolicySpec& spec, torch::Dtype store);

/// LeRobot's name of a camera ("observation.images.image" for LIBERO's base_0_rgb, but the policy's own where
/// it came from LeRobot), and back: well-known names become openpi's, others lose the prefix.
std::string lerobot_camera(const PolicySpec& spec, const std::string& camera);
inline constexpr std::string_view kImagePrefix = "observation.images.";  ///< of LeRobot's names of cameras
std::string camera_of_lerobot(const std::string& feature);

/// openpi ties lm_head to embed_tokens and stores the pair once, under lm_head's name,
/// with this note in the header.
std::map<std::string, std::string> tied_metadata();
/// The plan of openpi's file for `config`, every tensor as stored in `file` (layers from `kept`; empty: all).
/// The expert's lm_head is left out where the file has none. `file` must outlive the plan.
TensorPlan copy_plan(const SafetensorsFolder& file, const PolicyConfig& config,
                     const std::vector<std::int64_t>& kept);

/// Everything of our format but model.safetensors. `store`: what most weights are.
void write_own_side_files(const std::filesystem::path& folder, const CheckpointContents& contents,
                          torch::Dtype store);
void write_stats(const std::filesystem::path& folder, const std::optional<NormStats>& stats,
                 const std::string& asset_id);
void write_tokenizer(const std::filesystem::path& folder, const std::string& bytes);

/// The dtype of most of a file's weights, as its token embedding tells.
torch::Dtype stored_dtype(const SafetensorsFolder& file);

}  // namespace shallowpi::checkpoint
