#include "shallowpi/runtime/run.h"

#include "runtime/observation_message.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/log.h"
#include "shallowpi/base/safetensors.h"
#include "shallowpi/base/text.h"
#include "shallowpi/model/checkpoint.h"
#include "shallowpi/model/policy.h"
#include "shallowpi/runtime/tensor_file.h"

namespace shallowpi {
namespace {

/// The chunk length to sample: the input's noise or actions decide, else --horizon, else the checkpoint.
std::int64_t choose_horizon(const RunOptions& options, const CheckpointInfo& info,
                            const PolicyInputs& inputs) {
  const bool has_noise = inputs.noise_bhd.defined();
  if (has_noise || inputs.actions_bhd.defined()) {
    const char* const name = has_noise ? "in.noise" : "in.actions";
    const std::int64_t given = (has_noise ? inputs.noise_bhd : inputs.actions_bhd).size(1);
    if (options.horizon && *options.horizon != given)
      throw UsageError(str("--horizon ", *options.horizon, " contradicts ", name, " of ",
                           options.input.string(), ", which has ", given, " steps: drop one of the two"));
    if (info.horizon_known && info.spec.horizon != given)
      log::warning(name, " has ", given, " steps, the policy was trained on chunks of ", info.spec.horizon);
    return given;
  }
  require_horizon(info);
  return info.spec.horizon;
}

/// Refuses more cameras than the policy has, and warns of those that are missing.
void check_cameras(const RunOptions& options, const CheckpointInfo& info, std::size_t given) {
  const std::vector<std::string>& cameras = info.spec.image_keys;
  if (!cameras.empty() && given > cameras.size())
    throw UsageError(str(options.input.string(), ": in.image_", cameras.size(),
                         " is one camera too many; this policy sees ", join(cameras, ", ")));
  for (std::size_t k = given; k < cameras.size(); ++k)
    if (camera_required(cameras[k], info.spec.robot.kind))
      log::warning("in.image_", k, " is missing, so the policy acts without its camera ", cameras[k]);
}

void check_options(const RunOptions& options) {
  std::error_code none_yet;
  if (std::filesystem::equivalent(options.input, options.output, none_yet))
    throw UsageError(str("--output ", options.output.string(), " is the --input; name another file"));
  const auto parent = std::filesystem::absolute(options.output).parent_path();
  if (!std::filesystem::is_directory(parent))
    throw UsageError(str("--output ", options.output.string(), ": there is no folder ", parent.string()));
}

}  // namespace

void run_policy_on_file(const RunOptions& options) {
  check_options(options);
  const CheckpointInfo info = read_checkpoint_info(options.checkpoint, options.horizon);
  const PolicyInputs inputs = read_policy_inputs(options.input, info.config).to(options.device);
  check_cameras(options, info, inputs.observation.images_bcyx.size());
  const std::int64_t horizon = choose_horizon(options, info, inputs);

  Policy policy = load_policy(info, options.dtype, options.device);
  torch::InferenceMode guard;
  const Observation& observation = inputs.observation;
  NamedTensors out;
  torch::Tensor noise_bhd = inputs.noise_bhd;
  if (!noise_bhd.defined()) {
    noise_bhd = draw_noise({observation.batch_size(), horizon, info.config.action_dim}, options.seed);
    out["in.noise"] = noise_bhd;
    noise_bhd = noise_bhd.to(options.device);
  }

  out["out.prefix_embeddings"] = policy->full_prefix_embeddings(observation);
  if (inputs.actions_bhd.defined() && inputs.time_b.defined()) {
    const torch::Tensor t = inputs.time_b.view({-1, 1, 1});
    const torch::Tensor x_t = t * noise_bhd + (1 - t) * inputs.actions_bhd;
    out["out.velocity"] =
        policy->velocity(policy->encode(observation), observation.state_bd, x_t, inputs.time_b);
  }
  out["out.sampled_actions"] = make_engine(policy, options.device, options.engine)
                                   ->sample({observation.to(torch::kCPU), noise_bhd, options.steps});

  for (auto& [name, tensor] : out) {
    tensor = tensor.to(torch::kCPU, torch::kFloat32).contiguous();
    if (!tensor.isfinite().all().item<bool>())
      throw CorruptError(str(info.folder.string(), ": its ", name, " is not finite; nothing was written"));
  }
  save_safetensors(options.output, out);
  log::info("wrote ", options.output.string(), ": ", observation.batch_size(), " chunks of ", horizon,
            " steps from ", info.config.depth(), " layers");
}

}  // namespace shallowpi
