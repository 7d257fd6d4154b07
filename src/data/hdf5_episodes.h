// The EpisodeFile that both HDF5 layouts build: tables in memory, frames read on demand.
#pragma once

#include <functional>
#include <memory>

#include "data/hdf5_file.h"
#include "data/hdf5_rows.h"
#include "shallowpi/data/dataset.h"
#include "shallowpi/data/readers.h"

namespace shallowpi {

struct Hdf5Episode {
  std::string name, prompt;
  std::vector<std::int64_t> frame_rows;  ///< per pair, the row that its images have in the file
  hdf5::Matrix states, actions;          ///< per pair
  std::vector<hdf5::RowIndex> cameras;
  std::vector<bool> repeats;              ///< as in EpisodeInfo
  std::vector<std::string> step_prompts;  ///< the same
};

/// What the child finds in a file.
struct Hdf5Content {
  DataFormat layout = DataFormat::kAuto;
  bool upside_down = false;  ///< frames are given out turned by 180 degrees
  std::vector<std::string> camera_names;
  std::vector<Hdf5Episode> episodes;
  double control_hz = 0;  ///< 0: not known
  std::string warning;    ///< to be logged; the child cannot
};

// NOLINTBEGIN: the child sends these as CBOR
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Hdf5Episode, name, prompt, frame_rows, states, actions, cameras, repeats,
                                   step_prompts)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Hdf5Content, layout, upside_down, camera_names, episodes, control_hz,
                                   warning)
// NOLINTEND

/// One camera of one episode, raw [T, H, W, 3], or JPEG [T, N] or [T]. `steps` is the length that the
/// episode's actions have. Throws CorruptError where the dataset does not hold frames.
hdf5::RowIndex find_frames(const hdf5::File& file, const std::string& name, std::int64_t steps);

/// The two layouts; of the content, all but `layout`.
Hdf5Content read_libero(const hdf5::File& file, const LiberoOptions& options);
Hdf5Content read_aloha(const hdf5::File& file);

class Hdf5Episodes final : public EpisodeFile {
 public:
  /// Runs `read` on the opened file in a child process.
  Hdf5Episodes(const std::filesystem::path& path, const std::function<Hdf5Content(const hdf5::File&)>& read);

  const std::filesystem::path& path() const override { return file_.path(); }
  DataFormat layout() const override { return content_.layout; }
  const std::vector<EpisodeInfo>& episodes() const override { return infos_; }
  const std::vector<std::string>& camera_names() const override { return content_.camera_names; }
  std::int64_t state_dim() const override;
  std::int64_t action_dim() const override;
  double control_hz() const override { return content_.control_hz; }
  std::vector<Image> frame(std::int64_t episode, std::int64_t step,
                           const std::vector<std::size_t>& cameras) const override;
  const std::vector<std::vector<float>>& states(std::int64_t episode) const override;
  const RobotActions& actions(std::int64_t episode) const override;

 private:
  const Hdf5Episode& at(std::int64_t episode) const;

  Image read_image(const hdf5::RowIndex& camera, std::int64_t row) const;

  hdf5::RawFile file_;
  Hdf5Content content_;
  std::vector<EpisodeInfo> infos_;
};

}  // namespace shallowpi
