// Input: a norm_stats.json; "a" at its top is read as every type that our JSON files have.
#include "fuzz.h"
#include "shallowpi/base/json.h"
#include "shallowpi/base/norm_stats.h"

namespace shallowpi {
namespace {

template <typename T>
void read_a(const Json& json) {
  fuzz::accepts([&] { json_get<T>(json, "a", "input"); });
}

}  // namespace

void fuzz::run(std::string_view input) {
  Json json;
  if (fuzz::accepts([&] { json = parse_json(input, "input"); })) {
    read_a<bool>(json);
    read_a<std::int64_t>(json);
    read_a<std::string>(json);
  }
  NormStats stats;
  if (!fuzz::accepts([&] { stats = read_norm_stats(fuzz::input_file(input)); })) return;
  fuzz::require(stats.state.std.size() == stats.state.width() && stats.state.width() > 0, "widths agree");
  const std::string written = norm_stats_json(stats);
  fuzz::require(norm_stats_json(read_norm_stats(fuzz::input_file(written))) == written,
                "what is written is read back equal");
}

}  // namespace shallowpi
