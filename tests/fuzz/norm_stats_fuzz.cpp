// Input: a norm_stats.json.
#include "fuzz.h"
#include "shallowpi/base/norm_stats.h"

namespace shallowpi {
namespace {

void run(std::string_view input) {
  NormStats stats;
  if (!fuzz::accepts([&] { stats = read_norm_stats(fuzz::input_file(input)); })) return;
  fuzz::require(stats.state.std.size() == stats.state.width() && stats.state.width() > 0, "widths agree");
  const std::string json = norm_stats_json(stats);
  fuzz::require(norm_stats_json(read_norm_stats(fuzz::input_file(json))) == json,
                "what is written is read back equal");
}

}  // namespace
}  // namespace shallowpi

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  shallowpi::run(shallowpi::fuzz::as_text(data, size));
  return 0;
}
