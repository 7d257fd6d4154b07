// LIBERO's layout: one file per task, one group per demonstration.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "data/hdf5_episodes.h"
#include "shallowpi/base/json.h"
#include "shallowpi/base/policy_spec.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

constexpr double kNoopNorm = 1e-4;  // OpenVLA's threshold

struct CameraDataset {
  const char* dataset;
  const char* name;
};
constexpr CameraDataset kCameras[] = {{"agentview_rgb", "base_0_rgb"},
                                      {"eye_in_hand_rgb", "left_wrist_0_rgb"}};

// Names of the demonstrations in numeric order: HDF5's own has demo_10 before demo_2.
std::vector<std::string> demo_names(const hdf5::File& file) {
  std::vector<std::pair<std::uint64_t, std::string>> numbered;
  for (const std::string& name : file.children("data")) {
    std::uint64_t number = 0;
    const char* end = name.data() + name.size();
    if (!name.starts_with("demo_") || name.size() == 5) continue;
    const auto [stop, error] = std::from_chars(name.data() + 5, end, number);
    if (error == std::errc() && stop == end) numbered.emplace_back(number, name);
  }
  if (numbered.empty())
    file.fail("data", "holds no demonstration (demo_0, demo_1, ...)", "check the recording");
  std::sort(numbered.begin(), numbered.end());
  std::vector<std::string> names;
  for (auto& [number, name] : numbered) names.push_back(std::move(name));
  return names;
}

// LIBERO's own fallback: "KITCHEN_SCENE3_turn_on_the_stove_demo" -> "turn on the stove".
std::string prompt_from_file_name(const std::filesystem::path& path) {
  std::string words = path.stem().string();
  if (words.size() > 5 && words.ends_with("_demo")) words.resize(words.size() - 5);
  if (const auto scene = words.find("SCENE"); scene != std::string::npos) {
    if (const auto after = words.find('_', scene); after != std::string::npos) words.erase(0, after + 1);
  }
  std::replace(words.begin(), words.end(), '_', ' ');
  return words;
}

std::string read_prompt(const hdf5::File& file) {
  const auto info = file.text_attribute("data", "problem_info");
  if (!info) return prompt_from_file_name(file.path());
  const std::string where = str(file.path().string(), ": problem_info of data");
  const std::string prompt =
      json_get_or<std::string>(parse_json(*info, where), "language_instruction", "", where);
  const std::string_view words = trim(prompt);
  return words.empty() ? prompt_from_file_name(file.path()) : std::string(words);
}

/// What robosuite was made with; whatever else stands there is nobody's concern.
double read_control_hz(const hdf5::File& file) {
  const std::string text = file.text_attribute("data", "env_args").value_or("");
  const Json arguments = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  const Json::json_pointer rate("/env_kwargs/control_freq");
  if (!arguments.is_object() || !arguments.contains(rate) || !arguments[rate].is_number()) return 0;
  return arguments[rate].get<double>();
}

hdf5::Matrix read_states(const hdf5::File& file, const std::string& demo) {
  const std::string obs = demo + "/obs/";
  std::vector<hdf5::Matrix> parts;
  if (file.has(obs + "ee_states")) {
    parts.push_back(file.read_matrix(obs + "ee_states", 6));
  } else {
    parts.push_back(file.read_matrix(obs + "ee_pos", 3));
    parts.push_back(file.read_matrix(obs + "ee_ori", 3));
  }
  parts.push_back(file.read_matrix(obs + "gripper_states", 2));
  hdf5::Matrix states = std::move(parts.front());
  for (std::size_t i = 1; i < parts.size(); ++i) {
    if (parts[i].size() != states.size())
      file.fail(obs, "holds states of different lengths", hdf5::kRerecord);
    for (std::size_t row = 0; row < states.size(); ++row)
      states[row].insert(states[row].end(), parts[i][row].begin(), parts[i][row].end());
  }
  return states;
}

// OpenVLA's filter: the arm stands still and the gripper's command is that of the last action kept.
bool is_noop(const std::vector<float>& action, const std::vector<float>* last_kept) {
  double squares = 0;
  for (std::size_t i = 0; i + 1 < action.size(); ++i) squares += static_cast<double>(action[i]) * action[i];
  return std::sqrt(squares) < kNoopNorm && (last_kept == nullptr || action.back() == last_kept->back());
}

Hdf5Episode read_demo(const hdf5::File& file, const std::string& name,
                      const std::vector<CameraDataset>& cameras, const LiberoOptions& options) {
  const std::string demo = "data/" + name;
  Hdf5Episode episode;
  const hdf5::Matrix actions = file.read_matrix(demo + "/actions", kLiberoActionDim);
  const hdf5::Matrix states = read_states(file, demo);
  if (states.size() != actions.size())
    file.fail(demo, str("has ", actions.size(), " actions but ", states.size(), " states"), hdf5::kRerecord);
  for (const CameraDataset& camera : cameras) {
    episode.cameras.push_back(
        find_frames(file, demo + "/obs/" + camera.dataset, static_cast<std::int64_t>(actions.size())));
  }
  // Our collector's: 1 where the cameras were drawn, 0 where the last images are repeated.
  hdf5::Matrix drawn;
  if (file.has(demo + "/obs/drawn")) drawn = file.read_matrix(demo + "/obs/drawn", 1);
  if (!drawn.empty() && drawn.size() != actions.size()) {
    file.fail(demo + "/obs/drawn",
              str("has ", drawn.size(), " steps, but there are ", actions.size(), " actions"),
              hdf5::kRerecord);
  }
  // Raw files were recorded by stepping first: the action that follows obs[j] is actions[j + 1].
  const std::size_t shift = options.raw_alignment ? 1 : 0;
  for (std::size_t row = 0; row + shift < actions.size(); ++row) {
    const std::vector<float>& action = actions[row + shift];
    const auto* last_kept = episode.actions.empty() ? nullptr : &episode.actions.back();
    if (options.drop_noops && is_noop(action, last_kept)) continue;
    if (!drawn.empty()) episode.repeats.push_back(drawn[row][0] == 0.0f);
    episode.frame_rows.push_back(static_cast<std::int64_t>(row));
    episode.states.push_back(states[row]);
    episode.actions.push_back(action);
  }
  if (episode.actions.empty())
    file.fail(demo, "has no usable step (too short, or the robot never moves)", hdf5::kRerecord);
  episode.name = name;
  return episode;
}

}  // namespace

Hdf5Content read_libero(const hdf5::File& file, const LiberoOptions& options) {
  const std::vector<std::string> names = demo_names(file);
  Hdf5Content content;
  content.upside_down = true;
  std::vector<CameraDataset> cameras;
  for (const CameraDataset& camera : kCameras) {
    if (!file.has(str("data/", names.front(), "/obs/", camera.dataset))) continue;
    cameras.push_back(camera);
    content.camera_names.emplace_back(camera.name);
  }
  if (cameras.empty()) {
    file.fail(str("data/", names.front(), "/obs"), "holds neither agentview_rgb nor eye_in_hand_rgb",
              "record the demonstrations with cameras");
  }
  // LIBERO's recorder leaves both attributes, a script that plays its files again neither.
  if (options.raw_alignment && !file.text_attribute("data", "problem_info") &&
      !file.text_attribute("data", "macros_image_convention"))
    content.warning =
        "looks like a regenerated file (no problem_info, no macros_image_convention), whose obs[j] comes "
        "before actions[j]; if so, say data.alignment=aligned, or every action is learned one step late";
  content.control_hz = read_control_hz(file);
  const std::string prompt = read_prompt(file);
  for (const std::string& name : names) {
    content.episodes.push_back(read_demo(file, name, cameras, options));
    content.episodes.back().prompt = prompt;
  }
  return content;
}

}  // namespace shallowpi
