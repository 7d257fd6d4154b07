// The EpisodeFile that both HDF5 layouts build: tables in memory, frames read on demand.
#pragma once

#include <memory>

#include "data/hdf5_rows.h"
#include "shallowpi/data/dataset.h"

namespace shallowpi {

/// One camera of one episode. Throws CorruptError from its constructor where the dataset does not hold
/// frames.
class CameraRows {
 public:
  /// [T, H, W, 3] raw, or [T, N] / [T] JPEG. `steps` is the length that the episode's actions have.
  CameraRows(std::shared_ptr<const hdf5::File> file, const std::string& name, std::int64_t steps);
  /// The frame as stored; `rotate` turns it by 180 degrees.
  Image read(std::int64_t row, bool rotate) const;

 private:
  hdf5::ByteRows rows_;
  bool is_jpeg_ = false;
};

struct Hdf5Episode {
  EpisodeInfo info;
  std::vector<std::int64_t> frame_rows;  ///< per pair, the row that its images have in the file
  hdf5::Matrix states, actions;          ///< per pair
  std::vector<CameraRows> cameras;
};

class Hdf5Episodes final : public EpisodeFile {
 public:
  /// `rotate_frames`: frames are stored upside down and are given out turned by 180 degrees.
  Hdf5Episodes(std::filesystem::path path, std::vector<Hdf5Episode> episodes,
               std::vector<std::string> camera_names, bool rotate_frames);

  const std::filesystem::path& path() const override { return path_; }
  const std::vector<EpisodeInfo>& episodes() const override { return infos_; }
  const std::vector<std::string>& camera_names() const override { return camera_names_; }
  std::int64_t state_dim() const override;
  std::int64_t action_dim() const override;
  Frame frame(std::int64_t episode, std::int64_t step,
              const std::vector<std::size_t>& cameras) const override;
  const std::vector<std::vector<float>>& states(std::int64_t episode) const override;
  const std::vector<std::vector<float>>& actions(std::int64_t episode) const override;

 private:
  const Hdf5Episode& at(std::int64_t episode) const;

  std::filesystem::path path_;
  std::vector<Hdf5Episode> episodes_;
  std::vector<EpisodeInfo> infos_;
  std::vector<std::string> camera_names_;
  bool rotate_frames_;
};

}  // namespace shallowpi
