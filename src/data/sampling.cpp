#include "data/sampling.h"

#include <algorithm>
#include <bit>

#include "shallowpi/base/error.h"
#include "shallowpi/data/random.h"

namespace shallowpi {
namespace {

// Streams of the seed; the loader's augmentation uses another.
constexpr std::uint64_t kPermutationStream = 2, kWeightedStream = 3;
constexpr int kRounds = 6;

}  // namespace

// A Feistel network permutes {0, ..., 4^half - 1}; walking its cycle until a value below `size` comes up
// permutes those.
std::uint64_t permuted(std::uint64_t index, std::uint64_t size, std::uint64_t seed) {
  const int half = std::max(1, (static_cast<int>(std::bit_width(size - 1)) + 1) / 2);
  const std::uint64_t mask = (std::uint64_t{1} << half) - 1;
  do {
    std::uint64_t left = index >> half, right = index & mask;
    for (std::uint64_t round = 0; round < kRounds; ++round) {
      const std::uint64_t mixed = left ^ (Random({seed, round, right}).next() & mask);
      left = right;
      right = mixed;
    }
    index = left << half | right;
  } while (index >= size);
  return index;
}

SampleOrder::SampleOrder(const Dataset& dataset, std::vector<Dataset::Sample> samples, std::uint64_t seed)
    : samples_(std::move(samples)), seed_(seed) {
  if (samples_.empty())
    throw UsageError("there are no samples to train on; lower data.held_out_fraction or add files");
  const auto weight = [&](const Dataset::Sample& sample) { return dataset.sources()[sample.source].weight; };
  const double first = weight(samples_.front());
  if (std::all_of(samples_.begin(), samples_.end(),
                  [&](const auto& sample) { return weight(sample) == first; }))
    return;
  double total = 0.0;
  for (const Dataset::Sample& sample : samples_) cumulative_.push_back(total += weight(sample));
}

const Dataset::Sample& SampleOrder::at(std::uint64_t position) const {
  const std::uint64_t size = samples_.size();
  if (cumulative_.empty()) {
    const std::uint64_t epoch_seed = Random({seed_, kPermutationStream, position / size}).next();
    return samples_[permuted(position % size, size, epoch_seed)];
  }
  const double draw = Random({seed_, kWeightedStream, position}).uniform() * cumulative_.back();
  const auto found = std::upper_bound(cumulative_.begin(), cumulative_.end(), draw);
  return samples_[std::min<std::size_t>(found - cumulative_.begin(), size - 1)];
}

}  // namespace shallowpi
