// ALOHA's layout: one file per episode. scripts/convert_lerobot.py writes it for every other robot too.
#include <algorithm>
#include <map>
#include <utility>

#include "data/hdf5_episodes.h"
#include "shallowpi/base/policy_spec.h"
#include "shallowpi/base/text.h"
#include "shallowpi/data/tokenizer.h"

namespace shallowpi {
namespace {

const char* const kImages = "observations/images";
const char* const kInstruction = "language_instruction";
const char* const kMendEpisode = "record the episode again or leave the file out";

// ALOHA's names as openpi maps them ("top" is the simulated robot's); other names stay as they are.
std::string canonical_camera(const std::string& name) {
  static const std::map<std::string, std::string> names = {{"cam_high", "base_0_rgb"},
                                                           {"top", "base_0_rgb"},
                                                           {"cam_left_wrist", "left_wrist_0_rgb"},
                                                           {"cam_right_wrist", "right_wrist_0_rgb"}};
  const auto found = names.find(name);
  return found == names.end() ? name : found->second;
}

// (canonical name, dataset), sorted. Depth images are no pictures.
std::vector<std::pair<std::string, std::string>> find_cameras(const hdf5::File& file) {
  if (!file.is_group(kImages))
    file.fail(kImages, "is missing", "give a file in ALOHA's layout (docs/data.md)");
  std::vector<std::pair<std::string, std::string>> cameras;
  for (const std::string& name : file.children(kImages)) {
    if (name.find("depth") != std::string::npos) continue;
    cameras.emplace_back(canonical_camera(name), str(kImages, "/", name));
  }
  if (cameras.empty()) file.fail(kImages, "holds no camera", kMendEpisode);
  std::sort(cameras.begin(), cameras.end());
  for (std::size_t i = 1; i < cameras.size(); ++i)
    if (cameras[i].first == cameras[i - 1].first)
      file.fail(kImages, str("has two cameras for ", cameras[i].first), "keep one of them");
  return cameras;
}

std::string read_prompt(const hdf5::File& file) {
  for (const char* attribute : {kInstruction, "task"})
    if (const auto text = file.text_attribute("/", attribute); text && !is_blank(*text)) return *text;
  return "";
}

// The dataset beside the attribute: one text per step where the task changes within the episode.
void read_step_prompts(const hdf5::File& file, Hdf5Episode& episode) {
  if (!file.has(kInstruction)) return;
  const std::vector<std::string> texts = file.read_texts(kInstruction);
  if (texts.size() == episode.actions.size())
    episode.step_prompts = texts;
  else if (texts.size() != 1)
    file.fail(kInstruction,
              str("has ", texts.size(), " texts, but there are ", episode.actions.size(), " actions"),
              "store one text per step or a single one, or rename the dataset");
  if (is_blank(episode.prompt)) episode.prompt = texts.front();
}

}  // namespace

Hdf5Content read_aloha(const hdf5::File& file) {
  Hdf5Content content;
  Hdf5Episode& episode = content.episodes.emplace_back();
  episode.actions = file.read_matrix("action", 0);
  episode.states = file.read_matrix("observations/qpos", 0, kMaxTextStateDim);
  if (episode.states.size() != episode.actions.size()) {
    file.fail(
        "observations/qpos",
        str("has ", episode.states.size(), " steps, but there are ", episode.actions.size(), " actions"),
        kMendEpisode);
  }
  const auto steps = static_cast<std::int64_t>(episode.actions.size());
  for (const auto& [name, dataset] : find_cameras(file)) {
    content.camera_names.push_back(name);
    episode.cameras.push_back(find_frames(file, dataset, steps));
  }
  for (std::int64_t row = 0; row < steps; ++row) episode.frame_rows.push_back(row);
  episode.name = file.path().stem().string();
  content.control_hz = file.number_attribute("/", "fps").value_or(0);  // convert_lerobot.py's
  episode.prompt = read_prompt(file);
  read_step_prompts(file, episode);
  return content;
}

}  // namespace shallowpi
