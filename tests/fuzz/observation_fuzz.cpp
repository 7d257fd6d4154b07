// Input: which policy is served (one byte), a message of a robot.
#include <algorithm>
#include <array>
#include <cmath>

#include "fuzz.h"
#include "runtime/message.h"
#include "runtime/observation_message.h"

namespace shallowpi {
namespace {

constexpr std::int64_t kWidth = 16, kHorizon = 3, kMaxSteps = 20;
// The last one is a policy with a camera that openpi does not name.
constexpr std::array kRobots = {RobotKind::kLibero, RobotKind::kAloha, RobotKind::kJoints, RobotKind::kAloha};

ObservationDecoder decoder(std::size_t which) {
  const RobotKind robot = kRobots[which];
  PolicySpec spec;
  spec.robot.kind = robot;
  spec.horizon = kHorizon;
  spec.image_keys = {"base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"};
  if (which == 3) spec.image_keys = {"base_0_rgb", "side"};
  spec.action_width = kWidth;
  if (robot == RobotKind::kAloha) spec.robot.state_dim = spec.robot.action_dim = 14;
  if (robot == RobotKind::kJoints) spec.robot.state_dim = spec.robot.action_dim = 3;
  return {std::move(spec), {.steps = 10, .max_steps = kMaxSteps}};
}

/// A message alone, whatever it says: it is written as it was read, and is JSON.
void check_message(std::string_view bytes) {
  WireValue value;
  if (!fuzz::accepts([&] { value = decode_message(bytes); })) return;
  const std::string written = encode_message(value);
  fuzz::require(encode_message(decode_message(written)) == written, "what is written is read back equal");
  Json json;
  if (fuzz::accepts([&] { json = to_json(value); })) encode_message(to_wire(json));
}

void check_request(const PolicyRequest& request, const ObservationDecoder& decoder, RobotKind robot) {
  const RobotObservation& observation = request.infer.observation;
  fuzz::require(request.options.steps >= 1 && request.options.steps <= kMaxSteps, "num_steps has a limit");
  fuzz::require(std::all_of(observation.state.begin(), observation.state.end(),
                            [](float value) { return std::isfinite(value); }),
                "the state is finite");
  fuzz::require(!observation.prompt.empty(), "there is a prompt");
  for (const auto& [camera, image] : observation.images)
    fuzz::require(static_cast<std::int64_t>(image.bytes.size()) == 3 * image.height * image.width,
                  "an image has its pixels");
  const RobotObservation again = decoder.decode(encode_observation(observation, robot)).infer.observation;
  fuzz::require(again.state == observation.state && again.prompt == observation.prompt &&
                    again.images.size() == observation.images.size(),
                "what a client writes is read back equal");
}

}  // namespace

void fuzz::run(std::string_view input) {
  static const std::array decoders = {decoder(0), decoder(1), decoder(2), decoder(3)};
  if (input.empty()) return;
  const std::size_t which = static_cast<unsigned char>(input[0]) % kRobots.size();
  const std::string_view bytes = input.substr(1);
  check_message(bytes);
  PolicyRequest request;
  if (fuzz::accepts([&] { request = decoders[which].decode(bytes); }))
    check_request(request, decoders[which], kRobots[which]);
}

}  // namespace shallowpi
