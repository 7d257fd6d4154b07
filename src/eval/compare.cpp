// `shallowpi-eval compare`: runs on the same episodes against each other.
#include <algorithm>
#include <cmath>
#include <iostream>

#include "eval/labelled_path.h"
#include "eval/rollout_results.h"
#include "eval/statistics.h"
#include "eval/video.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/log.h"
#include "shallowpi/base/text.h"
#include "shallowpi/eval/rollout.h"

namespace shallowpi {
namespace fs = std::filesystem;
namespace {

struct Run {
  std::string label;
  fs::path folder;  ///< or a copy of its results.json
  RolloutResults results;
  Json handling;  ///< handling_of(results)
};

/// How a policy was played: its success depends on that, the episodes' initial states do not. null: not
/// known, or it is no network.
Json handling_of(const RolloutResults& results) {
  const Json& settings = results.settings;
  const auto served = results.policy.find("metadata");  // what its server says
  Json policy = served == results.policy.end() ? results.policy : *served;
  if (!policy.is_object()) policy = Json::object();
  Json out;
  out["latency_ms"] = settings.value("latency_ms", Json(0.0));
  out["chunking"] = settings.value("chunking", Json());
  out["replan"] = settings.value("replan", Json());
  out["steps"] = policy.value("euler_steps", Json());
  out["noise_scale"] = policy.value("noise_scale", policy.contains("euler_steps") ? Json(1.0) : Json());
  return out;
}

Run read_run(const LabelledPath& path) {
  const auto& [label, folder] = path;
  const fs::path file = fs::is_regular_file(folder) ? folder : folder / "results.json";
  if (!fs::exists(file))
    throw UsageError(str(folder.string(), ": there is no results.json; give the --out folders of rollouts"));
  const RolloutResults results = read_results(file);
  return {label, folder, results, handling_of(results)};
}

/// What these runs would have been, had their episodes ended after so many steps.
std::vector<Run> within(std::vector<Run> runs, std::int64_t steps) {
  if (steps < 1) throw UsageError(str("--within ", steps, ": expected 1 step or more"));
  for (Run& run : runs)
    for (auto& [key, record] : run.results.episodes) record.success &= record.steps <= steps;
  return runs;
}

PairedCounts pair(const RolloutResults& first, const RolloutResults& second) {
  PairedCounts counts;
  for (const auto& [key, a] : first.episodes) {
    const auto found = second.episodes.find(key);
    if (found == second.episodes.end()) continue;
    const bool b = found->second.success;
    ++(a.success ? (b ? counts.both : counts.only_first) : (b ? counts.only_second : counts.neither));
  }
  return counts;
}

/// Episodes with the same key start from the same state only where these settings agree.
void warn_of_different_episodes(const Run& first, const Run& second) {
  for (const char* key : {"protocol", "max_steps", "settle", "image_size", "seed", "perturb", "move"})
    if (first.results.settings.value(key, Json()) != second.results.settings.value(key, Json()))
      log::warning(second.label, " was run with another ", key, " than ", first.label, " (",
                   second.results.settings.value(key, Json()).dump(), " instead of ",
                   first.results.settings.value(key, Json()).dump(), "): its episodes are not the same");
}

/// The names of what these runs do not have in common.
std::vector<std::string> differing_handlings(const std::vector<Run>& runs) {
  std::vector<std::string> out;
  for (const auto& item : runs.front().handling.items()) {
    const auto differs = [&](const Run& run) { return run.handling[item.key()] != item.value(); };
    if (std::any_of(runs.begin(), runs.end(), differs)) out.push_back(item.key());
  }
  return out;
}

std::string handling_text(const Json& value) {
  if (value.is_null()) return "-";
  if (value.is_number_float()) return str(value.get<double>());
  return value.is_string() ? value.get<std::string>() : value.dump();
}

std::string probability(double p) {
  return p < 1e-4 ? "< 0.0001" : fixed(p, 4);
}

std::string signed_percent(double value) {
  return str(value < 0 ? "-" : "+", fixed(100 * std::abs(value), 1));
}

void write_videos(const std::vector<Run>& runs, const fs::path& out) {
  require_ffmpeg();
  std::size_t written = 0;
  for (const auto& [key, record] : runs.front().results.episodes) {
    std::vector<fs::path> files;
    for (const Run& run : runs) {
      const auto played = run.results.episodes.find(key);
      if (played == run.results.episodes.end()) continue;
      if (const fs::path file = video_file(run.folder, played->second); fs::exists(file))
        files.push_back(file);
    }
    if (files.size() != runs.size()) continue;
    write_side_by_side(files, out / (file_stem(key) + ".mp4"));
    ++written;
  }
  if (written == 0)
    throw UsageError("--video: no episode was recorded in every run; run them with --video N");
  log::info("wrote ", written, " videos to ", out.string());
}

/// paired, only one of both, difference, its interval, McNemar's p.
std::vector<std::string> paired_cells(const PairedCounts& counts) {
  const Interval difference = paired_difference_interval(counts);
  return {str(counts.n()), str(counts.only_first, " / ", counts.only_second),
          signed_percent(paired_difference(counts)),
          str("[", signed_percent(difference.low), ", ", signed_percent(difference.high), "]"),
          probability(mcnemar_exact(counts))};
}

Json paired_json(const PairedCounts& counts) {
  const Interval difference = paired_difference_interval(counts);
  return {{"episodes", counts.n()},
          {"both", counts.both},
          {"only_first", counts.only_first},
          {"only_second", counts.only_second},
          {"neither", counts.neither},
          {"difference", paired_difference(counts)},
          {"difference_95", {difference.low, difference.high}},
          {"mcnemar_p", mcnemar_exact(counts)}};
}

void append(std::vector<std::string>& row, const std::vector<std::string>& cells) {
  row.insert(row.end(), cells.begin(), cells.end());
}

}  // namespace

void run_compare(const CompareOptions& options) {
  if (options.runs.size() < 2) throw UsageError("compare needs at least two runs");
  std::vector<Run> played;
  for (const LabelledPath& path : read_labelled_paths(options.runs, "runs")) played.push_back(read_run(path));
  const std::vector<Run> runs = options.within ? within(played, *options.within) : played;
  const Run& first = runs.front();
  const std::vector<std::string> differing = differing_handlings(runs);
  std::vector<std::string> header = {"run"};
  append(header, differing);
  append(header, {"success", "%", "95 % interval", "paired", str("only ", first.label, " / only it"),
                  "difference", "95 % interval", "McNemar p"});
  std::vector<std::vector<std::string>> rows;
  Json report = Json::array();
  for (const Run& run : runs) {
    const SuccessCount count = count_all(run.results);
    std::vector<std::string> row = {run.label};
    for (const std::string& name : differing) row.push_back(handling_text(run.handling[name]));
    append(row, success_cells(count));
    Json entry{{"label", run.label}, {"handling", run.handling}};
    entry.update(count_json(count));
    if (&run == &first) {
      append(row, std::vector<std::string>(5, "-"));
    } else {
      warn_of_different_episodes(first, run);
      const PairedCounts counts = pair(first.results, run.results);
      if (counts.n() == 0)
        log::warning(run.label, " and ", first.label, " have no episode in common: nothing is compared");
      append(row, paired_cells(counts));
      entry["against"] = first.label;
      entry["paired"] = paired_json(counts);
    }
    rows.push_back(row);
    report.push_back(entry);
  }
  std::cout << text_table(header, rows);
  if (!options.out.empty()) write_json(options.out, report);
  if (!options.video.empty()) write_videos(played, options.video);
}

}  // namespace shallowpi
