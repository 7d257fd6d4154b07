#include "shallowpi/base/problems.h"

#include "shallowpi/base/text.h"

namespace shallowpi {

void Problems::throw_all(std::string_view what) const {
  if (messages_.empty()) return;
  try {
    std::rethrow_exception(first_);
  } catch (const Error& error) {
    constexpr std::size_t kListed = 20;
    const std::size_t count = messages_.size();
    if (count == 1) throw;
    std::vector<std::string> listed = messages_;
    if (count > kListed) {
      listed.resize(kListed);
      listed.push_back(str("and ", count - kListed, " more"));
    }
    throw Error(str(count, " ", what, ":\n  ", join(listed, "\n  ")), error.code());
  }
}

}  // namespace shallowpi
