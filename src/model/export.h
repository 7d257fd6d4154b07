// What both exports say about policies that are not of the released sizes.
#pragma once

#include <string>
#include <vector>

#include "shallowpi/model/checkpoint.h"

namespace shallowpi::checkpoint {

/// The sizes that the code of `to` has otherwise, one phrase each; the depth is not among them, for
/// load_shallow.py sets it.
std::vector<std::string> unreleased_sizes(const PolicyConfig& config, CheckpointFormat to);

/// The sentence before the exported README's example: what must be done before the weights load.
std::string how_to_load(const PolicyConfig& config, CheckpointFormat to);

}  // namespace shallowpi::checkpoint
