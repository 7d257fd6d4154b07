// What two JSON objects do not have in common, for messages.
#pragma once

#include <string>
#include <vector>

#include "shallowpi/base/json.h"

namespace shallowpi {

/// "key: before -> now" for every member of either that differs; a missing one is null.
std::vector<std::string> json_differences(const Json& before, const Json& now);

}  // namespace shallowpi
