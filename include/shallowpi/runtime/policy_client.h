// A client of openpi's websocket protocol: of `shallowpi-infer serve` as of openpi's own server.
#pragma once

#include <memory>
#include <string>

#include "shallowpi/base/json.h"
#include "shallowpi/base/policy_spec.h"
#include "shallowpi/data/policy_transform.h"

namespace shallowpi {

/// What `shallowpi-infer serve` takes beyond openpi's protocol (docs/serve.md).
struct ClientExtras {
  torch::Tensor noise_hd{};  ///< float32 [H, action width], to start from; undefined: the server draws it
  /// [D][action dims], what is executed before the answer arrives; may be empty.
  RobotActions prefix_actions{};
};

/// One connection. Pings are answered by a thread of its own, so that the connection outlives long pauses
/// between two calls. Not thread-safe.
class PolicyClient {
 public:
  /// Connects to `url` (ws://host[:port][/path], port 8000 by default) and reads the server's metadata.
  /// Connecting, the greeting and each answer may take `timeout_s` seconds each. Throws UsageError for
  /// another kind of URL, Error where the server cannot be reached, refuses (a wrong `api_key`), or does not
  /// answer in time.
  explicit PolicyClient(const std::string& url, const std::string& api_key = "", double timeout_s = 60);
  ~PolicyClient();
  PolicyClient(const PolicyClient&) = delete;
  PolicyClient& operator=(const PolicyClient&) = delete;

  /// The server's first message; openpi's own server often sends {}.
  const Json& metadata() const;

  /// Sends the observation under the keys of openpi's clients for `robot` (kLibero: observation/image,
  /// observation/wrist_image, observation/state, prompt) and returns the action chunk. Throws Error with the
  /// server's words where it answers with an error, and where the connection is lost; the next call then
  /// connects again.
  RobotActions infer(const RobotObservation& observation, RobotKind robot = RobotKind::kLibero,
                     const ClientExtras& extras = {});

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace shallowpi
