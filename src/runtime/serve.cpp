#include "shallowpi/runtime/serve.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "runtime/policy_service.h"
#include "runtime/recorder.h"
#include "shallowpi/base/cli.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/log.h"
#include "shallowpi/base/text.h"
#include "shallowpi/data/tokenizer.h"
#include "shallowpi/runtime/api_key.h"
#include "shallowpi/runtime/policy_runner.h"

namespace shallowpi {
namespace {

ServerOptions server_options(const ServeOptions& options) {
  ServerOptions server;
  server.host = options.host;
  server.port = static_cast<std::uint16_t>(options.port);
  server.api_key = read_api_key(options.api_key_file);
  server.limits.connections = static_cast<std::size_t>(options.max_connections);
  if (!is_loopback(options.host) && server.api_key.empty()) {
    if (!options.insecure)
      throw UsageError(str("--host ", options.host,
                           " lets other machines drive the robot's policy: give "
                           "--api-key-file FILE, or --insecure in a network that you trust"));
    log::warning("anyone who reaches ", options.host, " can use this server (--insecure)");
  }
  return server;
}

QueueOptions queue_options(const ServeOptions& options) {
  QueueOptions queue;
  queue.capacity =
      static_cast<std::size_t>(std::max(options.max_queue, options.max_batch));  // one being filled fits
  queue.max_batch = static_cast<std::size_t>(options.max_batch);
  queue.inference_timeout = std::chrono::seconds(options.inference_timeout_s);
  queue.batch_window = std::chrono::milliseconds(options.batch_window_ms);
  if (options.max_age_ms) queue.max_age = std::chrono::milliseconds(*options.max_age_ms);
  return queue;
}

ClientKeys parse_keys(const std::vector<std::string>& given, const PolicySpec& spec) {
  ClientKeys keys;
  for (const std::string& text : given) {
    const std::size_t equals = text.find('=');
    const std::string name = text.substr(0, equals);
    const bool is_camera = std::ranges::count(spec.image_keys, name) != 0;
    if (equals == std::string::npos || equals + 1 == text.size() || (!is_camera && name != "state"))
      throw UsageError(
          str("--key ", text, ": expected NAME=KEY with a NAME among state, ", join(spec.image_keys, ", ")));
    const std::string key = text.substr(equals + 1);
    if (!keys.emplace(name, is_camera ? std::vector{key} : split(key, ',')).second)
      throw UsageError(str("--key ", text, ": ", name, " has a key already"));
  }
  return keys;
}

}  // namespace

int serve_policy(const ServeOptions& options) {
  const ServerOptions listen = server_options(options);  // its mistakes first: loading takes a while
  check_address(listen.host, listen.port);
  if (!options.record.empty()) prepare_recording_folder(options.record);
  PolicyRunner runner = PolicyRunner::load(options.checkpoint, options.device, options.dtype, options.horizon,
                                           options.tokenizer, options.engine);
  const ClientKeys keys = parse_keys(options.keys, runner.info().spec);
  log::info("loaded; warming up");
  runner.warm_up(options.steps, options.max_batch, options.default_prompt);
  PolicySpec spec = runner.info().spec;
  if (!is_blank(options.default_prompt)) spec.default_prompt = options.default_prompt;

  // By these a client knows the policy again, as `shallowpi-eval rollout --server` has to before it goes on.
  Json metadata = policy_metadata(spec);
  metadata.update({{"fingerprint", runner.fingerprint()},
                   {"euler_steps", options.steps},
                   {"dtype", dtype_name(options.dtype)}});
  if (options.noise_scale != 1) metadata["noise_scale"] = options.noise_scale;
  DecoderOptions decoder{
      .steps = options.steps,
      .check = [&](const RobotObservation& observation) { runner.transform().check_prompt(observation); },
      .keys = keys};
  decoder.max_steps = std::max(decoder.max_steps, options.steps);
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(options.seed);
  const std::vector<std::int64_t> chunk{spec.horizon, runner.info().config.action_dim};
  std::optional<Recorder> recorder;
  if (!options.record.empty()) recorder.emplace(options.record, spec.control_hz);
  const auto infer = [&](std::vector<InferRequest>& requests, const InferOptions& how) {
    for (InferRequest& request : requests)
      if (!request.noise_hd.defined())
        request.noise_hd = torch::randn(chunk, generator) * options.noise_scale;
    std::vector<InferResult> results = runner.infer(requests, how);
    for (std::size_t i = 0; recorder && i < requests.size(); ++i)  // a prefix is the robot's own, no answer
      if (requests[i].prefix_actions.empty())
        recorder->add(std::move(requests[i].observation), results[i].actions);
    return results;
  };
  return run_policy_server(listen, ObservationDecoder(spec, decoder), infer, queue_options(options),
                           metadata);
}

}  // namespace shallowpi
