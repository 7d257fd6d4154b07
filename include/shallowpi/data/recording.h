// Recordings of `shallowpi-infer serve --record`: what a robot sent, and what its policy answered. A recorded
// answer is read as an episode whose actions are the chunk, with an observation at its first step alone.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "shallowpi/data/dataset.h"
#include "shallowpi/data/policy_transform.h"

namespace shallowpi {

struct RecordedAnswer {
  RobotObservation observation;
  RobotActions actions;  ///< [H][action_dim], robot units
  double time_s = 0;     ///< of the answer, Unix seconds
};

/// Writes answers (one or more, with the same cameras and widths) to a safetensors file, under a temporary
/// name first. `control_hz`: of the actions; 0: not known. Throws IoError.
void save_recording(const std::filesystem::path& path, const std::vector<RecordedAnswer>& answers,
                    double control_hz);

/// Throws CorruptError, naming the file and what is wrong in it.
std::unique_ptr<EpisodeFile> open_recording(const std::filesystem::path& path);

}  // namespace shallowpi
