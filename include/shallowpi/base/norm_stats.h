// Normalisation statistics, in openpi's file format (`norm_stats.json`).
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace shallowpi {

/// Statistics of one vector-valued feature; all non-empty members have the same length (raw robot dims).
struct FeatureStats {
  std::vector<double> mean, std;  ///< population standard deviation
  std::vector<double> q01, q99;   ///< empty where the file has null
  std::size_t width() const { return mean.size(); }
  bool operator==(const FeatureStats&) const = default;
};

struct NormStats {
  FeatureStats state, actions;
  bool operator==(const NormStats&) const = default;
};

/// Reads {"norm_stats": {"state": {...}, "actions": {...}}}. Throws CorruptError naming the file and key for
/// missing keys, unequal widths or values that are not finite.
NormStats read_norm_stats(const std::filesystem::path& path);
/// The bytes of such a file. Throws UsageError where a value is not finite.
std::string norm_stats_json(const NormStats& stats);

}  // namespace shallowpi
