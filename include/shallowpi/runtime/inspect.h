// `shallowpi-infer inspect`: a doctor for checkpoint folders.
// Says what a folder is, what it lacks, and what looks wrong.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "shallowpi/base/enum_names.h"
#include "shallowpi/base/json.h"

namespace shallowpi {

enum class FindingLevel { kOk, kWarning, kProblem };
template <>
inline constexpr auto kEnumNames<FindingLevel> = std::to_array<EnumName<FindingLevel>>({
    {FindingLevel::kOk, "ok"},
    {FindingLevel::kWarning, "warning"},
    {FindingLevel::kProblem, "problem"},
});

struct Finding {
  FindingLevel level = FindingLevel::kOk;
  std::string topic;   ///< weights, statistics, tokenizer, prompt, horizon, student, manifest, ...
  std::string text;    ///< what was found
  std::string advice;  ///< what to do about it; empty where all is well
};

struct InspectReport {
  std::vector<std::pair<std::string, std::string>> facts;  ///< what the folder is, in order
  std::vector<Finding> findings;
  bool corrupt = false;  ///< weights are corrupt, incomplete or misshapen
  /// What PolicyRunner::load would say: "can run", "can run with --horizon H", or "cannot run: " and why.
  std::string serve;
  Json json() const;
  std::string text() const;
};

/// Reads everything, the values of all tensors included (one at a time). Throws UsageError where the folder
/// is no checkpoint at all.
InspectReport inspect_checkpoint(const std::filesystem::path& folder);

struct InspectOptions {
  std::filesystem::path folder;
  bool json = false;
};

/// Prints the report on stdout. Returns 0, or 3 where the report says `corrupt`.
int run_inspect(const InspectOptions& options);

}  // namespace shallowpi
