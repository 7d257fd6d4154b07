#include "runtime/policy_service.h"

#include <atomic>
#include <iostream>

#include "runtime/message.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/log.h"

namespace shallowpi {
namespace {

/// openpi's answer; actions are float64 there, because its statistics are.
std::string encode_answer(const Outcome& outcome, std::optional<double> previous_total_ms) {
  const RobotActions& actions = outcome.result.actions;
  const std::size_t width = actions.empty() ? 0 : actions.front().size();
  std::vector<double> flat;
  flat.reserve(actions.size() * width);
  for (const std::vector<float>& step : actions) flat.insert(flat.end(), step.begin(), step.end());
  const WireArray array{'f',
                        sizeof(double),
                        {static_cast<std::int64_t>(actions.size()), static_cast<std::int64_t>(width)},
                        {reinterpret_cast<const char*>(flat.data()), flat.size() * sizeof(double)}};
  WireMap policy_timing = {{"infer_ms", {outcome.result.model_ms}}};
  WireMap server_timing = {{"infer_ms", {outcome.infer_ms}}};
  if (previous_total_ms) server_timing.push_back({"prev_total_ms", WireValue{*previous_total_ms}});
  return encode_message({WireMap{{"actions", {array}},
                                 {"policy_timing", {std::move(policy_timing)}},
                                 {"server_timing", {std::move(server_timing)}}}});
}

}  // namespace

PolicyService::PolicyService(ObservationDecoder decoder, InferFunction infer, QueueOptions options,
                             const Json& metadata, std::function<void()> on_broken)
    : decoder_(std::move(decoder)),
      greeting_(encode_message(to_wire(metadata))),
      capacity_(options.capacity),
      queue_(std::move(infer), options, metrics_, std::move(on_broken)) {}

void PolicyService::on_message(const WebsocketMessage& message, std::function<void(WebsocketAnswer)> answer) {
  InferenceQueue::Job job;
  try {
    if (message.text) throw UsageError("message: expected a binary message, got text");
    job.request = decoder_.decode(message.bytes);
  } catch (const UsageError& error) {
    return refuse(RequestEnd::kBadMessage, error.what(), answer);
  }
  job.gone = message.gone;
  job.done = [answer, previous = message.previous_total_ms](Outcome outcome) {
    if (outcome.end == RequestEnd::kAnswered) return answer({encode_answer(outcome, previous)});
    answer({outcome.error, true, outcome.end == RequestEnd::kFailed});
  };
  if (!queue_.submit(std::move(job)))
    refuse(RequestEnd::kQueueFull,
           str("busy: ", capacity_, " observations are waiting already; try again later"), answer);
}

void PolicyService::refuse(RequestEnd end, const std::string& error,
                           const std::function<void(WebsocketAnswer)>& answer) {
  metrics_.count(end);
  warn(str("a message was refused: ", in_quotes(error)));
  answer({error, true});
}

void PolicyService::on_refused(int status, const std::string& peer, const std::string& why) {
  metrics_.count_refused(status);
  warn(str(peer, " was turned away with ", status, ": ", trim(why)));
}

/// Clients could fill the disk with warnings.
void PolicyService::warn(const std::string& what) {
  constexpr double kQuietSeconds = 10;
  if (warned_ && warned_->seconds() < kQuietSeconds) {
    ++unsaid_;
    return;
  }
  log::warning(what, unsaid_ == 0 ? "" : str(" (and ", unsaid_, " more refusals since the last one logged)"));
  warned_.emplace();
  unsaid_ = 0;
}

HttpPage PolicyService::page(std::string_view path) {
  if (path == "/healthz") {
    const std::string trouble = queue_.trouble();
    return trouble.empty() ? HttpPage{200, "OK\n"} : HttpPage{503, trouble + "\n"};
  }
  if (path == "/metrics") return {200, metrics_.prometheus(), true};
  return {};
}

int run_policy_server(const ServerOptions& listen, ObservationDecoder decoder, InferFunction infer,
                      const QueueOptions& queue, const Json& metadata) {
  std::atomic<bool> broken{false};
  std::weak_ptr<WebsocketServer> running;  // the inference thread outlives the server
  const auto on_broken = [&] {
    log::error("the policy has failed ", queue.failures_to_stop, " times in a row; giving up");
    broken = true;
    if (const auto server = running.lock()) server->stop();
  };
  PolicyService service(std::move(decoder), std::move(infer), queue, metadata, on_broken);
  const auto server = std::make_shared<WebsocketServer>(listen, service);
  running = server;
  server->handle_signals();
  std::cout << "listening on ws://" << url_host(listen.host) << ':' << server->port() << std::endl;
  server->run();
  return static_cast<int>(broken ? ExitCode::kFailed : ExitCode::kDone);
}

Json policy_metadata(const PolicySpec& spec) {
  Json metadata = {{"robot", enum_name(spec.robot.kind)}, {"action_horizon", spec.horizon},
                   {"action_dim", spec.robot.action_dim}, {"state_dim", spec.robot.state_dim},
                   {"action_width", spec.action_width},   {"image_size", spec.image_size},
                   {"cameras", spec.image_keys}};
  if (spec.demo_image_size > 0) metadata["demo_image_size"] = spec.demo_image_size;
  if (spec.control_hz > 0) metadata["control_hz"] = spec.control_hz;
  if (spec.rtc_training_max_delay > 0) metadata["rtc_training_max_delay"] = spec.rtc_training_max_delay;
  // The pose that openpi's ALOHA configurations name, and its ALOHA client moves to before an episode.
  if (spec.robot.kind == RobotKind::kAloha) metadata["reset_pose"] = {0.0, -1.5, 1.5, 0.0, 0.0, 0.0};
  return metadata;
}

}  // namespace shallowpi
