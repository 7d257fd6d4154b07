#include "shallowpi/data/policy_transform.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "data/policy_sample.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/log.h"
#include "shallowpi/data/image.h"
#include "shallowpi/data/normalize.h"
#include "shallowpi/data/robot.h"

namespace shallowpi {
namespace {

constexpr std::int64_t kChannels = 3;

void cut(FeatureStats& stats, std::int64_t dims) {
  for (std::vector<double>* values : {&stats.mean, &stats.std, &stats.q01, &stats.q99})
    if (static_cast<std::int64_t>(values->size()) > dims) values->resize(dims);
}

void fill_tokens(const std::vector<std::vector<std::int64_t>>& prompts, Observation& observation) {
  std::size_t longest = 0;
  for (const auto& prompt : prompts) longest = std::max(longest, prompt.size());
  const std::vector<std::int64_t> shape{static_cast<std::int64_t>(prompts.size()),
                                        static_cast<std::int64_t>(longest)};
  observation.tokens_bt = torch::empty(shape, torch::kInt64);
  observation.token_mask_bt = torch::empty(shape, torch::kBool);
  std::int64_t* tokens = observation.tokens_bt.data_ptr<std::int64_t>();
  bool* mask = observation.token_mask_bt.data_ptr<bool>();
  for (const auto& prompt : prompts) {
    std::fill(std::copy(prompt.begin(), prompt.end(), tokens), tokens + longest, 0);
    std::fill(std::fill_n(mask, prompt.size(), true), mask + longest, false);
    tokens += longest;
    mask += longest;
  }
}

/// The images of one camera, allocated with the first one.
class CameraBatch {
 public:
  CameraBatch(std::int64_t count, std::int64_t size) : count_(count), size_(size) {}

  /// Where the floats of an image at `position` go.
  float* place(std::int64_t position) {
    const std::int64_t pixels = kChannels * size_ * size_;
    if (!images_bcyx_.defined()) {
      images_bcyx_ = torch::empty({count_, kChannels, size_, size_}, torch::kFloat32);
      mask_b_ = torch::empty({count_}, torch::kBool);
      std::fill_n(images_bcyx_.data_ptr<float>(), position * pixels, 0.0f);
      std::fill_n(mask_b_.data_ptr<bool>(), count_, false);
    }
    mask_b_.data_ptr<bool>()[position] = true;
    return images_bcyx_.data_ptr<float>() + position * pixels;
  }
  void skip(std::int64_t position) {
    if (!images_bcyx_.defined()) return;
    const std::int64_t pixels = kChannels * size_ * size_;
    std::fill_n(images_bcyx_.data_ptr<float>() + position * pixels, pixels, 0.0f);
  }
  void append_to(Observation& observation) const {
    if (!images_bcyx_.defined()) return;
    observation.images_bcyx.push_back(images_bcyx_);
    observation.image_masks_b.push_back(mask_b_);
  }

 private:
  std::int64_t count_, size_;
  torch::Tensor images_bcyx_, mask_b_;
};

}  // namespace

PolicyTransform::PolicyTransform(PolicySpec spec, NormStats stats, std::shared_ptr<const Tokenizer> tokenizer,
                                 std::int64_t vocab)
    : spec_(std::move(spec)), stats_(std::move(stats)), tokenizer_(std::move(tokenizer)) {
  check_spec(spec_);
  if (spec_.image_keys.empty()) throw UsageError("image_keys names no camera; set policy.image_keys");
  check_stats(stats_.state, spec_.norm_mode, spec_.robot.state_dim, "state");
  check_stats(stats_.actions, spec_.norm_mode, spec_.robot.action_dim, "actions");
  cut(stats_.state, spec_.robot.state_dim);
  cut(stats_.actions, spec_.robot.action_dim);
  for (const std::string& warning : stats_warnings(stats_, spec_.norm_mode)) log::warning(warning);
  if (tokenizer_->vocab_size() > vocab)
    throw UsageError(str("tokenizer ", tokenizer_->path().string(), " has ", tokenizer_->vocab_size(),
                         " pieces, but the policy's embedding only ", vocab,
                         " rows; use the tokenizer that the policy was trained with (data.tokenizer)"));
}

std::vector<float> PolicyTransform::policy_state(const RobotObservation& observation) const {
  std::vector<float> state = observation.state;
  if (static_cast<std::int64_t>(state.size()) != spec_.robot.state_dim)
    throw UsageError(str("state has ", state.size(), " values; this policy's robot has ",
                         spec_.robot.state_dim, " (robot.state_dim)"));
  for (std::size_t dim = 0; dim < state.size(); ++dim)
    if (!std::isfinite(state[dim]))
      throw UsageError(str("state is not finite: value ", dim, " is ", state[dim]));
  state_to_policy(spec_.robot, state);
  normalize(stats_.state, spec_.norm_mode, state);
  return state;
}

const std::string& PolicyTransform::prompt_of(const RobotObservation& observation) const {
  const std::string& text = is_blank(observation.prompt) ? spec_.default_prompt : observation.prompt;
  if (is_blank(text)) throw UsageError("prompt is empty, and the policy has no default_prompt");
  return text;
}

std::vector<std::int64_t> PolicyTransform::tokens_of(const RobotObservation& observation,
                                                     const std::vector<float>& state) const {
  const std::string& text = prompt_of(observation);
  std::vector<std::int64_t> tokens = encode_prompt(*tokenizer_, spec_, text, state);
  if (std::ssize(tokens) <= spec_.max_token_len) return tokens;
  tokens.resize(spec_.max_token_len);
  if (!truncation_reported_.exchange(true))
    log::warning("prompt cut to ", spec_.max_token_len, " tokens",
                 prompt_reads_state(spec_.prompt_mode) ? ", so it loses \"Action:\"" : "", ": ",
                 in_quotes(text), " (further cuts are not reported); raise max_token_len");
  return tokens;
}

void PolicyTransform::check_cameras(const RobotObservation& observation) const {
  for (const auto& [name, image] : observation.images) {
    if (std::find(spec_.image_keys.begin(), spec_.image_keys.end(), name) == spec_.image_keys.end())
      throw UsageError(str("camera ", name, " is not one of this policy's: ", join(spec_.image_keys, ", ")));
    if (image.height < 1 || image.width < 1 ||
        static_cast<std::int64_t>(image.bytes.size()) != image.height * image.width * kChannels)
      throw UsageError(str("camera ", name, ": ", image.bytes.size(), " bytes are no RGB image of ",
                           image.height, " x ", image.width));
  }
  if (observation.images.empty())
    throw UsageError(str("the observation has no image; this policy sees ", join(spec_.image_keys, ", ")));
}

void PolicyTransform::check(const RobotObservation& observation) const {
  check_cameras(observation);
  policy_state(observation);
  prompt_of(observation);
}

void PolicyTransform::check_prompt(const RobotObservation& observation) const {
  if (!prompt_reads_state(spec_.prompt_mode)) return;
  const auto tokens = encode_prompt(*tokenizer_, spec_, prompt_of(observation), policy_state(observation));
  if (std::ssize(tokens) > spec_.max_token_len)
    throw UsageError(str("prompt: ", tokens.size(), " tokens, at most ", spec_.max_token_len));
}

std::int64_t PolicyTransform::longest_prompt(const RobotObservation& observation) const {
  const std::vector<float> highest(observation.state.size(), 1.0f);  // as many digits as there can be
  const auto tokens = encode_prompt(*tokenizer_, spec_, prompt_of(observation), highest);
  return std::min<std::int64_t>(std::ssize(tokens), spec_.max_token_len);
}

Observation PolicyTransform::prepare(const std::vector<const RobotObservation*>& observations) const {
  std::vector<ImageJob> jobs;
  Observation result = prepare_each(
      static_cast<std::int64_t>(observations.size()),
      [&](std::int64_t position) -> const RobotObservation& { return *observations[position]; },
      [&](const ImageJob& job) { jobs.push_back(job); });
  images_to_float(jobs, spec_.image_size, spec_.resize_mode);
  return result;
}

Observation PolicyTransform::prepare(std::int64_t count,
                                     const std::function<RobotObservation(std::int64_t)>& observation) const {
  RobotObservation current;
  return prepare_each(
      count,
      [&](std::int64_t position) -> const RobotObservation& { return current = observation(position); },
      [&](const ImageJob& job) {
        image_to_float(*job.image, spec_.image_size, spec_.resize_mode, job.out_cyx);
      });
}

// Tensors are only allocated here and filled through their pointers: a torch operation
// would start threads of its own.
Observation PolicyTransform::prepare_each(
    std::int64_t count, const std::function<const RobotObservation&(std::int64_t)>& observation_at,
    const std::function<void(const ImageJob&)>& add_image) const {
  if (count < 1) throw UsageError("a batch needs at least one observation");
  Observation result;
  const std::int64_t width = spec_.action_width;
  result.state_bd = torch::empty({count, width}, torch::kFloat32);
  std::vector<std::vector<std::int64_t>> prompts;
  std::vector<CameraBatch> cameras(spec_.image_keys.size(), CameraBatch(count, spec_.image_size));
  for (std::int64_t position = 0; position < count; ++position) {
    const RobotObservation& observation = observation_at(position);
    check_cameras(observation);
    std::vector<float> state = policy_state(observation);
    prompts.push_back(tokens_of(observation, state));
    // A wider state (max_state_dim) is for the prompt alone.
    if (static_cast<std::int64_t>(state.size()) > width) state.resize(width);
    write_padded(state, result.state_bd.data_ptr<float>() + position * width, width);
    for (std::size_t camera = 0; camera < cameras.size(); ++camera) {
      const auto image = observation.images.find(spec_.image_keys[camera]);
      if (image == observation.images.end())
        cameras[camera].skip(position);
      else
        add_image({&image->second, cameras[camera].place(position)});
    }
  }
  for (const CameraBatch& camera : cameras) camera.append_to(result);
  fill_tokens(prompts, result);
  return result;
}

}  // namespace shallowpi
