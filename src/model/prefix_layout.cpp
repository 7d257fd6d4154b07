#include "model/prefix_layout.h"

#include <algorithm>
#include <numeric>

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

Indices chosen(const torch::Tensor& mask_b) {
  const torch::Tensor mask = mask_b.to(torch::kCPU, torch::kBool).contiguous();
  Indices result;
  for (std::int64_t i = 0; i < mask.numel(); ++i) {
    if (mask.data_ptr<bool>()[i]) result.push_back(i);
  }
  return result;
}

void check_tokens(const torch::Tensor& tokens, const Indices& positions, std::int64_t vocab) {
  const torch::Tensor ids = tokens.to(torch::kCPU, torch::kInt64).contiguous();
  for (const std::int64_t position : positions) {
    const std::int64_t id = ids.data_ptr<std::int64_t>()[position];
    if (id < 0 || id >= vocab) {
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

PrefixLayout layout_prefix(const Observation& observation, std::int64_t tokens_per_image,
                           std::int64_t vocab) {
  check_shapes(observation);
  const std::int64_t batch = observation.batch_size(), prompt = observation.tokens_bt.size(1);
  PrefixLayout layout;
  for (const torch::Tensor& mask_b : observation.image_masks_b)
    layout.camera_samples.push_back(chosen(mask_b));
  const Indices prompt_positions = chosen(observation.token_mask_bt.flatten());
  check_tokens(observation.tokens_bt, prompt_positions, vocab);

  // Every token as (sample, position in the sample); the row within [B*P] follows once P is known.
  Indices lengths(batch, 0), samples, positions;
  const auto append = [&](std::int64_t sample) {
    samples.push_back(sample);
    positions.push_back(lengths[sample]++);
  };
  for (const Indices& camera : layout.camera_samples) {
    for (const std::int64_t sample : camera) {
      for (std::int64_t token = 0; token < tokens_per_image; ++token) append(sample);
    }
  }
  for (const std::int64_t position : prompt_positions) append(position / prompt);

  check_lengths(lengths);
  const auto [shortest, longest] = std::minmax_element(lengths.begin(), lengths.end());
  layout.length = *longest;
  layout.ragged = *shortest != *longest;
  for (std::size_t i = 0; i < samples.size(); ++i) positions[i] += samples[i] * layout.length;
  const torch::Device device = observation.tokens_bt.device();
  layout.prompt_positions = index_tensor(prompt_positions, device);
  layout.destinations = index_tensor(positions, device);
  layout.lengths_b = index_tensor(lengths, device);
  return layout;
}

PrefixLayout layout_fixed_prefix(const Observation& observation, std::int64_t tokens_per_image,
                                 std::int64_t vocab) {
  check_shapes(observation);
  const std::int64_t batch = observation.batch_size(), prompt = observation.tokens_bt.size(1);
  Indices everyone(batch), prompt_positions(batch * prompt);
  std::iota(everyone.begin(), everyone.end(), 0);
  std::iota(prompt_positions.begin(), prompt_positions.end(), 0);
  PrefixLayout layout;
  layout.camera_samples.assign(observation.images_bcyx.size(), everyone);

  Indices lengths(batch, 0), samples;  // of every token, in the order of the destinations
  std::vector<bool> valid;
  const auto append = [&](std::int64_t sample, bool is_valid, std::int64_t count) {
    samples.insert(samples.end(), count, sample);
    valid.insert(valid.end(), count, is_valid);
    if (is_valid) lengths[sample] += count;
  };
  for (const torch::Tensor& mask_b : observation.image_masks_b) {
    const Indices present = chosen(mask_b);
    for (const std::int64_t sample : everyone)
      append(sample, std::binary_search(present.begin(), present.end(), sample), tokens_per_image);
  }
  const Indices real = chosen(observation.token_mask_bt.flatten());
  check_tokens(observation.tokens_bt, real, vocab);
  for (const std::int64_t position : prompt_positions)
    append(position / prompt, std::binary_search(real.begin(), real.end(), position), 1);
  check_lengths(lengths);

  layout.length = static_cast<std::int64_t>(layout.camera_samples.size()) * tokens_per_image + prompt;
  layout.ragged = layout.holds_invalid = true;
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
