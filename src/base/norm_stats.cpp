#include "shallowpi/base/norm_stats.h"

#include <cmath>
#include <string>

#include "shallowpi/base/error.h"
#include "shallowpi/base/json.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

/// One feature of the file. openpi writes q01 and q99 as null where they were not computed.
FeatureStats read_feature(const Json& features, std::string_view name, const std::string& file) {
  const std::string where = str(file, ": norm_stats.", name);
  const auto feature = json_get<Json>(features, name, str(file, ": norm_stats"));
  FeatureStats stats;
  stats.mean = json_get<std::vector<double>>(feature, "mean", where);
  stats.std = json_get<std::vector<double>>(feature, "std", where);
  stats.q01 = json_get_or<std::vector<double>>(feature, "q01", {}, where);
  stats.q99 = json_get_or<std::vector<double>>(feature, "q99", {}, where);
  if (stats.mean.empty()) throw CorruptError(str(where, ": \"mean\" is empty"));
  if (stats.q01.empty() != stats.q99.empty())
    throw CorruptError(str(where, ": has only one of \"q01\" and \"q99\"; recompute the statistics"));
  const auto check = [&](std::string_view key, const std::vector<double>& values) {
    if (!values.empty() && values.size() != stats.width())
      throw CorruptError(
          str(where, ": \"", key, "\" has ", values.size(), " values, but \"mean\" has ", stats.width()));
    for (std::size_t i = 0; i < values.size(); ++i)
      if (!std::isfinite(values[i])) throw CorruptError(str(where, ": \"", key, "\"[", i, "] is not finite"));
  };
  if (stats.std.empty()) throw CorruptError(str(where, ": \"std\" is empty"));
  check("mean", stats.mean);
  check("std", stats.std);
  check("q01", stats.q01);
  check("q99", stats.q99);
  for (std::size_t i = 0; i < stats.width(); ++i)
    if (stats.std[i] < 0) throw CorruptError(str(where, ": \"std\"[", i, "] is negative"));
  return stats;
}

/// JSON has no NaN or infinity: nlohmann-json would write null.
void check_finite(const std::vector<double>& values) {
  for (const double value : values)
    if (!std::isfinite(value))
      throw UsageError("statistics that are not finite cannot be written; check the data");
}

Json feature_json(const FeatureStats& stats) {
  for (const auto* values : {&stats.mean, &stats.std, &stats.q01, &stats.q99}) check_finite(*values);
  const auto or_null = [](const std::vector<double>& values) {
    return values.empty() ? Json() : Json(values);
  };
  return {{"mean", stats.mean}, {"std", stats.std}, {"q01", or_null(stats.q01)}, {"q99", or_null(stats.q99)}};
}

}  // namespace

NormStats read_norm_stats(const std::filesystem::path& path) {
  const Json json = read_json(path);
  if (json.contains("observation.state") || json.contains("action"))
    throw UsageError(path.string() +
                     ": is LeRobot's stats.json; wanted is a norm_stats.json as openpi and "
                     "shallowpi-distill write it");
  const auto features = json_get<Json>(json, "norm_stats", path.string());
  return {read_feature(features, "state", path.string()), read_feature(features, "actions", path.string())};
}

std::string norm_stats_json(const NormStats& stats) {
  const Json features = {{"state", feature_json(stats.state)}, {"actions", feature_json(stats.actions)}};
  return Json{{"norm_stats", features}}.dump(2) + "\n";
}

}  // namespace shallowpi
