// Observations as openpi's clients send them (policies/{libero,aloha,droid}_policy.py), and what ours add.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "shallowpi/base/policy_spec.h"
#include "shallowpi/runtime/policy_client.h"
#include "shallowpi/runtime/policy_runner.h"

namespace shallowpi {

struct PolicyRequest {
  InferRequest infer;  ///< noise_hd is undefined where the client sent none
  InferOptions options;
  std::optional<double> timestamp_s;  ///< when the observation was made, in Unix seconds
};

/// Where a client sends a camera, or "state", if not under the usual key. A state may be in several, which
/// follow each other.
using ClientKeys = std::map<std::string, std::vector<std::string>>;

struct DecoderOptions {
  std::int64_t steps = kEulerSteps;  ///< where a client asks for none
  std::int64_t max_steps = 100;      ///< what a client may ask for
  /// Throws UsageError for an observation that is not to be answered, such as PolicyTransform::check_prompt.
  std::function<void(const RobotObservation&)> check{};
  ClientKeys keys{};
};

/// Turns messages into requests, for one policy.
class ObservationDecoder {
 public:
  ObservationDecoder(PolicySpec spec, DecoderOptions options)
      : spec_(std::move(spec)), options_(std::move(options)) {}

  /// Reads the cameras of the spec, the state and the prompt under the keys of the robot kind; flat
  /// ("observation/image") or nested ({"images": {"cam_high": ...}}). A camera that openpi does not know
  /// stands under its own name ("observation/side", ALOHA: "images/side") and is required. Images are uint8,
  /// or floats in [0, 1], as HWC or CHW, or the bytes of a JPEG. Optional: `noise` [H, action_width],
  /// `num_steps`, `prefix_actions` [D, action_dim] (the first D < H actions of the answer, in robot units),
  /// `timestamp`. Throws UsageError that begins with the field.
  PolicyRequest decode(std::string_view message) const;

 private:
  PolicySpec spec_;
  DecoderOptions options_;
};

/// The keys of an observation in the order of the spec's cameras, then the state's and the prompt's; of
/// several that are known, the plainest.
std::vector<std::string> client_keys(const PolicySpec& spec);

/// Whether an observation must have this camera. All that a policy uses but those that openpi masks where
/// they are missing: a LIBERO or DROID robot's right wrist, an ALOHA's wrists.
bool camera_required(const std::string& camera, RobotKind robot);

/// The message of openpi's client for that robot, and what `extras` adds, as decode() reads them.
std::string encode_observation(const RobotObservation& observation, RobotKind robot,
                               const ClientExtras& extras = {});

}  // namespace shallowpi
