#include "data/hdf5_episodes.h"

#include <utility>

#include "data/hdf5_child.h"
#include "data/hdf5_index.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/log.h"
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
  for (; first < last; first += 3, last -= 3)
    for (int channel = 0; channel < 3; ++channel) std::swap(first[channel], last[channel]);
}

bool is_jpeg(const hdf5::RowIndex& index) {
  return index.shape.size() == 2 || index.storage == hdf5::Storage::kRagged;
}

}  // namespace

hdf5::RowIndex find_frames(const hdf5::File& file, const std::string& name, std::int64_t steps) {
  hdf5::RowIndex index = hdf5::find_rows(file, name);
  const std::vector<std::int64_t>& shape = index.shape;
  const bool is_raw = shape.size() == 4 && shape[3] == 3 && shape[1] <= kMaxSide && shape[2] <= kMaxSide;
  if (!is_jpeg(index) && !is_raw) {
    file.fail(name, str("has shape ", shape_text(shape)),
              "store RGB frames as [steps, height, width, 3], or JPEG bytes as [steps, bytes]");
  }
  if (shape[0] != steps)
    file.fail(name, str("has ", shape[0], " steps, but there are ", steps, " actions"), hdf5::kRerecord);
  return index;
}

Hdf5Episodes::Hdf5Episodes(const std::filesystem::path& path,
                           const std::function<Hdf5Content(const hdf5::File&)>& read)
    : file_(path) {
  content_ = hdf5::in_child(path, [&] { return nlohmann::json(read(hdf5::File(path))); }).get<Hdf5Content>();
  if (!is_control_rate(content_.control_hz)) content_.control_hz = 0;
  if (!content_.warning.empty()) log::warning(path.string(), ": ", content_.warning);
  for (const Hdf5Episode& episode : content_.episodes) {
    infos_.push_back({episode.name, episode.prompt, static_cast<std::int64_t>(episode.actions.size()),
                      episode.repeats, episode.step_prompts});
  }
}

Image Hdf5Episodes::read_image(const hdf5::RowIndex& camera, std::int64_t row) const {
  Image image;
  image.bytes = hdf5::read_row(file_, camera, row);
  if (is_jpeg(camera)) {
    try {
      image = decode_jpeg(image.bytes.data(), image.bytes.size(), "the frame");
    } catch (const CorruptError& error) {
      hdf5::fail_row(file_, camera, row, error.what());
    }
  } else {
    image.height = camera.shape[1];
    image.width = camera.shape[2];
  }
  if (content_.upside_down) rotate_by_180_degrees(image.bytes);
  return image;
}

std::int64_t Hdf5Episodes::state_dim() const {
  return static_cast<std::int64_t>(content_.episodes.front().states.front().size());
}

std::int64_t Hdf5Episodes::action_dim() const {
  return static_cast<std::int64_t>(content_.episodes.front().actions.front().size());
}

const Hdf5Episode& Hdf5Episodes::at(std::int64_t episode) const {
  if (episode < 0 || episode >= static_cast<std::int64_t>(content_.episodes.size())) {
    throw UsageError(
        str(path().string(), ": there is no episode ", episode, ", only ", content_.episodes.size()));
  }
  return content_.episodes[static_cast<std::size_t>(episode)];
}

std::vector<Image> Hdf5Episodes::frame(std::int64_t episode, std::int64_t step,
                                       const std::vector<std::size_t>& cameras) const {
  const Hdf5Episode& data = at(episode);
  const EpisodeInfo& info = infos_[static_cast<std::size_t>(episode)];
  if (step < 0 || step >= info.length)
    throw UsageError(str(path().string(), ": ", info.name, " has no step ", step, ", only ", info.length));
  std::vector<Image> images;
  images.reserve(cameras.size());
  for (std::size_t camera : cameras) {
    if (camera >= data.cameras.size())
      throw UsageError(str(path().string(), ": there is no camera ", camera));
    images.push_back(read_image(data.cameras[camera], data.frame_rows[static_cast<std::size_t>(step)]));
  }
  return images;
}

const std::vector<std::vector<float>>& Hdf5Episodes::states(std::int64_t episode) const {
  return at(episode).states;
}

const RobotActions& Hdf5Episodes::actions(std::int64_t episode) const {
  return at(episode).actions;
}

}  // namespace shallowpi
