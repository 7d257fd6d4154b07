// Which demonstrations a policy is measured on, as offline, similarity, skip and gate take them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "shallowpi/distill/config.h"

namespace shallowpi {

struct DemoChoice {
  DataConfig data;                ///< files, their layout, the held-out share, statistics and tokenizer
  bool held_out = false;          ///< only the episodes that a run with `data` and `split_seed` held out
  std::uint64_t split_seed = 42;  ///< the run's `seed`
  /// The run's `policy.horizon`, where it is set: of its teacher too, whose folder may not say it.
  std::optional<std::int64_t> horizon;
};

/// What --data FILE..., --held-out CONFIG and --set key=value mean together. Throws UsageError for a setting
/// that is not about data, and for files beside those of CONFIG: which episodes a run held out depends on all
/// of its files and on their order.
DemoChoice choose_demos(const std::vector<std::string>& files, const std::string& held_out,
                        const std::vector<std::string>& settings = {});

}  // namespace shallowpi
