// The configuration of shallowpi-distill, as plain structs. The table that binds it to YAML, --help and
// docs/config.md is in src/distill/config_table.cpp.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "shallowpi/base/policy_spec.h"
#include "shallowpi/data/readers.h"
#include "shallowpi/model/config.h"
#include "shallowpi/model/layer_map.h"

namespace shallowpi {

enum class AttentionPlacement { kFirst, kMiddle, kLast };
template <>
inline constexpr auto kEnumNames<AttentionPlacement> = std::to_array<EnumName<AttentionPlacement>>({
    {AttentionPlacement::kFirst, "first"},
    {AttentionPlacement::kMiddle, "middle"},
    {AttentionPlacement::kLast, "last"},
});

enum class AttentionQueries { kAction, kAll };
template <>
inline constexpr auto kEnumNames<AttentionQueries> = std::to_array<EnumName<AttentionQueries>>({
    {AttentionQueries::kAction, "action"},
    {AttentionQueries::kAll, "all"},
});

enum class LossDims { kPadded, kReal };
template <>
inline constexpr auto kEnumNames<LossDims> = std::to_array<EnumName<LossDims>>({
    {LossDims::kPadded, "padded"},
    {LossDims::kReal, "real"},
});

enum class LiberoAlignment { kRaw, kAligned };
template <>
inline constexpr auto kEnumNames<LiberoAlignment> = std::to_array<EnumName<LiberoAlignment>>({
    {LiberoAlignment::kRaw, "raw"},          // obs[j] was recorded after actions[j]
    {LiberoAlignment::kAligned, "aligned"},  // obs[j] was recorded before actions[j]
});

struct TeacherConfig {
  std::string checkpoint;      ///< folder; empty: no teacher (plain training)
  std::string dtype = "auto";  ///< auto (bfloat16 on CUDA, float32 on CPU), float32, bfloat16
};

struct StudentConfig {
  std::string checkpoint;   ///< start from these weights instead of the teacher's layers
  std::int64_t layers = 0;  ///< kept layers; 0: as many as the teacher / checkpoint / architecture has
  LayerMapRule layer_map = LayerMapRule::kUniform;
  std::vector<std::int64_t> layer_list;  ///< explicit list; wins over layer_map
  PolicyConfig architecture;             ///< from scratch: only where neither teacher nor checkpoint is given
};

inline constexpr std::string_view kComputeStats = "compute";  ///< of data.norm_stats

struct DataConfig {
  std::vector<DataFile> files;
  DataFormat format = DataFormat::kAuto;
  LiberoAlignment alignment = LiberoAlignment::kRaw;
  bool drop_noops = true;           ///< LIBERO: drop steps whose motion is below 1e-4 and gripper unchanged
  double held_out_fraction = 0.05;  ///< of each file's episodes, at least one where > 0 (Dataset::split)
  std::int64_t workers = 2;         ///< loader threads
  std::int64_t prefetch = 4;        ///< batches prepared ahead
  bool augment = true;              ///< openpi's augmentations, drawn per sample
  std::string norm_stats;       ///< a norm_stats.json; empty: the teacher's or checkpoint's, else computed
  double min_norm_range = 0.0;  ///< floor on the q01..q99 half-range / std when statistics are computed
  std::vector<double> state_noise;              ///< standard deviation per state dim, raw units; empty: none
  std::vector<std::int64_t> hidden_state_dims;  ///< that computed statistics blind the policy to
  std::string tokenizer;  ///< a SentencePiece model; empty: the checkpoint's, then the known caches
};

struct FlowConfig {
  double beta_alpha = 1.5;  ///< t ~ Beta(alpha, beta) * 0.999 + 0.001
  double beta_beta = 1.0;
  std::int64_t draws = 1;  ///< R (noise, t) draws per encoded prefix, t stratified over them
};

struct LossConfig {
  double task = 1.0, kd = 1.0, attn = 1.0;  ///< weights; 0 switches a term off
  AttentionPlacement attn_placement = AttentionPlacement::kMiddle;
  AttentionQueries attn_queries = AttentionQueries::kAction;
  LossDims dims = LossDims::kPadded;
};

struct OptimizerConfig {
  double peak_lr = 2.5e-5, end_lr = 2.5e-6;
  std::int64_t warmup_steps = 1000, decay_steps = 30000;
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 1e-10;
  double clip_norm = 1.0;
  double ema_decay = 0.99;          ///< 0: no EMA
  std::vector<std::string> freeze;  ///< patterns over openpi's tensor names (* and ?)
};

struct TrainConfig {
  std::int64_t steps = 30000;
  std::int64_t batch_size = 64;  ///< global; divided by accumulate
  std::int64_t accumulate = 1;   ///< micro-batches per step
  bool activation_checkpointing = false;
  std::int64_t log_every = 10;
  std::int64_t eval_every = 500;  ///< held-out losses; 0: never
  std::int64_t eval_frames = 64;
  std::int64_t save_every = 1000;
  std::int64_t keep_last = 2;
  std::int64_t keep_every = 5000;  ///< steps divisible by it are kept forever; 0: none
  bool keep_best = true;           ///< by held-out loss
  double outlier_sigma = 0.0;   ///< skip steps whose gradient norm is this many sigmas above its mean; 0: off
  std::int64_t trace_step = 0;  ///< its timeline goes to trace.json in the run's folder; 0: none
  std::int64_t max_skipped = 10;  ///< consecutive skipped steps before giving up (exit 4)
};

struct DistillConfig {
  std::string output_dir;
  std::uint64_t seed = 42;
  std::string device = "auto";  ///< as parse_devices takes it: auto, cpu, cuda:N, several, cuda:all
  std::string dtype = "auto";   ///< compute: auto (bfloat16 on CUDA, float32 on CPU), float32, bfloat16
  std::int64_t threads = 0;     ///< 0: cores
  TeacherConfig teacher;
  StudentConfig student;
  PolicySpec policy;  ///< used where no checkpoint gives it; single fields may override
  DataConfig data;
  FlowConfig flow;
  LossConfig loss;
  OptimizerConfig optimizer;
  TrainConfig train;
};

/// A configuration with the keys that were written in the file or on the command line ("policy.horizon"). Of
/// policy.* and student.architecture.*, the others are only defaults: a teacher or checkpoint decides them.
struct ResolvedConfig {
  DistillConfig config;
  std::set<std::string> set_keys;
  bool is_set(const std::string& key) const { return set_keys.count(key) > 0; }
};

/// What a configuration is wanted for: training needs data.files and output_dir, --init-only a teacher.
enum class ConfigUse { kTrain, kInitOnly, kAny };

/// Defaults, then the file (none where `file` is empty), then `key.sub=value` overrides, the last of a key
/// winning. Without a teacher, loss.kd and loss.attn are 0 unless set; from scratch, policy.image_size and
/// policy.prompt_mode follow student.architecture unless set. Throws one UsageError that lists all problems,
/// each with file, line, key and what would be right.
ResolvedConfig load_distill_config(const std::filesystem::path& file,
                                   const std::vector<std::string>& overrides,
                                   ConfigUse use = ConfigUse::kTrain);

/// One thing that is wrong with the values of a configuration together.
struct ConfigProblem {
  std::string key;
  std::string message;
};
/// The checks across keys; load_distill_config includes them.
std::vector<ConfigProblem> validate(const ResolvedConfig& resolved, ConfigUse use = ConfigUse::kTrain);

/// YAML that load_distill_config reads back to an equal configuration, one comment per key. Unset policy.*
/// and student.architecture.* keys are commented out.
std::string dump_config(const ResolvedConfig& resolved);
/// Whether dump_config made this file, and no person.
bool is_dump(const std::filesystem::path& file);

/// All keys with default, range and meaning: as text for --help, and as docs/config.md.
std::string config_help();
std::string config_markdown();
/// Every valid key, in the table's order (for shell completion).
std::vector<std::string> config_keys();

/// Copies into `spec` the policy.* values that were set explicitly, and warns where that contradicts `spec`.
void apply_policy_overrides(const ResolvedConfig& resolved, PolicySpec& spec);

}  // namespace shallowpi
