// Demonstrations on disk: episodes of frames, read on demand.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "shallowpi/base/enum_names.h"

namespace shallowpi {

/// An RGB image as stored: `bytes` is height x width x 3, row-major, top row first, 0..255.
struct Image {
  std::int64_t height = 0, width = 0;
  std::vector<std::uint8_t> bytes;
};

/// Actions, one row per control step: [steps][action_dim], robot units.
using RobotActions = std::vector<std::vector<float>>;

/// How a file stores episodes (docs/data.md).
enum class DataFormat { kAuto, kLibero, kAloha, kRecording };
template <>
inline constexpr auto kEnumNames<DataFormat> = std::to_array<EnumName<DataFormat>>({
    {DataFormat::kAuto, "auto"},
    {DataFormat::kLibero, "libero"},
    {DataFormat::kAloha, "aloha"},
    {DataFormat::kRecording, "recording"},
});

struct EpisodeInfo {
  std::string name;         ///< "demo_3" or the file's stem
  std::string prompt;       ///< the instruction; empty where the file has none
  std::int64_t length = 0;  ///< usable (observation, action) pairs, after alignment and no-op filter
  /// Per pair: its images only repeat an earlier pair's, so it is no training sample. Empty: none do.
  std::vector<bool> repeats;
  /// Per pair its own instruction, where the task changes within the episode. Empty: all have `prompt`.
  std::vector<std::string> step_prompts = {};

  const std::string& prompt_at(std::int64_t step) const {
    return step_prompts.empty() ? prompt : step_prompts.at(static_cast<std::size_t>(step));
  }
};

/// One demonstration file. Everything is validated when it is opened (CorruptError naming file, demo and
/// dataset). Thread-safe: several threads read frames in parallel.
class EpisodeFile {
 public:
  virtual ~EpisodeFile() = default;
  virtual const std::filesystem::path& path() const = 0;
  virtual DataFormat layout() const = 0;  ///< not kAuto
  virtual const std::vector<EpisodeInfo>& episodes() const = 0;
  /// Those that the file really has; pi's by their canonical names (kCanonicalCameras).
  virtual const std::vector<std::string>& camera_names() const = 0;
  virtual std::int64_t state_dim() const = 0;
  virtual std::int64_t action_dim() const = 0;
  /// Steps per second; 0 where the file does not say it.
  virtual double control_hz() const { return 0; }
  /// The images of pair `step`, upright as the policy expects them; `cameras` selects by index into
  /// camera_names(). Throws UsageError where there is no such episode, step or camera, CorruptError where the
  /// frame is damaged.
  virtual std::vector<Image> frame(std::int64_t episode, std::int64_t step,
                                   const std::vector<std::size_t>& cameras) const = 0;
  /// Raw state [length][state_dim] and actions [length][action_dim] of a whole episode (small; read once).
  virtual const std::vector<std::vector<float>>& states(std::int64_t episode) const = 0;
  virtual const RobotActions& actions(std::int64_t episode) const = 0;
};

}  // namespace shallowpi
