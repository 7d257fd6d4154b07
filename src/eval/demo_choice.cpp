#include "shallowpi/eval/demo_choice.h"

#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi {

DemoChoice choose_demos(const std::vector<std::string>& files, const std::string& held_out,
                        const std::vector<std::string>& settings) {
  for (const std::string& setting : settings)
    if (!setting.starts_with("data.") && !setting.starts_with("seed="))
      throw UsageError(str("--set ", setting, ": only data.* and the split's seed play a part here"));
  const ResolvedConfig resolved = load_distill_config(held_out, settings, ConfigUse::kAny);
  const DistillConfig& run = resolved.config;
  DemoChoice demos{run.data, !held_out.empty(), run.seed, {}};
  if (resolved.is_set("policy.horizon")) demos.horizon = run.policy.horizon;
  if (!files.empty() && !demos.data.files.empty())
    throw UsageError(
        str(held_out.empty() ? "--set data.files" : held_out,
            " names demonstrations already, and which of them are held out depends on all of them:"
            " leave --data out (where they have moved: --set data.files=[...], in the same order)"));
  for (const std::string& file : files) demos.data.files.push_back({file, 1.0});
  return demos;
}

}  // namespace shallowpi
