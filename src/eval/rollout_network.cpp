// Policies with a network: a checkpoint in this process, or a server.
#include <algorithm>

#include "shallowpi/base/cli.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"
#include "shallowpi/data/random.h"
#include "shallowpi/eval/rollout_policy.h"
#include "shallowpi/runtime/policy_client.h"
#include "shallowpi/runtime/policy_runner.h"

namespace shallowpi {
namespace {

void check_fits(const std::string& folder, const PolicySpec& spec) {
  std::vector<std::string> problems;
  const auto holds = [](const std::vector<std::string>& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  // openpi's policies know one camera more than LIBERO has, which stays empty.
  for (const std::string& camera : spec.image_keys)
    if (!holds(kCanonicalCameras, camera))
      problems.push_back(str("its camera ", camera, " is none of LIBERO's (base_0_rgb, left_wrist_0_rgb)"));
  if (!holds(spec.image_keys, "base_0_rgb")) problems.push_back("it does not use base_0_rgb");
  if (spec.robot.state_dim != kLiberoStateDim)
    problems.push_back(str("its state has ", spec.robot.state_dim, " dims, LIBERO's has ", kLiberoStateDim));
  if (spec.robot.action_dim != kLiberoActionDim)
    problems.push_back(
        str("its actions have ", spec.robot.action_dim, " dims, LIBERO's have ", kLiberoActionDim));
  if (!problems.empty())
    throw UsageError(str(folder, " does not fit LIBERO: ", join(problems, "; "),
                         "; give a policy that was trained on LIBERO's demonstrations"));
}

/// For the noise of one call: a function of seed, episode and call.
std::uint64_t noise_seed(const PolicyCall& call, std::uint64_t seed) {
  std::uint64_t suite = 0;
  for (unsigned char c : call.episode.suite) suite = Random({suite, c}).next();
  const auto key = [](std::int64_t value) { return static_cast<std::uint64_t>(value); };
  return Random({seed, suite, key(call.episode.task), key(call.episode.trial), key(call.call)}).next();
}

class CheckpointPolicy final : public RolloutPolicy {
 public:
  CheckpointPolicy(const std::filesystem::path& folder, std::uint64_t seed, const NetworkOptions& options)
      : seed_(seed),
        options_(options),
        runner_(
            PolicyRunner::load(folder, options.device, options.dtype, options.horizon, options.tokenizer)) {}

  Json identity() const override {
    Json out = {{"kind", "checkpoint"},
                {"layers", runner_.info().config.depth()},
                {"horizon", horizon()},
                {"euler_steps", options_.steps},
                {"dtype", dtype_name(options_.dtype)},
                {"fingerprint", runner_.fingerprint()}};
    if (options_.noise_scale != 1) out["noise_scale"] = options_.noise_scale;
    return out;
  }
  std::int64_t horizon() const override { return runner_.transform().spec().horizon; }
  std::int64_t demo_image_size() const override { return runner_.transform().spec().demo_image_size; }
  std::int64_t rtc_training_max_delay() const override {
    return runner_.transform().spec().rtc_training_max_delay;
  }

  std::vector<RobotActions> infer(const std::vector<PolicyCall>& calls) override {
    std::vector<InferRequest> requests;
    const auto& keys = runner_.transform().spec().image_keys;
    for (const PolicyCall& call : calls) {
      requests.push_back(
          runner_.request(call.observation, call.prefix, noise_seed(call, seed_), options_.noise_scale));
      // A policy may do with fewer cameras than LIBERO has.
      std::erase_if(requests.back().observation.images, [&](const auto& image) {
        return std::find(keys.begin(), keys.end(), image.first) == keys.end();
      });
    }
    std::vector<RobotActions> out;
    for (InferResult& result : runner_.infer(requests, {.steps = options_.steps}))
      out.push_back(std::move(result.actions));
    return out;
  }

 private:
  std::uint64_t seed_;
  NetworkOptions options_;
  PolicyRunner runner_;
};

class ServerPolicy final : public RolloutPolicy {
 public:
  ServerPolicy(const std::string& url, std::uint64_t seed, double timeout_s, const std::string& api_key)
      : url_(url), seed_(seed), client_(url, api_key, timeout_s), metadata_(client_.metadata()) {
    if (!metadata_.is_object() || !metadata_.contains("robot")) return;  // not a server of ours
    horizon_ = json_get_or<std::int64_t>(metadata_, "action_horizon", 0, url);
    action_width_ = json_get_or<std::int64_t>(metadata_, "action_width", action_width_, url);
    demo_image_size_ = json_get_or<std::int64_t>(metadata_, "demo_image_size", 0, url);
    rtc_training_max_delay_ = json_get_or<std::int64_t>(metadata_, "rtc_training_max_delay", 0, url);
    noise_scale_ = json_get_or<double>(metadata_, "noise_scale", 1, url);
  }
  Json identity() const override { return {{"kind", "server"}, {"url", url_}, {"metadata", metadata_}}; }
  std::int64_t horizon() const override { return horizon_; }
  std::int64_t demo_image_size() const override { return demo_image_size_; }
  std::int64_t rtc_training_max_delay() const override { return rtc_training_max_delay_; }

  std::vector<RobotActions> infer(const std::vector<PolicyCall>& calls) override {
    std::vector<RobotActions> out;
    for (const PolicyCall& call : calls) {
      out.push_back(client_.infer(call.observation, RobotKind::kLibero, extras(call)));
      if (client_.metadata() != metadata_)  // the client has connected anew
        throw Error(str(url_, " now serves another policy, which says ", client_.metadata().dump(),
                        " instead of ", metadata_.dump(), "; start the one before again to go on"));
    }
    return out;
  }

 private:
  ClientExtras extras(const PolicyCall& call) const {
    if (horizon_ > 0)
      return {draw_noise({horizon_, action_width_}, noise_seed(call, seed_)) * noise_scale_, call.prefix};
    if (!call.prefix.empty())
      throw UsageError(str("--chunking rtc: ", url_,
                           " does not say that it takes prefix_actions, as shallowpi-infer serve does; use"
                           " receding or ensemble"));
    return {};
  }

  std::string url_;
  std::uint64_t seed_;
  PolicyClient client_;
  const Json metadata_;  // of the first connection
  // Of a server of ours:
  std::int64_t horizon_ = 0, action_width_ = 32, demo_image_size_ = 0, rtc_training_max_delay_ = 0;
  double noise_scale_ = 1;
};

}  // namespace

std::unique_ptr<RolloutPolicy> checkpoint_policy(const std::string& folder, std::uint64_t seed,
                                                 const NetworkOptions& options) {
  // Before the weights are read: they may be large.
  const CheckpointInfo info = read_checkpoint_info(folder, options.horizon);
  check_fits(folder, info.spec);
  return std::make_unique<CheckpointPolicy>(info.folder, seed, options);
}

std::unique_ptr<RolloutPolicy> server_policy(const std::string& url, std::uint64_t seed, double timeout_s,
                                             const std::string& api_key) {
  return std::make_unique<ServerPolicy>(url, seed, timeout_s, api_key);
}

}  // namespace shallowpi
