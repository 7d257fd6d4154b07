// Input: a configuration of shallowpi-distill. Lines "#set key=value" in it are comments to the file and
// overrides to us; base.yaml beside it can be its base.
#include "fuzz.h"
#include "shallowpi/base/text.h"
#include "shallowpi/distill/config.h"

namespace shallowpi {
namespace {

constexpr std::string_view kBase = "base: other.yaml\ntrain: {steps: 7}\nloss: [1]\n";

}  // namespace

void fuzz::run(std::string_view input) {
  static const std::filesystem::path base = fuzz::input_file(kBase, "base.yaml");
  std::vector<std::string> overrides;
  for (const std::string& line : split(input, '\n'))
    if (line.rfind("#set ", 0) == 0) overrides.push_back(line.substr(5));
  ResolvedConfig resolved;
  const auto file = fuzz::input_file(input, "input.yaml");
  if (!fuzz::accepts([&] { resolved = load_distill_config(file, overrides); })) return;
  const std::string dump = dump_config(resolved);
  fuzz::require(dump_config(load_distill_config(fuzz::input_file(dump, "dump.yaml"), {})) == dump,
                "what is dumped is read back equal");
}

}  // namespace shallowpi
