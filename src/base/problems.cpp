#include "shallowpi/base/problems.h"

#include "shallowpi/base/text.h"

namespace shallowpi {

void Problems::throw_all(std::string_view what) const {
  if (failures_ == 0) return;
  try {
    std::rethrow_exception(first_);
  } catch (const Error& error) {
    constexpr std::size_t kListed = 20;
    if (failures_ == 1) throw;
    throw ManyProblems(str(messages_.size(), " ", what, ":\n  ", join(shortened(messages_, kListed), "\n  ")),
                       error.code(), messages_);
  }
}

}  // namespace shallowpi
