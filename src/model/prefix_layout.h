// Where every valid prefix token goes: masked cameras and padded prompt tokens are left out, the others of a
// sample come first in their order (camera 0, camera 1, ..., prompt).
#pragma once

#include "shallowpi/model/policy.h"

namespace shallowpi {

/// What PolicyImpl::layout and fixed_layout return.
PrefixLayout layout_prefix(const Observation& observation, std::int64_t tokens_per_image, std::int64_t vocab);
PrefixLayout layout_fixed_prefix(const Observation& observation, std::int64_t tokens_per_image,
                                 std::int64_t vocab);

}  // namespace shallowpi
