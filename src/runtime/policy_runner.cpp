#include "shallowpi/runtime/policy_runner.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "runtime/graph_engine.h"
#include "runtime/observation_message.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/manifest.h"
#include "shallowpi/base/stopwatch.h"
#include "shallowpi/base/text.h"
#include "shallowpi/data/tokenizer.h"

namespace shallowpi {
namespace {

/// Throws UsageError unless `tensor` is [rows, width], all finite.
void check_tensor(const torch::Tensor& tensor, std::string_view name, std::int64_t rows, std::int64_t width) {
  if (!tensor.defined() || tensor.sizes() != at::IntArrayRef({rows, width}))
    throw UsageError(
        str(name, tensor.defined() ? str(" has shape ", shape_text(tensor.sizes().vec())) : " is missing",
            "; this policy needs [", rows, ", ", width, "]"));
  if (!tensor.isfinite().all().item<bool>()) throw UsageError(str(name, " is not finite"));
}

void check_finite(const RobotActions& actions) {
  for (std::size_t h = 0; h < actions.size(); ++h)
    for (std::size_t dim = 0; dim < actions[h].size(); ++dim)
      if (!std::isfinite(actions[h][dim]))
        throw NotFiniteError(
            str("the policy's action ", h, " is not finite (dim ", dim, "), and was withheld"));
}

}  // namespace

torch::Tensor draw_noise(at::IntArrayRef sizes, std::uint64_t seed) {
  return torch::randn(sizes, at::make_generator<at::CPUGeneratorImpl>(seed));
}

PolicyRunner PolicyRunner::load(const std::filesystem::path& checkpoint, torch::Device device,
                                torch::Dtype dtype, std::optional<std::int64_t> horizon,
                                const std::string& tokenizer, EngineKind engine) {
  CheckpointInfo info = read_checkpoint_info(checkpoint, horizon);
  require_horizon(info);
  if (!info.stats)
    throw UsageError(str(checkpoint.string(),
                         " has no normalisation statistics, so its actions cannot be turned into a robot's: ",
                         how_to_add_stats(info)));
  log_warnings(info);
  auto transform = std::make_unique<const PolicyTransform>(
      info.spec, *info.stats, std::make_shared<const Tokenizer>(find_tokenizer(tokenizer, info.tokenizer)),
      info.config.vocab);
  verify_files(info, OptionalFiles::kUnchecked);
  auto made = make_engine(load_policy(info, dtype, device), device, engine);
  return PolicyRunner(std::move(info), std::move(transform), std::move(made));
}

std::string PolicyRunner::fingerprint() const {
  const std::string folder = folder_fingerprint(info_.folder);
  const std::filesystem::path& tokenizer = transform_->tokenizer().path();
  if (tokenizer == info_.tokenizer) return folder;
  return sha256(folder + sha256_file(tokenizer)).substr(0, folder.size());
}

void PolicyRunner::check(const RobotObservation& observation) const {
  transform_->check(observation);
  transform_->check_prompt(observation);
  for (const std::string& camera : info_.spec.image_keys)
    if (observation.images.count(camera) == 0 && camera_required(camera, info_.spec.robot.kind))
      throw UsageError(
          str("camera ", camera, " is missing; this policy sees ", join(info_.spec.image_keys, ", ")));
}

EngineRequest PolicyRunner::engine_request(const std::vector<InferRequest>& batch,
                                           const InferOptions& options) const {
  const std::int64_t horizon = info_.spec.horizon, dims = info_.config.action_dim;
  const auto count = static_cast<std::int64_t>(batch.size());
  EngineRequest request;
  request.steps = options.steps;
  std::vector<const RobotObservation*> observations;
  for (const InferRequest& one : batch) observations.push_back(&one.observation);
  request.observation = transform_->prepare(observations);
  // A prompt may hold the state, which has more digits in one frame than in another; a graph is for one
  // length.
  if (engine_->kind() == EngineKind::kGraph && prompt_reads_state(info_.spec.prompt_mode))
    for (const RobotObservation* observation : observations)
      request.observation.pad_prompts(transform_->longest_prompt(*observation));
  request.noise_bhd = torch::empty({count, horizon, dims});
  for (std::int64_t b = 0; b < count; ++b) {
    check_tensor(batch[b].noise_hd, "noise", horizon, dims);
    request.noise_bhd[b].copy_(batch[b].noise_hd);
    const RobotActions& prefix = batch[b].prefix_actions;
    if (prefix.empty()) continue;
    const auto given = static_cast<std::int64_t>(prefix.size());
    if (given >= horizon)
      throw UsageError(str("prefix_actions gives ", given, " actions, which leaves none of the chunk's ",
                           horizon, " to sample"));
    const torch::Tensor prefix_hd = transform_->from_robot(prefix, batch[b].observation.state);
    check_tensor(prefix_hd, "prefix_actions", given, dims);
    if (!request.given_bhd.defined()) {
      request.given_bhd = torch::zeros({count, horizon, dims});
      request.given_mask_bh = torch::zeros({count, horizon}, torch::kBool);
    }
    request.given_bhd[b].narrow(0, 0, given).copy_(prefix_hd);
    request.given_mask_bh[b].narrow(0, 0, given).fill_(true);
  }
  return request;
}

void PolicyRunner::warm_up(std::int64_t steps, std::int64_t largest, const std::string& prompt) {
  const RobotSpec& robot = info_.spec.robot;
  const std::int64_t side = info_.spec.image_size;
  RobotObservation all;
  all.prompt = is_blank(prompt) && is_blank(info_.spec.default_prompt) ? "warm up" : prompt;
  all.state.assign(robot.state_dim, 0.0f);
  for (const std::string& camera : info_.spec.image_keys)
    all.images[camera] = {side, side, std::vector<std::uint8_t>(3 * side * side)};
  RobotObservation required = all;
  std::erase_if(required.images,
                [&](const auto& image) { return !camera_required(image.first, robot.kind); });

  const bool has_graphs = [&] {
    const std::lock_guard lock(*mutex_);
    return engine_->kind() == EngineKind::kGraph;
  }();
  const int passes = has_graphs ? 2 : 1;
  // Each batch that is a power of two, up to the one that holds `most`; single observations last.
  const auto infer_at_once = [&](const RobotObservation& seen, const RobotActions& given,
                                 std::uint64_t most) {
    const InferRequest shape = request(seen, given, 0);
    for (std::uint64_t size = std::bit_ceil(most); size >= 1; size /= 2)
      for (int pass = 0; pass < passes; ++pass)
        infer(std::vector<InferRequest>(size, shape), {.steps = steps});
  };
  if (!has_graphs) return infer_at_once(all, {}, 1);
  const RobotActions given{std::vector<float>(robot.action_dim)};
  std::vector<RobotObservation> shapes{all};
  if (!required.images.empty() && required.images.size() < all.images.size()) shapes.push_back(required);
  // Not more than are kept, with one of given actions for each.
  const std::uint64_t most = std::uint64_t{1} << (kMaxGraphs / shapes.size() - 2);
  for (const RobotObservation& seen : shapes) {
    if (info_.spec.horizon > 1) infer_at_once(seen, given, 1);
    infer_at_once(seen, {}, std::min(static_cast<std::uint64_t>(largest), most));
  }
}

std::vector<InferResult> PolicyRunner::infer(const std::vector<InferRequest>& batch,
                                             const InferOptions& options) {
  const std::lock_guard lock(*mutex_);
  const torch::InferenceMode guard;
  const EngineRequest request = engine_request(batch, options);
  const Stopwatch watch;
  const torch::Tensor actions_bhd = engine_->sample(request);
  const double model_ms = 1e3 * watch.seconds();
  std::vector<InferResult> results;
  for (std::size_t b = 0; b < batch.size(); ++b) {
    InferResult& result = results.emplace_back();
    result.normalized_hd = actions_bhd[static_cast<std::int64_t>(b)].clone();
    result.actions = transform_->to_robot(result.normalized_hd, batch[b].observation.state);
    check_finite(result.actions);
    result.model_ms = model_ms;
  }
  return results;
}

}  // namespace shallowpi
