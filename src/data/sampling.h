// Which sample stands at which position of the endless training sequence: a function
// of (seed, position), no state.
#pragma once

#include <cstdint>
#include <vector>

#include "shallowpi/data/demonstrations.h"

namespace shallowpi {

/// Element `index` of a random permutation of {0, ..., size - 1} that `seed` names.
std::uint64_t permuted(std::uint64_t index, std::uint64_t size, std::uint64_t seed);

class SampleOrder {
 public:
  /// Throws UsageError where there are no samples.
  SampleOrder(const Dataset& dataset, std::vector<Dataset::Sample> samples, std::uint64_t seed);
  /// Equal weights: a new permutation of all samples each epoch. Else independent draws by weight.
  const Dataset::Sample& at(std::uint64_t position) const;

 private:
  std::vector<Dataset::Sample> samples_;
  std::uint64_t seed_;
  std::vector<double> cumulative_;  // of the samples' weights; empty where they are equal
};

}  // namespace shallowpi
