#include "runtime/static_chunk.h"

#include <bit>
#include <numeric>

#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

constexpr std::int64_t kPromptBucket = 32;

void fill(torch::Tensor& buffer, const torch::Tensor& source, const std::string& name) {
  if (!source.defined() || source.sizes() != buffer.sizes())
    throw UsageError(
        str(name, source.defined() ? str(" has shape ", shape_text(source.sizes().vec())) : " is missing",
            "; this policy needs ", shape_text(buffer.sizes().vec())));
  buffer.copy_(source, /*non_blocking=*/true);
}

}  // namespace

ChunkShape shape_of(const EngineRequest& request) {
  const torch::Tensor &tokens = request.observation.tokens_bt, &noise = request.noise_bhd;
  if (tokens.dim() != 2) throw UsageError("the prompt's tokens and mask must both be [batch, tokens]");
  if (!noise.defined() || noise.dim() != 3) throw UsageError("noise must be [batch, horizon, dims]");
  return {.batch = tokens.size(0),
          .cameras = static_cast<std::int64_t>(request.observation.images_bcyx.size()),
          .prompt = tokens.size(1),
          .horizon = noise.size(1),
          .steps = request.steps,
          .given = request.given_mask_bh.defined()};
}

EngineRequest pad_to_bucket(const EngineRequest& request) {
  EngineRequest padded = request;
  Observation& observation = padded.observation;
  const ChunkShape shape = shape_of(request);
  observation.pad_prompts((shape.prompt + kPromptBucket - 1) / kPromptBucket * kPromptBucket);
  const auto batch = static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(shape.batch)));
  if (batch > shape.batch) {
    const torch::Tensor rows = torch::arange(batch).clamp_max(shape.batch - 1);
    const auto repeat = [&](const torch::Tensor& tensor) {
      const bool fits = tensor.defined() && tensor.size(0) == shape.batch;  // load() refuses what does not
      return fits ? tensor.index_select(0, rows.to(tensor.device())) : tensor;
    };
    observation = observation.map(repeat);
    for (torch::Tensor* tensor : {&padded.noise_bhd, &padded.given_bhd, &padded.given_mask_bh})
      *tensor = repeat(*tensor);
  }
  return padded;
}

StaticChunk::StaticChunk(Policy policy, torch::Device device, const ChunkShape& shape,
                         std::shared_ptr<const StepConditioning> conditioning)
    : policy_(std::move(policy)), shape_(shape) {
  const auto [batch, cameras, prompt, horizon, steps, given] = shape;
  const PolicyConfig& config = policy_->config();
  const std::int64_t side = config.vision.image_size, dims = config.action_dim;
  const auto numbers = torch::dtype(torch::kFloat32).device(device);
  const auto indices = numbers.dtype(torch::kInt64), flags = numbers.dtype(torch::kBool);
  for (std::int64_t camera = 0; camera < cameras; ++camera)
    observation_.images_bcyx.push_back(torch::zeros({batch, 3, side, side}, numbers));
  observation_.tokens_bt = torch::zeros({batch, prompt}, indices);
  observation_.state_bd = torch::zeros({batch, dims}, numbers);
  std::vector<std::int64_t> everyone(static_cast<std::size_t>(batch));
  std::iota(everyone.begin(), everyone.end(), 0);
  layout_.camera_samples.assign(static_cast<std::size_t>(cameras), everyone);
  layout_.prompt_positions = torch::arange(batch * prompt, indices);
  layout_.length = cameras * config.vision.tokens() + prompt;
  layout_.destinations = torch::zeros({batch * layout_.length}, indices);
  layout_.lengths_b = torch::zeros({batch}, indices);
  layout_.ragged = layout_.holds_invalid = true;
  noise_bhd_ = torch::zeros({batch, horizon, dims}, numbers);
  actions_bhd_ = torch::zeros_like(noise_bhd_);
  options_.conditioning = std::move(conditioning);
  if (given) {
    options_.given_bhd = torch::zeros_like(noise_bhd_);
    options_.given_mask_bh = torch::zeros({batch, horizon}, flags);
  }
}

void StaticChunk::load(const EngineRequest& request) {
  TORCH_CHECK(shape_of(request) == shape_, "a request of another shape");
  const PrefixLayout layout = policy_->fixed_layout(request.observation);
  fill(layout_.destinations, layout.destinations, "destinations");
  fill(layout_.lengths_b, layout.lengths_b, "lengths");
  for (std::size_t camera = 0; camera < observation_.images_bcyx.size(); ++camera)
    fill(observation_.images_bcyx[camera], request.observation.images_bcyx[camera],
         str("the images of camera ", camera));
  fill(observation_.tokens_bt, request.observation.tokens_bt, "tokens");
  if (policy_->config().kind == PolicyKind::kPi0)
    fill(observation_.state_bd, request.observation.state_bd, "state");
  fill(noise_bhd_, request.noise_bhd, "noise");
  if (!shape_.given) return;
  fill(options_.given_bhd, request.given_bhd, "the given actions");
  fill(options_.given_mask_bh, request.given_mask_bh, "the mask of given actions");
}

void StaticChunk::run() {
  const PrefixCache cache = policy_->encode(observation_, layout_);
  actions_bhd_.copy_(
      policy_->sample_actions(cache, observation_.state_bd, noise_bhd_, shape_.steps, options_));
}

}  // namespace shallowpi
