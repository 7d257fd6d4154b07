// `shallowpi-infer serve`: a policy behind openpi's websocket protocol (docs/serve.md).
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "shallowpi/runtime/engine.h"

namespace shallowpi {

struct ServeOptions {
  std::filesystem::path checkpoint;
  std::string host = "127.0.0.1";
  std::int64_t port = 8000;             ///< 0: any free one
  std::filesystem::path api_key_file;   ///< empty: no key
  bool insecure = false;                ///< another host than loopback without a key
  std::vector<std::string> keys;        ///< NAME=KEY: where clients send a camera, or "state" (NAME=KEY,KEY)
  std::filesystem::path record;         ///< folder for what robots sent and were answered; empty: none
  std::string default_prompt;           ///< where an observation brings none; empty: the checkpoint's
  std::string tokenizer;                ///< empty: found by find_tokenizer()
  std::optional<std::int64_t> horizon;  ///< where the checkpoint does not say it
  std::int64_t steps = kEulerSteps;     ///< Euler steps where a client asks for none
  std::int64_t max_queue = 16, max_batch = 1, batch_window_ms = 0;
  std::int64_t inference_timeout_s = 60;   ///< /healthz answers 503 while an inference takes longer
  std::optional<std::int64_t> max_age_ms;  ///< of observations with a timestamp
  std::int64_t max_connections = 64;
  std::uint64_t seed = 42;  ///< of the noise, where a client sends none
  double noise_scale = 1;   ///< times that noise
  torch::Device device = torch::kCPU;
  torch::Dtype dtype = torch::kFloat32;
  EngineKind engine = EngineKind::kAuto;
};

/// Loads and warms up the policy, opens the port, prints its address on stdout, and serves until SIGTERM or
/// SIGINT (returns 0) or until the policy has failed three times in a row (returns 1). Throws UsageError for
/// options that contradict each other or would expose an open server.
int serve_policy(const ServeOptions& options);

}  // namespace shallowpi
