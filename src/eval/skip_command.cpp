#include <algorithm>
#include <cmath>

#include "eval/layer_study.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/status_line.h"
#include "shallowpi/base/text.h"
#include "shallowpi/model/layer_map.h"

namespace shallowpi {
namespace {

using Layers = std::vector<std::int64_t>;

/// Layers that a rule keeps, and what that does.
struct LayerSet {
  std::string rule;
  Layers kept;
  SkipError error;
};

/// What `skip` found.
struct SkipReport {
  SkipError whole;
  std::vector<std::array<SkipError, kEnumNames<LayerStack>.size()>> single;  ///< per layer and stack
  std::vector<SkipError> ranked, greedy;  ///< with the first 1, 2, ... of an order skipped in both stacks
  Layers ranking, greedy_order;  ///< least sensitive first; `greedy_order` may stop early or be empty
  std::vector<LayerSet> sets;
};

double metric_of(const SkipError& error, SkipMetric metric) {
  const double value = metric == SkipMetric::kVelocity ? error.velocity : error.action;
  return std::isnan(value) ? INFINITY : value;  // nothing does more harm
}

/// Runs the measurements of `skip`, one after the other.
class SkipRun {
 public:
  SkipRun(SkipStudy& study, const std::filesystem::path& folder, const LayerStudyOptions& options)
      : study_(study), folder_(folder), options_(options), status_(options.offline.quiet) {
    const std::int64_t n = study.layers(), drop = n - options.keep;
    total_ = 1 + 3 * n + std::max<std::int64_t>(drop - 1, 0) + 1;
    for (std::int64_t round = 1; options.greedy && round < drop; ++round) total_ += n - round;
  }

  SkipReport run() {
    report_.whole = measure({});
    if (!std::isfinite(report_.whole.velocity) || !std::isfinite(report_.whole.action))
      throw CorruptError(folder_.string() + ": its outputs are not finite");
    each_layer();
    const std::int64_t n = study_.layers();
    rank();
    if (options_.greedy) remove_one_by_one();
    const Layers kept = kept_after(report_.ranking, n, options_.keep);
    add_set("least sensitive", kept, report_.ranked);
    if (options_.greedy)
      add_set("greedy", kept_after(report_.greedy_order, n, options_.keep), report_.greedy);
    const Layers uniform = layer_map(LayerMapRule::kUniform, options_.keep, n);
    Layers others;
    for (std::int64_t i = 0; i < n; ++i)
      if (!std::binary_search(uniform.begin(), uniform.end(), i)) others.push_back(i);
    report_.sets.push_back({"uniform", uniform, measure(others)});
    return std::move(report_);
  }

 private:
  SkipError measure(const Layers& skipped, LayerStack stack = LayerStack::kBoth) {
    status_.show(str("selection ", ++done_, " of ", total_));
    return study_.measure(skipped, stack);
  }

  void each_layer() {
    for (std::int64_t i = 0; i < study_.layers(); ++i) {
      report_.single.emplace_back();
      for (const auto& [stack, name] : kEnumNames<LayerStack>)
        report_.single.back()[static_cast<std::size_t>(stack)] = measure({i}, stack);
    }
  }

  /// Layers by what skipping each one alone does.
  void rank() {
    std::vector<double> values;
    for (const auto& errors : report_.single) values.push_back(metric_of(errors[0], options_.rank_by));
    report_.ranking = least_first(values);
    Layers skipped;
    for (std::int64_t count = 1; count <= study_.layers() - options_.keep; ++count) {
      skipped.push_back(report_.ranking[static_cast<std::size_t>(count) - 1]);
      report_.ranked.push_back(count == 1 ? report_.single[static_cast<std::size_t>(skipped[0])][0]
                                          : measure(skipped));
    }
  }

  /// Always the layer whose loss does least harm beside those that are gone already.
  void remove_one_by_one() {
    Layers& gone = report_.greedy_order;
    for (std::int64_t count = 1; count <= study_.layers() - options_.keep; ++count) {
      std::optional<std::pair<std::int64_t, SkipError>> best;
      for (std::int64_t i = 0; i < study_.layers(); ++i) {
        if (std::find(gone.begin(), gone.end(), i) != gone.end()) continue;
        Layers skipped = gone;
        skipped.push_back(i);
        const SkipError error =
            count == 1 ? report_.single[static_cast<std::size_t>(i)][0] : measure(skipped);
        if (!best || metric_of(error, options_.rank_by) < metric_of(best->second, options_.rank_by))
          best = {i, error};
      }
      gone.push_back(best->first);
      report_.greedy.push_back(best->second);
    }
  }

  void add_set(const std::string& name, const Layers& kept, const std::vector<SkipError>& curve) {
    report_.sets.push_back({name, kept, curve.empty() ? report_.whole : curve.back()});
  }

  SkipStudy& study_;
  const std::filesystem::path& folder_;
  const LayerStudyOptions& options_;
  StatusLine status_;
  std::int64_t done_ = 0, total_ = 0;
  SkipReport report_;
};

std::string skip_tables(const SkipReport& report, const LayerStudyOptions& options) {
  std::vector<std::vector<std::string>> rows{{"none"}};
  for (int stack = 0; stack < 3; ++stack)
    rows[0].insert(rows[0].end(), {significant(report.whole.velocity), significant(report.whole.action)});
  for (std::size_t i = 0; i < report.single.size(); ++i) {
    rows.push_back({str(i)});
    for (const SkipError& error : report.single[i])
      rows.back().insert(rows.back().end(), {significant(error.velocity), significant(error.action)});
  }
  std::string text =
      "Skipping one layer: velocity error against the whole policy, action error against the "
      "demonstrations\n\n";
  text += text_table(
      {"layer", "both: velocity", "action", "backbone: velocity", "action", "expert: velocity", "action"},
      rows);
  text += str("\nleast sensitive first (", enum_name(options.rank_by), " error): ", join(report.ranking, " "),
              "\n");
  if (options.greedy) text += str("one by one (greedy): ", join(report.greedy_order, " "), "\n");
  rows.clear();
  for (std::size_t i = 0; i < report.ranked.size(); ++i) {
    rows.push_back(
        {str(i + 1), significant(report.ranked[i].velocity), significant(report.ranked[i].action)});
    const bool greedy = i < report.greedy.size();
    rows.back().push_back(greedy ? significant(report.greedy[i].velocity) : "-");
    rows.back().push_back(greedy ? significant(report.greedy[i].action) : "-");
  }
  if (!rows.empty())
    text += "\n" +
            text_table({"layers skipped", "ranked: velocity", "action", "greedy: velocity", "action"}, rows);
  rows.clear();
  for (const LayerSet& set : report.sets)
    rows.push_back({set.rule, significant(set.error.velocity), significant(set.error.action),
                    layer_map_setting(set.kept)});
  return text + "\n" +
         text_table({str(options.keep, " layers by"), "velocity error", "action error", "setting"}, rows);
}

Json error_json(const SkipError& error) {
  return {{"velocity_error", error.velocity}, {"action_error", error.action}};
}

Json curve_json(const Layers& order, const std::vector<SkipError>& curve) {
  Json points = Json::array();
  for (std::size_t i = 0; i < curve.size(); ++i) {
    Json point = error_json(curve[i]);
    point["skipped"] = Layers(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(i) + 1);
    points.push_back(point);
  }
  return points;
}

Json skip_json(const SkipReport& report, const LayerStudyOptions& options, Json out) {
  out["flow_draws"] = options.offline.measure.draws;
  out["ranked_by"] = enum_name(options.rank_by);
  out["whole"] = error_json(report.whole);
  out["single"] = Json::array();
  for (std::size_t i = 0; i < report.single.size(); ++i) {
    Json row = {{"layer", i}};
    for (const auto& [stack, name] : kEnumNames<LayerStack>)
      row[std::string(name)] = error_json(report.single[i][static_cast<std::size_t>(stack)]);
    out["single"].push_back(row);
  }
  out["least_sensitive_first"] = report.ranking;
  out["ranked"] = curve_json(report.ranking, report.ranked);
  out["greedy"] = curve_json(report.greedy_order, report.greedy);
  out["sets"] = Json::array();
  for (const LayerSet& set : report.sets) {
    Json entry = {{"rule", set.rule}, {"kept", set.kept}};
    entry.update(error_json(set.error));
    out["sets"].push_back(entry);
  }
  return out;
}

}  // namespace

void run_skip(const LayerStudyOptions& options) {
  LayerSubject subject(options);
  SkipStudy study(subject.policy(), subject.pipeline(), subject.samples(), options.offline.measure);
  const SkipReport report = SkipRun(study, subject.folder(), options).run();
  finish_study(skip_json(report, options, subject.circumstances()), skip_tables(report, options), options);
}

}  // namespace shallowpi
