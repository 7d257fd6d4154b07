// Everything beside the weights that a policy needs to be used as it was trained: how images,
// state, actions and the prompt are prepared. Saved in a checkpoint's shallowpi.json; inferred
// from openpi and LeRobot folders.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "shallowpi/base/enum_names.h"

namespace shallowpi {

inline constexpr std::int64_t kMaxHorizon = 10000;  ///< the most action steps per chunk
inline constexpr std::int64_t kEulerSteps = 10;     ///< integration steps of the flow, where none are given
inline constexpr std::int64_t kMaxEulerSteps = 1000;
inline constexpr double kMinControlHz = 0.1, kMaxControlHz = 10000;  ///< steps per second
constexpr bool is_control_rate(double hz) {
  return hz >= kMinControlHz && hz <= kMaxControlHz;
}
inline constexpr double kMaxNoiseScale = 2;  ///< of what a chunk starts from; policies learn with 1
inline constexpr std::int64_t kMaxTextStateDim = 1024;  ///< the most state dims that a prompt may hold

/// pi's cameras in its order (openpi's IMAGE_KEYS).
inline const std::vector<std::string> kCanonicalCameras{"base_0_rgb", "left_wrist_0_rgb",
                                                        "right_wrist_0_rgb"};

/// How the prompt is written (pi_models: openpi's tokenizer.py, LeRobot's processors).
enum class PromptMode {
  kPi0Plain,    ///< "<bos>text\n", the text stripped, its underscores and newlines replaced by spaces
  kLeRobotPi0,  ///< LeRobot's pi0: "<bos>text\n", the text as it is; a newline that it ends with is kept
  kPi05State,   ///< "Task: text, State: 12 200 ...;\nAction: " with the robot's real state dims
  kPi05StatePadded32,  ///< the same with the state zero-padded to 32 dims first (LeRobot 0.4.x)
  kPi05NoState,        ///< as kPi0Plain, padded to the pi0.5 length (openpi's pi05_libero)
};
template <>
inline constexpr auto kEnumNames<PromptMode> = std::to_array<EnumName<PromptMode>>({
    {PromptMode::kPi0Plain, "pi0_plain"},
    {PromptMode::kLeRobotPi0, "lerobot_pi0"},
    {PromptMode::kPi05State, "pi05_state"},
    {PromptMode::kPi05StatePadded32, "pi05_state_padded32"},
    {PromptMode::kPi05NoState, "pi05_no_state"},
});

/// Whether the prompt holds the robot's state, and so differs from step to step.
constexpr bool prompt_reads_state(PromptMode mode) {
  return mode == PromptMode::kPi05State || mode == PromptMode::kPi05StatePadded32;
}

/// Whether `mode` writes pi0's prompt; the others write pi0.5's.
constexpr bool is_pi0_prompt(PromptMode mode) {
  return mode == PromptMode::kPi0Plain || mode == PromptMode::kLeRobotPi0;
}

/// The most state dims of a policy. A pi0 network reads the state at its own width. Of pi0.5 only the prompt
/// reads it, or nothing: any number fits, unless it is padded to 32 (kPi05StatePadded32).
constexpr std::int64_t max_state_dim(PromptMode mode, std::int64_t action_width) {
  const bool as_text = mode == PromptMode::kPi05State || mode == PromptMode::kPi05NoState;
  return as_text ? kMaxTextStateDim : action_width;
}

/// How state and actions are normalised.
enum class NormMode {
  kZScore,            ///< openpi pi0: (x - mean) / (std + 1e-6), and back with the same epsilon
  kQuantile,          ///< openpi pi0.5: (x - q01) / (q99 - q01 + 1e-6) * 2 - 1
  kLeRobotMeanStd,    ///< (x - mean) / (std + 1e-8), back with std alone
  kLeRobotQuantiles,  ///< 2 (x - q01) / (q99 - q01) - 1, the range replaced by 1e-8 only where exactly 0
};
template <>
inline constexpr auto kEnumNames<NormMode> = std::to_array<EnumName<NormMode>>({
    {NormMode::kZScore, "zscore"},
    {NormMode::kQuantile, "quantile"},
    {NormMode::kLeRobotMeanStd, "lerobot_mean_std"},
    {NormMode::kLeRobotQuantiles, "lerobot_quantiles"},
});

constexpr bool uses_quantiles(NormMode mode) {
  return mode == NormMode::kQuantile || mode == NormMode::kLeRobotQuantiles;
}
/// What is added to a width before dividing by it; kLeRobotQuantiles instead puts
/// it in the place of a width of 0.
constexpr double norm_epsilon(NormMode mode) {
  return mode == NormMode::kZScore || mode == NormMode::kQuantile ? 1e-6 : 1e-8;
}

/// How images are brought to the policy's size; all keep the aspect ratio and pad with black (-1).
enum class ResizeMode {
  kPillow,          ///< openpi: bit-exact Pillow bilinear on uint8, antialiased
  kTorch,           ///< LeRobot: bilinear on floats without antialiasing
  kTorchLeRobot04,  ///< LeRobot 0.4.x: the same, but padded with -3, darker than black
};
template <>
inline constexpr auto kEnumNames<ResizeMode> = std::to_array<EnumName<ResizeMode>>({
    {ResizeMode::kPillow, "pillow"},
    {ResizeMode::kTorch, "torch"},
    {ResizeMode::kTorchLeRobot04, "torch_lerobot04"},
});

inline constexpr std::int64_t kLiberoStateDim = 8, kLiberoActionDim = 7;
inline constexpr std::int64_t kAlohaDim = 14;  ///< of state and actions

/// The conversion between a robot's numbers and the policy's.
enum class RobotKind {
  kLibero,  ///< state = eef position, axis-angle, gripper
  kAloha,   ///< joints; pi's joint flips and gripper maps
  kJoints,  ///< any joints as they are
};
template <>
inline constexpr auto kEnumNames<RobotKind> = std::to_array<EnumName<RobotKind>>({
    {RobotKind::kLibero, "libero"},
    {RobotKind::kAloha, "aloha"},
    {RobotKind::kJoints, "joints"},
});

/// openpi's make_bool_mask: n is n trues, -n is n falses. make_bool_mask({6, -1}) is LIBERO's delta mask.
inline std::vector<bool> make_bool_mask(const std::vector<std::int64_t>& runs) {
  std::vector<bool> mask;
  for (const std::int64_t run : runs)
    mask.insert(mask.end(), static_cast<std::size_t>(run < 0 ? -run : run), run > 0);
  return mask;
}

struct RobotSpec {
  RobotKind kind = RobotKind::kLibero;
  std::int64_t state_dim = kLiberoStateDim;    ///< real dims, at most max_state_dim()
  std::int64_t action_dim = kLiberoActionDim;  ///< real dims, at most the policy's action_width
  /// Action dims that are relative to the state at the chunk's start; empty: none.
  std::vector<bool> delta_mask;
};

/// Number of dims up to the last relative one; 0 where there is none.
std::int64_t delta_reach(const RobotSpec& robot);
/// Throws UsageError, naming the field, where kind, dims and delta mask of a robot do not fit each other.
void check_robot(const RobotSpec& robot);

struct PolicySpec {
  std::int64_t horizon = 50;            ///< action steps per chunk
  std::int64_t image_size = 224;        ///< side of the square that the vision tower expects
  std::int64_t action_width = 32;       ///< state and actions in the network: the robot's, padded with zeros
  std::vector<std::string> image_keys;  ///< cameras, in the order of the prefix
  /// LeRobot's feature of a camera, where it is not the usual one.
  std::map<std::string, std::string> lerobot_cameras;
  PromptMode prompt_mode = PromptMode::kPi05State;
  std::int64_t max_token_len = 200;
  NormMode norm_mode = NormMode::kQuantile;
  ResizeMode resize_mode = ResizeMode::kPillow;
  RobotSpec robot;
  std::string asset_id = "shallowpi";  ///< folder of norm_stats.json under assets/
  std::string default_prompt;          ///< used where an observation brings none
  /// Pixels of the longer side of the images in its demonstrations; 0: not known.
  std::int64_t demo_image_size = 0;
  /// Steps per second of its demonstrations, and so of its actions; 0: not known.
  double control_hz = 0;
  /// Real-time chunking: the most actions at the start of a chunk that it was trained to be given.
  std::int64_t rtc_training_max_delay = 0;
};

/// What is out of range in a spec, or does not fit the rest of it: one sentence each, which names the field.
std::vector<std::string> spec_problems(const PolicySpec& spec);
/// Throws UsageError with all spec_problems.
void check_spec(const PolicySpec& spec);

}  // namespace shallowpi
