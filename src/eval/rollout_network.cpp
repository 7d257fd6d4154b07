// Policies with a network: a checkpoint in this process, or a server.
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <chrono>

#include "shallowpi/base/error.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/text.h"
#include "shallowpi/data/random.h"
#include "shallowpi/eval/rollout_policy.h"
#include "shallowpi/model/checkpoint.h"
#include "shallowpi/runtime/policy_client.h"

namespace shallowpi {
namespace {

/// LIBERO's cameras, and one that openpi's policies know and that stays empty.
constexpr const char* kKnownCameras[] = {"base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"};

void check_fits(const std::string& folder, const PolicySpec& spec) {
  std::vector<std::string> problems;
  for (const std::string& camera : spec.image_keys)
    if (std::find(std::begin(kKnownCameras), std::end(kKnownCameras), camera) == std::end(kKnownCameras))
      problems.push_back(str("its camera ", camera, " is none of LIBERO's (base_0_rgb, left_wrist_0_rgb)"));
  if (std::find(spec.image_keys.begin(), spec.image_keys.end(), kKnownCameras[0]) == spec.image_keys.end())
    problems.push_back("it does not use base_0_rgb");
  if (spec.robot.state_dim != kLiberoStateDim)
    problems.push_back(str("its state has ", spec.robot.state_dim, " dims, LIBERO's has ", kLiberoStateDim));
  if (spec.robot.action_dim != kLiberoActionDim)
    problems.push_back(
        str("its actions have ", spec.robot.action_dim, " dims, LIBERO's have ", kLiberoActionDim));
  if (!problems.empty())
    throw UsageError(str(folder, " does not fit LIBERO: ", join(problems, "; "),
                         "; give a policy that was trained on LIBERO's demonstrations"));
}

/// Changes where any file of the folder changes; large files count by their size, and by the manifest, which
/// holds their hashes.
std::string fingerprint(const std::filesystem::path& folder) {
  constexpr std::uint64_t kSmall = 1u << 20;
  std::vector<std::string> lines;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file() || entry.path().filename() == ".lock") continue;
    const std::string name = std::filesystem::relative(entry.path(), folder).string();
    lines.push_back(str(name, " ", entry.file_size(), " ",
                        entry.file_size() <= kSmall ? sha256_file(entry.path()) : std::string("-")));
  }
  std::sort(lines.begin(), lines.end());
  return sha256(join(lines, "\n")).substr(0, 16);
}

class CheckpointPolicy final : public RolloutPolicy {
 public:
  CheckpointPolicy(CheckpointInfo info, std::uint64_t seed, const NetworkOptions& options)
      : info_(std::move(info)),
        seed_(seed),
        options_(options),
        transform_(info_.spec, *info_.stats,
                   std::make_shared<const Tokenizer>(find_tokenizer(options.tokenizer, info_.tokenizer)),
                   info_.config.vocab),
        policy_(load_policy(info_, options.dtype, options.device)) {}

  Json identity() const override {
    return {{"kind", "checkpoint"},
            {"layers", info_.config.depth()},
            {"euler_steps", options_.steps},
            {"dtype", c10::toString(options_.dtype)},
            {"fingerprint", fingerprint(info_.folder)}};
  }
  std::int64_t horizon() const override { return info_.spec.horizon; }

  std::vector<RobotActions> infer(const std::vector<PolicyCall>& calls) override {
    const torch::InferenceMode guard;
    std::vector<RobotObservation> observations;
    std::vector<torch::Tensor> noise;
    for (const PolicyCall& call : calls) {
      observations.push_back(call.observation);
      // A policy may do with fewer cameras than LIBERO has.
      std::erase_if(observations.back().images, [&](const auto& image) {
        return std::find(info_.spec.image_keys.begin(), info_.spec.image_keys.end(), image.first) ==
               info_.spec.image_keys.end();
      });
      noise.push_back(noise_of(call));
    }
    const Observation batch = transform_.prepare(observations).to(options_.device);
    const torch::Tensor actions_bhd =
        policy_->sample_actions(batch, torch::stack(noise).to(options_.device), options_.steps)
            .to(torch::kCPU, torch::kFloat32);
    std::vector<RobotActions> out;
    for (std::size_t b = 0; b < calls.size(); ++b)
      out.push_back(transform_.to_robot(actions_bhd[static_cast<std::int64_t>(b)], observations[b].state));
    return out;
  }

 private:
  torch::Tensor noise_of(const PolicyCall& call) const {
    std::uint64_t suite = 0;
    for (unsigned char c : call.episode.suite) suite = Random({suite, c}).next();
    const auto key = [](std::int64_t value) { return static_cast<std::uint64_t>(value); };
    Random stream({seed_, suite, key(call.episode.task), key(call.episode.trial), key(call.call)});
    auto generator = at::make_generator<at::CPUGeneratorImpl>(stream.next());
    return torch::randn({horizon(), info_.config.action_dim}, generator);
  }

  CheckpointInfo info_;
  std::uint64_t seed_;
  NetworkOptions options_;
  PolicyTransform transform_;
  Policy policy_;
};

class ServerPolicy final : public RolloutPolicy {
 public:
  explicit ServerPolicy(const std::string& url) : url_(url), client_(url) {}
  Json identity() const override {
    return {{"kind", "server"}, {"url", url_}, {"metadata", client_.metadata()}};
  }
  std::int64_t horizon() const override { return 0; }

  std::vector<RobotActions> infer(const std::vector<PolicyCall>& calls) override {
    std::vector<RobotActions> out;
    for (const PolicyCall& call : calls) {
      out.push_back(client_.infer(call.observation));
      if (out.back().empty()) throw Error(str(url_, " answered with no action"));
    }
    return out;
  }

 private:
  std::string url_;
  PolicyClient client_;
};

}  // namespace

std::unique_ptr<RolloutPolicy> checkpoint_policy(const std::string& folder, std::uint64_t seed,
                                                 const NetworkOptions& options) {
  CheckpointInfo info = read_checkpoint_info(folder, options.horizon);
  check_fits(folder, info.spec);
  if (!info.horizon_known && !options.horizon)
    throw UsageError(str(
        folder, " does not say how many steps an action chunk has: give --horizon H (LIBERO's pi0.5: 10)"));
  if (!info.stats)
    throw UsageError(
        str(folder,
            " has no normalisation statistics, without which its actions mean nothing to a robot:"
            " add assets/<asset_id>/norm_stats.json"));
  return std::make_unique<CheckpointPolicy>(std::move(info), seed, options);
}

std::unique_ptr<RolloutPolicy> server_policy(const std::string& url) {
  return std::make_unique<ServerPolicy>(url);
}

}  // namespace shallowpi
