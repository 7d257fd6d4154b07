#include <algorithm>
#include <set>

#include "data/policy_sample.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/log.h"
#include "shallowpi/data/image.h"
#include "shallowpi/data/loader.h"
#include "shallowpi/data/normalize.h"
#include "shallowpi/data/random.h"
#include "shallowpi/data/robot.h"

namespace shallowpi {
namespace {

constexpr std::int64_t kChannels = 3;

void cut(FeatureStats& stats, std::int64_t dims) {
  for (std::vector<double>* values : {&stats.mean, &stats.std, &stats.q01, &stats.q99})
    if (static_cast<std::int64_t>(values->size()) > dims) values->resize(dims);
}

// Copies `values` to the front of a row of 32 and zeroes the rest.
void write_padded(const std::vector<float>& values, float* row) {
  std::fill(std::copy(values.begin(), values.end(), row), row + kPaddedDims, 0.0f);
}

bool is_wrist(const std::string& camera) {
  return camera.find("wrist") != std::string::npos;
}

}  // namespace

SamplePipeline::SamplePipeline(const Dataset& dataset, PolicySpec spec, NormStats stats,
                               std::shared_ptr<const Tokenizer> tokenizer, std::int64_t vocab)
    : dataset_(&dataset), spec_(std::move(spec)), stats_(std::move(stats)), tokenizer_(std::move(tokenizer)) {
  check_robot(dataset, spec_);
  if (spec_.image_size < 1)
    throw UsageError(str("image_size is ", spec_.image_size, "; it must be at least 1"));
  if (spec_.max_token_len < 1)
    throw UsageError(str("max_token_len is ", spec_.max_token_len, "; it must be at least 1"));
  check_stats(stats_.state, spec_.norm_mode, spec_.robot.state_dim, "state");
  check_stats(stats_.actions, spec_.norm_mode, spec_.robot.action_dim, "actions");
  cut(stats_.state, spec_.robot.state_dim);
  cut(stats_.actions, spec_.robot.action_dim);
  for (const std::string& warning : stats_warnings(stats_, spec_.norm_mode)) log::warning(warning);
  if (tokenizer_->vocab_size() > vocab)
    throw UsageError(str("tokenizer ", tokenizer_->path().string(), " has ", tokenizer_->vocab_size(),
                         " pieces, but the policy's embedding only ", vocab,
                         " rows; use the tokenizer that the policy was trained with (data.tokenizer)"));
  choose_cameras();
  prepare_prompts();
}

void SamplePipeline::choose_cameras() {
  const std::vector<std::string> available = dataset_->camera_names();
  if (spec_.image_keys.empty()) spec_.image_keys = available;
  std::vector<std::string> used, missing;
  for (const std::string& key : spec_.image_keys)
    (std::find(available.begin(), available.end(), key) != available.end() ? used : missing).push_back(key);
  if (used.empty())
    throw UsageError(str("none of the policy's cameras (", join(spec_.image_keys, ", "),
                         ") is in the data, which has ", join(available, ", "), "; set policy.image_keys"));
  if (!missing.empty())
    log::warning("the data has no camera ", join(missing, ", "), "; the policy runs without it, on ",
                 join(used, ", "));
  spec_.image_keys = std::move(used);
  for (const Dataset::Source& source : dataset_->sources()) {
    const std::vector<std::string>& names = source.file->camera_names();
    std::vector<std::size_t>& indices = cameras_.emplace_back();
    for (const std::string& key : spec_.image_keys)
      indices.push_back(std::find(names.begin(), names.end(), key) - names.begin());
  }
}

// Checks that every episode has an instruction, and encodes each distinct one once where it does not depend
// on the state.
void SamplePipeline::prepare_prompts() {
  std::set<std::string> texts;
  for (const Dataset::Source& source : dataset_->sources())
    for (const EpisodeInfo& episode : source.file->episodes()) {
      const std::string& text = episode.prompt.empty() ? spec_.default_prompt : episode.prompt;
      if (text.empty())
        throw UsageError(str(source.file->path().string(), ": ", episode.name,
                             " has no instruction; set policy.default_prompt"));
      texts.insert(text);
    }
  if (prompt_reads_state(spec_.prompt_mode)) return;
  for (const std::string& text : texts) {
    bool truncated = false;
    prompt_cache_[text] = encode_prompt(*tokenizer_, spec_, text, {}, &truncated);
    if (truncated) log::warning("prompt cut to ", spec_.max_token_len, " tokens: '", text, "'");
  }
}

const std::string& SamplePipeline::prompt_text(const Dataset::Sample& sample) const {
  const EpisodeInfo& episode = dataset_->sources()[sample.source].file->episodes()[sample.episode];
  return episode.prompt.empty() ? spec_.default_prompt : episode.prompt;
}

std::vector<std::int64_t> SamplePipeline::tokens_of(const Dataset::Sample& sample,
                                                    const std::vector<float>& state) const {
  const std::string& text = prompt_text(sample);
  if (!prompt_reads_state(spec_.prompt_mode)) return prompt_cache_.at(text);
  bool truncated = false;
  std::vector<std::int64_t> tokens = encode_prompt(*tokenizer_, spec_, text, state, &truncated);
  if (truncated && !truncation_reported_.exchange(true))
    log::warning("prompt cut to ", spec_.max_token_len, " tokens, so it loses \"Action:\": '", text,
                 "' (further cuts are not reported); raise max_token_len");
  return tokens;
}

// Tensors are only allocated here and filled through their pointers: a torch operation would start threads of
// its own.
TrainingBatch SamplePipeline::make_batch(const std::vector<Dataset::Sample>& samples,
                                         std::optional<std::uint64_t> augment_seed) const {
  if (samples.empty()) throw UsageError("a batch needs at least one sample");
  const auto batch_size = static_cast<std::int64_t>(samples.size());
  TrainingBatch batch;
  batch.observation.state_bd = torch::empty({batch_size, kPaddedDims}, torch::kFloat32);
  batch.actions_bhd = torch::empty({batch_size, spec_.horizon, kPaddedDims}, torch::kFloat32);
  float* state_row = batch.observation.state_bd.data_ptr<float>();
  float* action_row = batch.actions_bhd.data_ptr<float>();
  std::vector<std::vector<std::int64_t>> prompts;
  for (const Dataset::Sample& sample : samples) {
    PolicySample policy = policy_sample(*dataset_, sample, spec_);
    normalize(stats_.state, spec_.norm_mode, policy.state);
    prompts.push_back(tokens_of(sample, policy.state));
    write_padded(policy.state, state_row);
    state_row += kPaddedDims;
    for (std::vector<float>& action : policy.actions) {
      normalize(stats_.actions, spec_.norm_mode, action);
      write_padded(action, action_row);
      action_row += kPaddedDims;
    }
  }
  fill_tokens(prompts, batch.observation);
  fill_images(samples, augment_seed, batch.observation);
  return batch;
}

void SamplePipeline::fill_tokens(const std::vector<std::vector<std::int64_t>>& prompts,
                                 Observation& observation) const {
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

void SamplePipeline::fill_images(const std::vector<Dataset::Sample>& samples,
                                 std::optional<std::uint64_t> augment_seed, Observation& observation) const {
  const auto batch_size = static_cast<std::int64_t>(samples.size());
  const std::int64_t size = spec_.image_size, pixels = kChannels * size * size;
  for (std::size_t camera = 0; camera < spec_.image_keys.size(); ++camera) {
    observation.images_bcyx.push_back(torch::empty({batch_size, kChannels, size, size}, torch::kFloat32));
    observation.image_masks_b.push_back(torch::empty({batch_size}, torch::kBool));
    std::fill_n(observation.image_masks_b.back().data_ptr<bool>(), batch_size, true);
  }
  for (std::int64_t position = 0; position < batch_size; ++position) {
    const Dataset::Sample& sample = samples[position];
    const Frame frame =
        dataset_->sources()[sample.source].file->frame(sample.episode, sample.step, cameras_[sample.source]);
    for (std::size_t camera = 0; camera < spec_.image_keys.size(); ++camera) {
      float* image_cyx = observation.images_bcyx[camera].data_ptr<float>() + position * pixels;
      image_to_float(frame.images[camera], size, spec_.resize_mode, image_cyx);
      if (!augment_seed) continue;
      Random random({*augment_seed, static_cast<std::uint64_t>(position), camera});
      augment(image_cyx, size, is_wrist(spec_.image_keys[camera]), random);
    }
  }
}

std::vector<std::vector<float>> SamplePipeline::to_robot(const torch::Tensor& actions_hd,
                                                         const std::vector<float>& raw_state) const {
  const std::int64_t dims = spec_.robot.action_dim;
  if (actions_hd.dim() != 2 || actions_hd.size(1) < dims)
    throw UsageError(str("actions of shape ", shape_text(actions_hd.sizes().vec()), " where [H, >= ", dims,
                         "] is needed"));
  const torch::Tensor values = actions_hd.to(torch::kCPU, torch::kFloat32).contiguous();
  std::vector<std::vector<float>> actions;
  for (std::int64_t h = 0; h < values.size(0); ++h) {
    const float* row = values.data_ptr<float>() + h * values.size(1);
    unnormalize(stats_.actions, spec_.norm_mode, actions.emplace_back(row, row + dims));
  }
  std::vector<float> policy_state = raw_state;
  state_to_policy(spec_.robot, policy_state);
  actions_to_robot(spec_.robot, policy_state, actions);
  return actions;
}

}  // namespace shallowpi
