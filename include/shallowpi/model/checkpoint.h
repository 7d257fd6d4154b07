// Checkpoint folders: ours, openpi's PyTorch ones and LeRobot's. Reading tells which one it is; writing makes
// ours, and export writes the other two.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "shallowpi/base/manifest.h"
#include "shallowpi/base/norm_stats.h"
#include "shallowpi/base/policy_spec.h"
#include "shallowpi/base/safetensors.h"
#include "shallowpi/model/config.h"
#include "shallowpi/model/policy.h"

namespace shallowpi {

/// The folder within one of ours with what its training run needs to go on; of no use to a policy.
inline constexpr const char* kTrainingState = "training_state";

enum class CheckpointFormat { kShallowPi, kOpenpi, kLeRobot };

/// What a folder says of itself, without reading its weights.
struct CheckpointInfo {
  std::filesystem::path folder;
  CheckpointFormat format = CheckpointFormat::kShallowPi;
  PolicyConfig config;
  PolicySpec spec;                 ///< inferred with openpi's / LeRobot's defaults where the folder is silent
  bool horizon_known = true;       ///< openpi's config.json may not say it
  std::optional<NormStats> stats;  ///< from assets/ or LeRobot's processor files
  std::filesystem::path tokenizer;        ///< tokenizer.model within the folder; empty where it has none
  std::vector<std::int64_t> kept_layers;  ///< the teacher layers that a student kept; empty for a teacher
  std::string teacher_fingerprint;        ///< of the teacher a student came from; empty otherwise
  /// The robots whose statistics an openpi folder has, where they are several and so none was taken.
  std::vector<std::string> asset_ids;
  std::vector<std::string> notes;  ///< facts about how the folder is read, in words for `inspect`
  /// What was assumed about the meaning of observations or actions, or is likely not meant: whoever uses the
  /// policy has to be told.
  std::vector<std::string> warnings;
};

/// Reads everything but the weights. Throws UsageError (no such folder, no weights, a JAX `params/` folder:
/// with the conversion command and its trap) or CorruptError.
CheckpointInfo read_checkpoint_info(const std::filesystem::path& folder,
                                    std::optional<std::int64_t> horizon = {});

/// How many action steps a chunk has, where a folder does not say it.
inline constexpr const char* kUsualHorizons = "LIBERO policies of pi0.5 have 10, most others 50";

/// "FOLDER does not say how many action steps a chunk has (what most policies have)": the beginning of the
/// messages where horizon_known is false.
std::string unknown_horizon(const CheckpointInfo& info);
/// Throws UsageError where horizon_known is false, for those that have an option or a field for it.
void require_horizon(const CheckpointInfo& info);

/// Logs `info.warnings`, each with the folder: whoever uses a policy calls it.
void log_warnings(const CheckpointInfo& info);

/// What to do where `stats` is empty: which file to put where, or how to choose among `asset_ids`.
std::string how_to_add_stats(const CheckpointInfo& info);

enum class FilesState { kIntact, kWithoutTrainingState, kNoManifest };
/// Compares the files with the folder's manifest.json, which exports have too. Its training_state/ may be
/// missing as a whole, or be left unchecked. Throws CorruptError where a file is not what the manifest says.
FilesState verify_files(const CheckpointInfo& info, OptionalFiles training_state = OptionalFiles::kChecked);

/// Tensor names of a file mapped to openpi's: an optional leading `model.` is stripped and the tied twin
/// resolved (`embed_tokens` preferred over `lm_head`).
std::map<std::string, std::string> canonical_names(const SafetensorsFolder& file);

/// Loads the policy: all tensors are compared with expected_tensors() first,
/// and every missing, unexpected and misshapen one is listed in one CorruptError.
/// Reads tensor by tensor into the module (never two full copies).
Policy load_policy(const CheckpointInfo& info, torch::Dtype dtype = torch::kFloat32,
                   torch::Device device = torch::kCPU, PolicyOptions options = {});

/// A student with the teacher's layers `kept` in both stacks, read tensor by tensor from the teacher's file.
Policy load_student(const CheckpointInfo& teacher, const std::vector<std::int64_t>& kept,
                    torch::Dtype dtype = torch::kFloat32, torch::Device device = torch::kCPU,
                    PolicyOptions options = {});

/// SHA-256 over the names, shapes and bytes of the live tensors in the folder's files: identifies a teacher.
std::string weights_fingerprint(const CheckpointInfo& checkpoint);

/// 16 hex digits that identify a folder's policy, in a second whatever its size. They change with every file
/// that is added, removed, renamed, resized or (up to 1 MiB) edited, and with every training of the weights:
/// of a larger tensor or other file the first, middle and last 64 KiB count. training_state/ does not count.
/// Throws CorruptError for a .safetensors file that is none.
std::string folder_fingerprint(const std::filesystem::path& folder);

/// What goes into a folder of ours beside the weights.
struct CheckpointContents {
  PolicyConfig config;
  PolicySpec spec;
  std::optional<NormStats> stats;
  std::string tokenizer;                  ///< the bytes of tokenizer.model; empty: none
  std::vector<std::int64_t> kept_layers;  ///< empty for a teacher
  std::string teacher_fingerprint;
  std::string card;  ///< extra text for the model card, in Markdown
};

/// Writes all files of our format into the existing, empty `folder` (call within publish_folder). `tensors`
/// are by openpi name; with `store` bfloat16 all but the keep_float32 ones are rounded. `dead_from`: weights
/// to copy the dead expert lm_head from where they have one; null: it is left out.
void write_checkpoint_files(const std::filesystem::path& folder, const CheckpointContents& contents,
                            const NamedTensors& tensors, torch::Dtype store = torch::kBFloat16,
                            const SafetensorsFolder* dead_from = nullptr);

/// An untrained student folder straight from the teacher's files (`--init-only`), tensor by tensor.
void init_student(const CheckpointInfo& teacher, const std::vector<std::int64_t>& kept,
                  const std::filesystem::path& out);

/// Writes a folder that openpi (`--to openpi`) or LeRobot 0.6.1 (`--to lerobot`) loads strictly, with a
/// README.md that gives the few lines of Python that tell the package the depth. `horizon` where `folder`
/// does not say it. Throws CorruptError where a file of `folder` is not what its manifest says.
void export_checkpoint(const std::filesystem::path& folder, CheckpointFormat to,
                       const std::filesystem::path& out, std::optional<std::int64_t> horizon = {});

}  // namespace shallowpi
