// The server of `shallowpi-infer serve` before a policy that obeys its prompt, for
// tests/integration/serve_test.py and serve_load.py; or, with --echo, before nothing: each message goes back
// as it came, for Autobahn's fuzzing client.
//   prompt "sleep 300"  takes 300 ms   "fail"  throws   "blame"  throws UsageError   "nan"  answers NaN
// Every other answer is actions[h][d] = state[d] + h.
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <iostream>
#include <thread>

#include "runtime/policy_service.h"
#include "shallowpi/base/cli.h"
#include "shallowpi/base/error.h"

using namespace shallowpi;

namespace {

class EchoApplication : public WebsocketApplication {
 public:
  std::string greeting() override { return {}; }
  void on_message(const WebsocketMessage& message, std::function<void(WebsocketAnswer)> answer) override {
    answer({std::string(message.bytes), message.text});
  }
  HttpPage page(std::string_view) override { return {}; }
};

InferResult obey(const InferRequest& request) {
  const std::string& prompt = request.observation.prompt;
  if (prompt.starts_with("sleep "))
    std::this_thread::sleep_for(std::chrono::milliseconds(std::stoi(prompt.substr(6))));
  if (prompt == "fail") throw std::runtime_error("secret of /home/robot/policy.cpp:17");
  if (prompt == "blame") throw UsageError("observation/state: the policy cannot stand it");
  InferResult result;
  for (int h = 0; h < 4; ++h) {
    std::vector<float> step(request.observation.state.begin(), request.observation.state.begin() + 7);
    for (float& value : step) value += static_cast<float>(h);
    if (prompt == "nan" && h == 3) step[6] = NAN;
    result.actions.push_back(step);
  }
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  ServerOptions server_options;
  server_options.port = 0;
  QueueOptions queue;
  std::int64_t idle_ms = 60000, message_ms = 30000, write_ms = 30000, window_ms = 0, max_age_ms = 0,
               delay_ms = 0;
  bool echo = false;
  CLI::App app("A websocket server for tests.");
  app.add_flag("--echo", echo);
  app.add_option("--api-key", server_options.api_key);
  app.add_option("--connections", server_options.limits.connections);
  app.add_option("--queue", queue.capacity);
  app.add_option("--max-batch", queue.max_batch);
  app.add_option("--batch-window-ms", window_ms);
  app.add_option("--max-age-ms", max_age_ms);
  app.add_option("--idle-ms", idle_ms);
  app.add_option("--message-ms", message_ms);
  app.add_option("--write-ms", write_ms);
  app.add_option("--delay-ms", delay_ms, "of every inference");
  CLI11_PARSE(app, argc, argv);
  server_options.limits.idle = std::chrono::milliseconds(idle_ms);
  server_options.limits.message = std::chrono::milliseconds(message_ms);
  server_options.limits.write = std::chrono::milliseconds(write_ms);
  server_options.allow_origins = echo;
  queue.batch_window = std::chrono::milliseconds(window_ms);
  if (max_age_ms > 0) queue.max_age = std::chrono::milliseconds(max_age_ms);

  return run_main([&] {
    PolicySpec spec;
    spec.horizon = 4;
    spec.image_keys = {"base_0_rgb", "left_wrist_0_rgb"};
    const InferFunction infer = [&](const std::vector<InferRequest>& requests, const InferOptions&) {
      std::this_thread::sleep_for(std::chrono::milliseconds(delay_ms));
      std::vector<InferResult> results;
      for (const InferRequest& request : requests) results.push_back(obey(request));
      return results;
    };
    if (!echo)
      return run_policy_server(server_options, ObservationDecoder(spec, {}), infer, queue,
                               policy_metadata(spec));
    EchoApplication mirror;
    WebsocketServer server(server_options, mirror);
    server.handle_signals();
    std::cout << "listening on ws://127.0.0.1:" << server.port() << std::endl;
    server.run();
    return 0;
  });
}
