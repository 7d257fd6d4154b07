#include "shallowpi/runtime/serve.h"

#include <ATen/CPUGeneratorImpl.h>

#include <atomic>
#include <iostream>

#include "runtime/policy_service.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/log.h"
#include "shallowpi/base/text.h"
#include "shallowpi/runtime/policy_runner.h"

namespace shallowpi {
namespace {

constexpr std::size_t kMinKeyLength = 16;

std::string read_api_key(const std::filesystem::path& path) {
  if (path.empty()) return {};
  const std::string bytes = read_file(path, 4096);
  const std::string key(trim(bytes));
  if (key.size() < kMinKeyLength || key.find_first_of(" \t\r\n") != std::string::npos)
    throw UsageError(str("--api-key-file ", path.string(), ": expected one word of at least ", kMinKeyLength,
                         " characters, as `openssl rand -hex 32` makes"));
  const auto open = std::filesystem::perms::group_all | std::filesystem::perms::others_all;
  if ((std::filesystem::status(path).permissions() & open) != std::filesystem::perms::none)
    log::warning(path.string(), " can be read by others than its owner: chmod 600");
  return key;
}

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
  queue.capacity = static_cast<std::size_t>(options.max_queue);
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
      : runner_(std::move(runner)), generator_(at::make_generator<at::CPUGeneratorImpl>(options.seed)) {}

  const CheckpointInfo& info() const { return runner_.info(); }

  std::vector<InferResult> operator()(std::vector<InferRequest> requests, const InferOptions& options) {
    for (InferRequest& request : requests)
      if (!request.noise_hd.defined())
        request.noise_hd = torch::randn({info().spec.horizon, info().config.action_dim}, generator_);
    return runner_.infer(requests, options);
  }

  /// The first inferences are slow, on a GPU by seconds; no client should meet them.
  void warm_up(const ServeOptions& options) {
    InferRequest request;
    request.observation.prompt = options.default_prompt.empty() ? "warm up" : options.default_prompt;
    request.observation.state.assign(info().spec.robot.state_dim, 0.0f);
    const std::int64_t side = info().spec.image_size;
    const Image black{side, side, std::vector<std::uint8_t>(3 * side * side)};
    for (const std::string& camera : info().spec.image_keys) request.observation.images[camera] = black;
    log::info("loaded; warming up");
    const std::int64_t largest = options.device.is_cpu() ? 1 : options.max_batch;  // graphs are per size
    for (std::int64_t size = 1; size <= largest; ++size)
      for (int repeat = 0; repeat < 2; ++repeat)
        (*this)(std::vector<InferRequest>(size, request), {options.steps});
  }

 private:
  PolicyRunner runner_;
  at::Generator generator_;
};

}  // namespace

int serve_policy(const ServeOptions& options) {
  const ServerOptions listen = server_options(options);  // its mistakes first: loading takes a while
  Inference inference(PolicyRunner::load(options.checkpoint, options.device, options.dtype, options.horizon,
                                         options.tokenizer, options.engine),
                      options);
  inference.warm_up(options);
  PolicySpec spec = inference.info().spec;
  if (!options.default_prompt.empty()) spec.default_prompt = options.default_prompt;

  std::atomic<WebsocketServer*> running{nullptr};
  std::atomic<bool> broken{false};
  const auto on_broken = [&] {
    log::error("the policy has failed three times in a row; giving up");
    broken = true;
    if (WebsocketServer* server = running) server->stop();
  };
  const DecoderOptions decoder{inference.info().config.action_dim, options.steps,
                               std::max<std::int64_t>(100, options.steps)};
  PolicyService service(ObservationDecoder(spec, inference.info().stats, decoder), std::ref(inference),
                        queue_options(options), policy_metadata(spec), on_broken);
  WebsocketServer server(listen, service);
  running = &server;
  server.handle_signals();
  std::cout << "listening on ws://" << options.host << ':' << server.port() << std::endl;
  server.run();
  return static_cast<int>(broken ? ExitCode::kFailed : ExitCode::kDone);
}

}  // namespace shallowpi
