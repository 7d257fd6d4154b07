#include "shallowpi/data/recording.h"

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "shallowpi/base/error.h"
#include "shallowpi/base/json.h"
#include "shallowpi/base/policy_spec.h"
#include "shallowpi/base/safetensors.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

constexpr const char* kMetadata = "shallowpi_recording";
constexpr std::int64_t kMaxSide = 8192;

std::string image_name(const std::string& camera, std::size_t answer) {
  return str("image.", camera, ".", answer);
}

torch::Tensor image_tensor(const Image& image) {
  torch::Tensor pixels_yxc = torch::empty({image.height, image.width, 3}, torch::kUInt8);
  std::memcpy(pixels_yxc.data_ptr(), image.bytes.data(), image.bytes.size());
  return pixels_yxc;
}

/// [rows, width] of rows of one width.
torch::Tensor rows_tensor(const std::vector<std::vector<float>>& rows) {
  const auto width = static_cast<std::int64_t>(rows.front().size());
  torch::Tensor values = torch::empty({static_cast<std::int64_t>(rows.size()), width});
  float* to = values.data_ptr<float>();
  for (const std::vector<float>& row : rows) to = std::copy(row.begin(), row.end(), to);
  return values;
}

/// Everything but the pixels is read, and all is checked, when the file is opened.
class Recording final : public EpisodeFile {
 public:
  explicit Recording(const std::filesystem::path& path) : file_(path) {
    const auto found = file_.metadata().find(kMetadata);
    if (found == file_.metadata().end()) fail("is no recording of shallowpi-infer serve --record");
    const std::string where = str(path.string(), ": ", kMetadata);
    const Json json = parse_json(found->second, where);
    read_states_and_actions(json_get<std::vector<std::string>>(json, "prompts", where));
    find_cameras();
    const double rate = json_get<double>(json, "control_hz", where);
    if (is_control_rate(rate)) control_hz_ = rate;
  }

  const std::filesystem::path& path() const override { return file_.path(); }
  DataFormat layout() const override { return DataFormat::kRecording; }
  const std::vector<EpisodeInfo>& episodes() const override { return episodes_; }
  const std::vector<std::string>& camera_names() const override { return cameras_; }
  std::int64_t state_dim() const override { return std::ssize(states_.front().front()); }
  std::int64_t action_dim() const override { return std::ssize(actions_.front().front()); }
  double control_hz() const override { return control_hz_; }

  std::vector<Image> frame(std::int64_t episode, std::int64_t step,
                           const std::vector<std::size_t>& cameras) const override {
    const std::size_t answer = index(episode);
    if (step < 0 || step >= episodes_[answer].length)
      throw UsageError(str(path().string(), ": ", episodes_[answer].name, " has no step ", step));
    std::vector<Image> images;
    for (const std::size_t camera : cameras) {
      if (camera >= cameras_.size()) throw UsageError(str(path().string(), ": there is no camera ", camera));
      const torch::Tensor pixels_yxc = file_.read(image_name(cameras_[camera], answer));
      const auto* first = pixels_yxc.data_ptr<std::uint8_t>();
      images.push_back({pixels_yxc.size(0), pixels_yxc.size(1), {first, first + pixels_yxc.numel()}});
    }
    return images;
  }
  const std::vector<std::vector<float>>& states(std::int64_t episode) const override {
    return states_[index(episode)];
  }
  const RobotActions& actions(std::int64_t episode) const override { return actions_[index(episode)]; }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw CorruptError(str(path().string(), ": ", what));
  }
  std::size_t index(std::int64_t episode) const {
    if (episode < 0 || episode >= std::ssize(episodes_))
      throw UsageError(str(path().string(), ": there is no answer ", episode, ", only ", episodes_.size()));
    return static_cast<std::size_t>(episode);
  }

  /// A tensor of finite float32 numbers, none of its sizes 0.
  torch::Tensor read_numbers(const char* name, std::size_t dims) const {
    const auto found = file_.tensors().find(name);
    if (found == file_.tensors().end()) fail(str(name, " is missing"));
    const std::vector<std::int64_t>& shape = found->second.shape;
    if (found->second.dtype != torch::kFloat32 || shape.size() != dims || std::ranges::count(shape, 0) != 0)
      fail(str(name, " has shape ", shape_text(shape), " or another dtype than float32"));
    torch::Tensor values = file_.read(name);
    const float* first = values.data_ptr<float>();
    if (!std::all_of(first, first + values.numel(), [](float value) { return std::isfinite(value); }))
      fail(str(name, " is not finite"));
    return values;
  }

  void read_states_and_actions(const std::vector<std::string>& prompts) {
    const torch::Tensor states_nd = read_numbers("state", 2), actions_nha = read_numbers("actions", 3);
    const std::int64_t answers = states_nd.size(0), horizon = actions_nha.size(1),
                       width = actions_nha.size(2);
    if (actions_nha.size(0) != answers || std::ssize(prompts) != answers)
      fail(str("has ", answers, " states, ", actions_nha.size(0), " chunks of actions and ", prompts.size(),
               " prompts"));
    if (horizon > kMaxHorizon || width > kMaxTextStateDim || states_nd.size(1) > kMaxTextStateDim)
      fail(str("has chunks of ", horizon, " actions with ", width, " dims, and states with ",
               states_nd.size(1)));
    const float *state = states_nd.data_ptr<float>(), *action = actions_nha.data_ptr<float>();
    for (std::size_t n = 0; n < prompts.size(); ++n) {
      const std::vector<float> values(state, state + states_nd.size(1));
      states_.emplace_back(horizon, values);
      RobotActions& chunk = actions_.emplace_back();
      for (std::int64_t h = 0; h < horizon; ++h, action += width) chunk.emplace_back(action, action + width);
      std::vector<bool> repeats(horizon, true);
      repeats[0] = false;
      episodes_.push_back({str("answer_", n), prompts[n], horizon, std::move(repeats)});
      state += states_nd.size(1);
    }
  }

  void find_cameras() {
    std::set<std::string> cameras;
    std::size_t images = 0;
    for (const auto& [name, info] : file_.tensors()) {
      if (!name.starts_with("image.")) continue;
      const std::size_t end = name.rfind('.');
      cameras.insert(name.substr(6, end < 6 ? 0 : end - 6));
      const std::vector<std::int64_t>& shape = info.shape;
      if (info.dtype != torch::kUInt8 || shape.size() != 3 || shape[2] != 3 || shape[0] < 1 || shape[1] < 1 ||
          shape[0] > kMaxSide || shape[1] > kMaxSide)
        fail(str(name, " has shape ", shape_text(shape), " or another dtype than uint8"));
      ++images;
    }
    cameras_.assign(cameras.begin(), cameras.end());
    for (const std::string& camera : cameras_)
      for (std::size_t n = 0; n < episodes_.size(); ++n)
        if (!file_.contains(image_name(camera, n))) fail(str(image_name(camera, n), " is missing"));
    if (images == 0 || images != cameras_.size() * episodes_.size())
      fail(str("has ", images, " images for ", episodes_.size(), " answers"));
  }

  SafetensorsFile file_;
  std::vector<std::string> cameras_;
  std::vector<EpisodeInfo> episodes_;
  std::vector<std::vector<std::vector<float>>> states_;  // [answer][step][dim]: an answer's are all the same
  std::vector<RobotActions> actions_;
  double control_hz_ = 0;
};

}  // namespace

void save_recording(const std::filesystem::path& path, const std::vector<RecordedAnswer>& answers,
                    double control_hz) {
  NamedTensors tensors;
  std::vector<std::vector<float>> states;
  std::vector<torch::Tensor> actions;
  std::vector<std::string> prompts;
  std::vector<double> times;
  for (std::size_t n = 0; n < answers.size(); ++n) {
    const RobotObservation& observation = answers[n].observation;
    for (const auto& [camera, image] : observation.images)
      tensors[image_name(camera, n)] = image_tensor(image);
    states.push_back(observation.state);
    actions.push_back(rows_tensor(answers[n].actions));
    prompts.push_back(observation.prompt);
    times.push_back(answers[n].time_s);
  }
  tensors["state"] = rows_tensor(states);
  tensors["actions"] = torch::stack(actions);
  save_safetensors(
      path, tensors,
      {{kMetadata, Json{{"control_hz", control_hz}, {"prompts", prompts}, {"times", times}}.dump()}});
}

std::unique_ptr<EpisodeFile> open_recording(const std::filesystem::path& path) {
  return std::make_unique<Recording>(path);
}

}  // namespace shallowpi
