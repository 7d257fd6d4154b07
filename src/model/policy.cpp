#include "shallowpi/model/policy.h"

#include <algorithm>
#include <numeric>

#include "model/backbone.h"
#include "model/expert.h"
#include "model/parameters.h"
#include "model/prefix_layout.h"
#include "model/vision.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi {

using torch::Tensor;

struct PolicyImpl::Parts {
  Parts(const PolicyConfig& config, torch::Dtype dtype, torch::Device device)
      : store(config, dtype, device),
        vision(store, config.vision),
        backbone(store, config.backbone),
        expert(store, config) {}

  ParameterStore store;
  VisionTower vision;
  Backbone backbone;
  ActionExpert expert;
};

namespace {

/// The images of `samples` out of one camera's batch.
Tensor pick(const Tensor& images_bcyx, const std::vector<std::int64_t>& samples) {
  if (static_cast<std::int64_t>(samples.size()) == images_bcyx.size(0)) return images_bcyx;
  return images_bcyx.index_select(0, torch::tensor(samples, torch::kInt64).to(images_bcyx.device()));
}

/// Throws UsageError unless `cache` is this policy's and `state_bd` and `x_t` fit it.
void check_suffix(const PolicyConfig& config, const PrefixCache& cache, const Tensor& state_bd,
                  const Tensor& x_t) {
  if (static_cast<std::int64_t>(cache.keys_bpk.size()) != config.depth()) {
    throw UsageError(str("the prefix cache has ", cache.keys_bpk.size(), " layers and the action expert ",
                         config.depth(), ": it was made by another policy"));
  }
  const std::int64_t batch = cache.lengths_b.size(0), dims = config.action_dim;
  if (x_t.dim() != 3 || x_t.size(0) == 0 || x_t.size(0) % batch != 0 || x_t.size(1) == 0 ||
      x_t.size(2) != dims) {
    throw UsageError(str("noisy actions of shape ", shape_text(x_t.sizes().vec()), " do not fit a batch of ",
                         batch, ": expected [", batch, " or a multiple of it, horizon, ", dims, "]"));
  }
  const bool reads_state = config.kind == PolicyKind::kPi0;
  if (reads_state && (!state_bd.defined() || state_bd.sizes() != at::IntArrayRef({batch, dims})))
    throw UsageError(str("pi0 needs a state of shape [", batch, ", ", dims, "], padded with zeros"));
}

}  // namespace

std::map<std::string, Tensor> split_parts(const ParameterGroup& group, const Tensor& whole) {
  std::map<std::string, Tensor> result;
  for (const ParameterPart& part : group.parts)
    result[part.name] = whole.detach().narrow(0, part.begin, part.rows);
  return result;
}

PolicyImpl::PolicyImpl(const PolicyConfig& config, torch::Dtype dtype, torch::Device device,
                       PolicyOptions options)
    : config_(config), options_(options) {
  const std::vector<std::string> problems = config.problems();
  if (!problems.empty()) throw UsageError(str("impossible policy sizes: ", join(problems, "; ")));
  parts_ = std::make_shared<Parts>(config, dtype, device);
  for (const ParameterGroup& group : parts_->store.groups()) {
    std::string name = group.parts[0].name;  // a module's parameter names must not hold dots
    std::replace(name.begin(), name.end(), '.', '/');
    register_parameter(name, group.parameter, /*requires_grad=*/!group.dead);
  }
}

void PolicyImpl::initialize(std::uint64_t seed) {
  parts_->store.initialize(seed);
}

const std::vector<ParameterGroup>& PolicyImpl::parameter_groups() const {
  return parts_->store.groups();
}

std::map<std::string, Tensor> PolicyImpl::named_tensors(bool with_dead) const {
  std::map<std::string, Tensor> result;
  for (const ParameterGroup& group : parameter_groups())
    if (with_dead || !group.dead) result.merge(split_parts(group, group.parameter));
  return result;
}

bool PolicyImpl::recomputes() const {
  return options_.activation_checkpointing && torch::GradMode::is_enabled();
}

Tensor PolicyImpl::embed_cameras(const Observation& observation,
                                 const std::vector<std::vector<std::int64_t>>& samples) const {
  const std::int64_t size = config_.vision.image_size;
  std::vector<Tensor> images;
  for (std::size_t c = 0; c < samples.size(); ++c) {
    const Tensor& image = observation.images_bcyx[c];
    if (image.dim() != 4 || image.size(1) != 3 || image.size(2) != size || image.size(3) != size) {
      throw UsageError(str("camera ", c, " gives images of shape ", shape_text(image.sizes().vec()),
                           "; this policy needs [batch, 3, ", size, ", ", size, "]"));
    }
    if (!samples[c].empty()) images.push_back(pick(image, samples[c]));
  }
  if (images.empty()) {
    const auto options = torch::dtype(parts_->store.dtype()).device(observation.tokens_bt.device());
    return torch::zeros({0, config_.vision.tokens(), config_.backbone.width}, options);
  }
  return parts_->vision.forward(images.size() == 1 ? images[0] : torch::cat(images), recomputes());
}

Tensor PolicyImpl::embed_images(const Observation& observation) const {
  return embed_images(observation, layout(observation));
}

Tensor PolicyImpl::embed_images(const Observation& observation, const PrefixLayout& layout) const {
  return embed_cameras(observation, layout.camera_samples);
}

PrefixLayout PolicyImpl::layout(const Observation& observation) const {
  return layout_prefix(observation, config_.vision.tokens(), config_.vocab, /*fixed=*/false);
}

PrefixLayout PolicyImpl::fixed_layout(const Observation& observation) const {
  return layout_prefix(observation, config_.vision.tokens(), config_.vocab, /*fixed=*/true);
}

PrefixCache PolicyImpl::encode(const Observation& observation, AttentionTap* tap,
                               const Tensor& image_tokens) const {
  return encode(observation, layout(observation), tap, image_tokens);
}

PrefixCache PolicyImpl::encode(const Observation& observation, const PrefixLayout& layout, AttentionTap* tap,
                               const Tensor& image_tokens) const {
  const Tensor images = image_tokens.defined() ? image_tokens.to(parts_->store.dtype())
                                               : embed_cameras(observation, layout.camera_samples);
  const std::int64_t width = config_.backbone.width, batch = observation.batch_size(), length = layout.length;
  const Tensor ids =
      observation.tokens_bt.flatten().to(torch::kInt64).index_select(0, layout.prompt_positions);
  const Tensor tokens = torch::cat({images.reshape({-1, width}), parts_->backbone.embed(ids)});
  TORCH_CHECK(tokens.size(0) == layout.destinations.size(0), "image tokens belong to another observation");
  Tensor x = torch::zeros({batch * length, width}, tokens.options())
                 .index_copy(0, layout.destinations, tokens)
                 .view({batch, length, width});

  PrefixCache cache;
  cache.lengths_b = layout.lengths_b;
  cache.mask_bp = torch::arange(length, layout.lengths_b.options()) < layout.lengths_b.unsqueeze(1);
  cache.ragged = layout.ragged;
  if (layout.holds_invalid) x = x * cache.mask_bp.unsqueeze(2);
  parts_->backbone.encode(x, cache, tap, recomputes());
  return cache;
}

Tensor PolicyImpl::velocity(const PrefixCache& cache, const Tensor& state_bd, const Tensor& x_t,
                            const Tensor& t, AttentionTap* tap, const Tensor& given_mask_bh) const {
  check_suffix(config_, cache, state_bd, x_t);
  const std::int64_t batch = cache.lengths_b.size(0), rows = x_t.size(0), horizon = x_t.size(1);
  TORCH_CHECK(t.sizes() == at::IntArrayRef({rows}), "t is ", t.sizes(), " for x_t ", x_t.sizes());
  TimeConditioning time = parts_->expert.condition(t.unsqueeze(1));
  if (given_mask_bh.defined())
    time = time.blend(given_mask_bh.unsqueeze(2), parts_->expert.condition(t.new_zeros({1, 1})));
  const SuffixContext context = parts_->expert.prepare(cache, rows / batch, horizon);
  return parts_->expert.velocity(cache, state_bd, x_t, time, context, tap, recomputes());
}

Tensor PolicyImpl::sample_actions(const Observation& observation, const Tensor& noise_bhd,
                                  std::int64_t steps) const {
  torch::NoGradGuard no_grad;
  return sample_actions(encode(observation), observation.state_bd, noise_bhd, steps);
}

std::shared_ptr<const StepConditioning> PolicyImpl::step_conditioning(std::int64_t steps) const {
  torch::NoGradGuard no_grad;
  if (steps < 1) throw UsageError(str("cannot sample actions in ", steps, " steps"));
  const auto options = torch::dtype(torch::kFloat64).device(parts_->store.device());
  const Tensor times = 1 - torch::arange(steps + 1, options).unsqueeze(1) / static_cast<double>(steps);
  const TimeConditioning all = parts_->expert.condition(times.to(torch::kFloat32));
  auto result = std::make_shared<StepConditioning>();
  for (std::int64_t k = 0; k < steps; ++k) result->steps.push_back(all.step(k));
  result->given = all.step(steps);  // t = 0
  return result;
}

Tensor PolicyImpl::sample_actions(const PrefixCache& cache, const Tensor& state_bd, const Tensor& noise_bhd,
                                  std::int64_t steps, const SampleOptions& options) const {
  torch::NoGradGuard no_grad;
  check_suffix(config_, cache, state_bd, noise_bhd);
  const auto conditioning = options.conditioning ? options.conditioning : step_conditioning(steps);
  TORCH_CHECK(static_cast<std::int64_t>(conditioning->steps.size()) == steps, "conditioning of ",
              conditioning->steps.size(), " steps for ", steps);
  const std::int64_t draws = noise_bhd.size(0) / cache.lengths_b.size(0);
  const SuffixContext context = parts_->expert.prepare(cache, draws, noise_bhd.size(1));
  const bool given = options.given_mask_bh.defined();
  const Tensor mask_bh1 = given ? options.given_mask_bh.unsqueeze(2) : Tensor();
  Tensor x = given ? torch::where(mask_bh1, options.given_bhd, noise_bhd.to(torch::kFloat32))
                   : noise_bhd.to(torch::kFloat32).clone();
  for (const TimeConditioning& at_step : conditioning->steps) {
    const TimeConditioning time = given ? at_step.blend(mask_bh1, conditioning->given) : at_step;
    Tensor v = parts_->expert.velocity(cache, state_bd, x, time, context, nullptr, false);
    if (given) v.masked_fill_(mask_bh1, 0);
    x.add_(v, -1.0 / static_cast<double>(steps));
    if (options.after_step) options.after_step();
  }
  return x;
}

Tensor PolicyImpl::full_prefix_embeddings(const Observation& observation) const {
  torch::NoGradGuard no_grad;
  const std::int64_t batch = observation.batch_size(), width = config_.backbone.width;
  std::vector<std::int64_t> everyone(static_cast<std::size_t>(batch));
  std::iota(everyone.begin(), everyone.end(), 0);
  const auto cameras = static_cast<std::int64_t>(observation.images_bcyx.size());
  const Tensor images = embed_cameras(observation, {static_cast<std::size_t>(cameras), everyone});
  const Tensor image_tokens =
      images.view({cameras, batch, -1, width}).transpose(0, 1).reshape({batch, -1, width});
  return torch::cat({image_tokens, parts_->backbone.embed(observation.tokens_bt.to(torch::kInt64))}, 1);
}

}  // namespace shallowpi
