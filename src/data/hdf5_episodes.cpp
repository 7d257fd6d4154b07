#include "data/hdf5_episodes.h"

#include <utility>

#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"
#include "shallowpi/data/image.h"

namespace shallowpi {
namespace {

constexpr std::int64_t kMaxSide = 4096;

// Turning by 180 degrees reverses the order of the pixels, not of the bytes within one.
void rotate_by_180_degrees(std::vector<std::uint8_t>& rgb) {
  if (rgb.empty()) return;
  std::uint8_t* first = rgb.data();
  std::uint8_t* last = rgb.data() + rgb.size() - 3;
  for (; first < last; first += 3, last -= 3) {
    for (int channel = 0; channel < 3; ++channel) std::swap(first[channel], last[channel]);
  }
}

}  // namespace

CameraRows::CameraRows(std::shared_ptr<const hdf5::File> file, const std::string& name, std::int64_t steps)
    : rows_(file, name) {
  const std::vector<std::int64_t>& shape = rows_.shape();
  is_jpeg_ = shape.size() == 2 || rows_.is_ragged();
  const bool is_raw = shape.size() == 4 && shape[3] == 3 && shape[1] <= kMaxSide && shape[2] <= kMaxSide;
  if (!is_jpeg_ && !is_raw) {
    file->fail(name, str("has shape ", shape_text(shape)),
               "store RGB frames as [steps, height, width, 3], or JPEG bytes as [steps, bytes]");
  }
  if (shape[0] != steps) {
    file->fail(name, str("has ", shape[0], " steps, but there are ", steps, " actions"),
               "record the demonstration again or remove it from the file");
  }
}

Image CameraRows::read(std::int64_t row, bool rotate) const {
  Image image;
  image.bytes = rows_.read(row);
  if (is_jpeg_) {
    try {
      image = decode_jpeg(image.bytes.data(), image.bytes.size(), "the frame");
    } catch (const CorruptError& error) {
      rows_.fail(row, error.what());
    }
  } else {
    image.height = rows_.shape()[1];
    image.width = rows_.shape()[2];
  }
  if (rotate) rotate_by_180_degrees(image.bytes);
  return image;
}

Hdf5Episodes::Hdf5Episodes(std::filesystem::path path, std::vector<Hdf5Episode> episodes,
                           std::vector<std::string> camera_names, bool rotate_frames)
    : path_(std::move(path)),
      episodes_(std::move(episodes)),
      camera_names_(std::move(camera_names)),
      rotate_frames_(rotate_frames) {
  for (const Hdf5Episode& episode : episodes_) infos_.push_back(episode.info);
}

std::int64_t Hdf5Episodes::state_dim() const {
  return static_cast<std::int64_t>(episodes_.front().states.front().size());
}

std::int64_t Hdf5Episodes::action_dim() const {
  return static_cast<std::int64_t>(episodes_.front().actions.front().size());
}

const Hdf5Episode& Hdf5Episodes::at(std::int64_t episode) const {
  if (episode < 0 || episode >= static_cast<std::int64_t>(episodes_.size())) {
    throw UsageError(str(path_.string(), ": there is no episode ", episode, ", only ", episodes_.size()));
  }
  return episodes_[static_cast<std::size_t>(episode)];
}

Frame Hdf5Episodes::frame(std::int64_t episode, std::int64_t step,
                          const std::vector<std::size_t>& cameras) const {
  const Hdf5Episode& data = at(episode);
  if (step < 0 || step >= data.info.length) {
    throw UsageError(
        str(path_.string(), ": ", data.info.name, " has no step ", step, ", only ", data.info.length));
  }
  const auto pair = static_cast<std::size_t>(step);
  Frame frame;
  frame.state = data.states[pair];
  frame.images.reserve(cameras.size());
  for (std::size_t camera : cameras) {
    if (camera >= data.cameras.size()) throw UsageError(str(path_.string(), ": there is no camera ", camera));
    frame.images.push_back(data.cameras[camera].read(data.frame_rows[pair], rotate_frames_));
  }
  return frame;
}

const std::vector<std::vector<float>>& Hdf5Episodes::states(std::int64_t episode) const {
  return at(episode).states;
}

const std::vector<std::vector<float>>& Hdf5Episodes::actions(std::int64_t episode) const {
  return at(episode).actions;
}

}  // namespace shallowpi
