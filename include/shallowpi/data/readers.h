// Opens demonstration files as EpisodeFile: LIBERO's and ALOHA's HDF5 layouts, and recordings of a server.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "shallowpi/data/dataset.h"

namespace shallowpi {

struct DataFile {
  std::string path;     ///< glob
  double weight = 1.0;  ///< sampling weight of each of its frames
};

struct LiberoOptions {
  /// Raw LIBERO files store obs[j] *after* actions[j], so obs[j] is paired with actions[j + 1]; regenerated
  /// ones ("aligned") store it before. A file that looks regenerated is warned of.
  bool raw_alignment = true;
  /// Drop pairs whose first six action values have a norm below 1e-4 and whose gripper
  /// command equals the last kept one.
  bool drop_noops = true;
};

/// Opens a file in the layout that it has: a recording by its name (*.safetensors, data/recording.h), HDF5 by
/// its groups. Throws CorruptError / UsageError with file, demo and dataset, and UsageError where another
/// layout than `format` would do.
///
/// LIBERO: data/demo_i/{actions, obs/agentview_rgb, obs/eye_in_hand_rgb, obs/ee_states, obs/gripper_states}.
/// Frames are stored in OpenGL row order and given out rotated by 180 degrees, as the policies were trained.
/// State = ee_states || gripper_states (8). Demos in numeric order. The prompt is problem_info's
/// language_instruction.
///
/// ALOHA: one episode per file: /action [T, 1..32], /observations/qpos [T, 1..1024],
/// /observations/images/<camera>; frames raw [T, H, W, 3], or JPEG as [T, N] or byte strings [T]. cam_high
/// and top become base_0_rgb, cam_left_wrist and cam_right_wrist their canonical names; depth is ignored,
/// other names stay. Any robot's joints can be stored this way. The prompt comes from the root's
/// `language_instruction` dataset (one text, or one per step), else from its `language_instruction` or `task`
/// attribute, else is empty.
std::unique_ptr<EpisodeFile> open_episodes(const std::filesystem::path& path,
                                           DataFormat format = DataFormat::kAuto,
                                           const LiberoOptions& options = {});

}  // namespace shallowpi
