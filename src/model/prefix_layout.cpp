#include "model/prefix_layout.h"

#include <algorithm>

#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi {

namespace {

using Indices = std::vector<std::int64_t>;

void check_shapes(const Observation& observation) {
  const std::int64_t batch = observation.batch_size();
  if (observation.tokens_bt.dim() != 2 ||
      observation.token_mask_bt.sizes() != observation.tokens_bt.sizes()) {
    throw UsageError("the prompt's tokens and mask must both be [batch, tokens]");
  }
  if (observation.images_bcyx.size() != observation.image_masks_b.size()) {
    throw UsageError(str("an observation has ", observation.images_bcyx.size(), " images but ",
                         observation.image_masks_b.size(), " image masks"));
  }
  for (std::size_t c = 0; c < observation.images_bcyx.size(); ++c) {
    if (observation.image_masks_b[c].sizes() != at::IntArrayRef{batch} ||
        observation.images_bcyx[c].size(0) != batch) {
      throw UsageError(str("camera ", c, " does not have one image and one mask value for each of the ",
                           batch, " samples"));
    }
  }
}

std::vector<bool> on_host(const torch::Tensor& mask) {
  const torch::Tensor flat = mask.to(torch::kCPU, torch::kBool).flatten().contiguous();
  return std::vector<bool>(flat.data_ptr<bool>(), flat.data_ptr<bool>() + flat.numel());
}

/// Throws UsageError for a token that is valid and outside the vocabulary.
void check_tokens(const torch::Tensor& tokens, const std::vector<bool>& valid, std::int64_t vocab) {
  const torch::Tensor ids = tokens.to(torch::kCPU, torch::kInt64).contiguous();
  for (std::size_t i = 0; i < valid.size(); ++i) {
    const std::int64_t id = ids.data_ptr<std::int64_t>()[i];
    if (valid[i] && (id < 0 || id >= vocab)) {
      throw UsageError(str("prompt token id ", id, " is outside the policy's vocabulary of ", vocab,
                           ": the tokenizer does not belong to this checkpoint"));
    }
  }
}

void check_lengths(const Indices& lengths) {
  const auto shortest = std::min_element(lengths.begin(), lengths.end());
  if (shortest == lengths.end() || *shortest == 0) {
    throw UsageError(
        str("sample ", shortest - lengths.begin(), " of the batch has neither an image nor a prompt token"));
  }
}

torch::Tensor index_tensor(const Indices& values, torch::Device device) {
  return torch::tensor(values, torch::kInt64).to(device);
}

}  // namespace

PrefixLayout layout_prefix(const Observation& observation, std::int64_t tokens_per_image, std::int64_t vocab,
                           bool fixed) {
  check_shapes(observation);
  const std::int64_t batch = observation.batch_size(), prompt = observation.tokens_bt.size(1);
  const std::vector<bool> prompt_mask = on_host(observation.token_mask_bt);
  check_tokens(observation.tokens_bt, prompt_mask, vocab);

  PrefixLayout layout;
  Indices samples;  // of every embedded token
  std::vector<bool> valid;
  Indices lengths(batch, 0), prompt_positions;
  const auto append = [&](std::int64_t sample, bool is_valid, std::int64_t count) {
    samples.insert(samples.end(), count, sample);
    valid.insert(valid.end(), count, is_valid);
    if (is_valid) lengths[sample] += count;
  };
  for (const torch::Tensor& mask_b : observation.image_masks_b) {
    const std::vector<bool> mask = on_host(mask_b);
    Indices& embedded = layout.camera_samples.emplace_back();
    for (std::int64_t sample = 0; sample < batch; ++sample) {
      if (!fixed && !mask[sample]) continue;
      embedded.push_back(sample);
      append(sample, mask[sample], tokens_per_image);
    }
  }
  for (std::int64_t position = 0; position < batch * prompt; ++position) {
    if (!fixed && !prompt_mask[position]) continue;
    prompt_positions.push_back(position);
    append(position / prompt, prompt_mask[position], 1);
  }
  check_lengths(lengths);

  const auto [shortest, longest] = std::minmax_element(lengths.begin(), lengths.end());
  const auto cameras = static_cast<std::int64_t>(layout.camera_samples.size());
  layout.length = fixed ? cameras * tokens_per_image + prompt : *longest;
  layout.ragged = fixed || *shortest != *longest;
  layout.holds_invalid = fixed;
  Indices front(batch, 0), behind = lengths, destinations;
  for (std::size_t i = 0; i < samples.size(); ++i)
    destinations.push_back(samples[i] * layout.length + (valid[i] ? front : behind)[samples[i]]++);
  const torch::Device device = observation.tokens_bt.device();
  layout.prompt_positions = index_tensor(prompt_positions, device);
  layout.destinations = index_tensor(destinations, device);
  layout.lengths_b = index_tensor(lengths, device);
  return layout;
}

}  // namespace shallowpi
