// Where every prefix token goes: the valid ones of a sample come first in their order
// (camera 0, camera 1, ..., prompt).
#pragma once

#include "shallowpi/model/policy.h"

namespace shallowpi {

/// What PolicyImpl::layout returns: masked cameras and padded prompt tokens are left out. With `fixed`, what
/// fixed_layout does: they are embedded too, behind the valid ones.
PrefixLayout layout_prefix(const Observation& observation, std::int64_t tokens_per_image, std::int64_t vocab,
                           bool fixed);

}  // namespace shallowpi
