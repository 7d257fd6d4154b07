#include "shallowpi/runtime/serve.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>

#include "runtime/policy_service.h"
#include "shallowpi/base/cli.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/log.h"
#include "shallowpi/base/text.h"
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

/// PolicyRunner::infer with the noise that clients did not send.
class Inference {
 public:
  Inference(PolicyRunner runner, const ServeOptions& options)
      : runner_(std::move(runner)),
        generator_(at::make_generator<at::CPUGeneratorImpl>(options.seed)),
        noise_scale_(options.noise_scale) {}

  const CheckpointInfo& info() const { return runner_.info(); }
  const PolicyTransform& transform() const { return runner_.transform(); }
  std::string fingerprint() const { return runner_.fingerprint(); }

  std::vector<InferResult> operator()(std::vector<InferRequest> requests, const InferOptions& options) {
    for (InferRequest& request : requests)
      if (!request.noise_hd.defined())
        request.noise_hd =
            torch::randn({info().spec.horizon, info().config.action_dim}, generator_) * noise_scale_;
    return runner_.infer(requests, options);
  }

  void warm_up(const ServeOptions& options) {
    log::info("loaded; warming up");
    runner_.warm_up(options.steps, options.max_batch, options.default_prompt);
  }

 private:
  PolicyRunner runner_;
  at::Generator generator_;
  double noise_scale_;
};

}  // namespace

int serve_policy(const ServeOptions& options) {
  const ServerOptions listen = server_options(options);  // its mistakes first: loading takes a while
  check_address(listen.host, listen.port);
  Inference inference(PolicyRunner::load(options.checkpoint, options.device, options.dtype, options.horizon,
                                         options.tokenizer, options.engine),
                      options);
  inference.warm_up(options);
  PolicySpec spec = inference.info().spec;
  if (!options.default_prompt.empty()) spec.default_prompt = options.default_prompt;

  // By these a client knows the policy again, as `shallowpi-eval rollout --server` has to before it goes on.
  Json metadata = policy_metadata(spec);
  metadata.update({{"fingerprint", inference.fingerprint()},
                   {"euler_steps", options.steps},
                   {"dtype", dtype_name(options.dtype)}});
  if (options.noise_scale != 1) metadata["noise_scale"] = options.noise_scale;
  DecoderOptions decoder{.steps = options.steps, .check = [&](const RobotObservation& observation) {
                           inference.transform().check_prompt(observation);
                         }};
  decoder.max_steps = std::max(decoder.max_steps, options.steps);
  return run_policy_server(listen, ObservationDecoder(spec, inference.info().stats, decoder),
                           std::ref(inference), queue_options(options), metadata);
}

}  // namespace shallowpi
