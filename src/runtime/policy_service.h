// What `shallowpi-infer serve` does with messages: openpi's protocol between a websocket server and a policy.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "runtime/inference_queue.h"
#include "runtime/observation_message.h"
#include "runtime/server_metrics.h"
#include "runtime/websocket_server.h"
#include "shallowpi/base/json.h"
#include "shallowpi/base/stopwatch.h"

namespace shallowpi {

class PolicyService : public WebsocketApplication {
 public:
  /// `metadata`: every connection's first message. `on_broken`: InferenceQueue's.
  PolicyService(ObservationDecoder decoder, InferFunction infer, QueueOptions options, const Json& metadata,
                std::function<void()> on_broken);

  std::string greeting() override { return greeting_; }
  /// An observation is answered with {actions: float64 [H, A], policy_timing, server_timing}; a bad one with
  /// a text message that names the field; a failure of the policy with a text message, which ends the
  /// connection.
  void on_message(const WebsocketMessage& message, std::function<void(WebsocketAnswer)> answer) override;
  /// /healthz (200, or 503 while the policy fails) and /metrics.
  HttpPage page(std::string_view path) override;
  void on_connections(std::size_t open) override { metrics_.set_connections(open); }
  void on_refused(int status, const std::string& peer, const std::string& why) override;

 private:
  void warn(const std::string& what);
  void refuse(RequestEnd end, const std::string& error, const std::function<void(WebsocketAnswer)>& answer);

  const ObservationDecoder decoder_;
  const std::string greeting_;
  const std::size_t capacity_;
  std::optional<Stopwatch> warned_;  // since the last warning; with unsaid_ of the network thread
  std::size_t unsaid_ = 0;           // warnings left out since then
  ServerMetrics metrics_;
  InferenceQueue queue_;
};

/// Serves a policy, `metadata` first on every connection, until SIGTERM or SIGINT (returns 0) or until it has
/// failed too often in a row (returns 1); prints the address on stdout once the port is open.
int run_policy_server(const ServerOptions& listen, ObservationDecoder decoder, InferFunction infer,
                      const QueueOptions& queue, const Json& metadata);

/// What the server says of a policy: robot, sizes and cameras, and for ALOHA openpi's reset_pose.
Json policy_metadata(const PolicySpec& spec);

}  // namespace shallowpi
