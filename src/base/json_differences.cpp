#include "base/json_differences.h"

#include "shallowpi/base/text.h"

namespace shallowpi {

std::vector<std::string> json_differences(const Json& before, const Json& now) {
  Json either = before;
  either.update(now);
  std::vector<std::string> differences;
  for (const auto& item : either.items()) {
    const Json was = before.value(item.key(), Json()), is = now.value(item.key(), Json());
    if (was != is) differences.push_back(str(item.key(), ": ", was.dump(), " -> ", is.dump()));
  }
  return differences;
}

}  // namespace shallowpi
