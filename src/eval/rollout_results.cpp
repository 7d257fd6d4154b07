#include "eval/rollout_results.h"

#include "base/json_differences.h"
#include "eval/statistics.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

constexpr const char* kFormat = "shallowpi-rollout-1";

Json episode_json(const EpisodeRecord& record) {
  Json out;
  out["suite"] = record.key.suite;
  out["task"] = record.key.task;
  out["language"] = record.language;
  out["trial"] = record.key.trial;
  out["init_state"] = record.init_state;
  out["seed"] = record.seed;
  out["perturbation"] = record.perturbation;
  out["success"] = record.success;
  out["steps"] = record.steps;
  out["calls"] = record.calls;
  out["policy_ms"] = record.policy_ms;
  out["seconds"] = record.seconds;
  out["attempts"] = record.attempts;
  out["trace"] = record.trace;
  return out;
}

EpisodeRecord read_episode(const Json& json, const std::string& where) {
  EpisodeRecord record;
  record.key = {json_get<std::string>(json, "suite", where), json_get<std::int64_t>(json, "task", where),
                json_get<std::int64_t>(json, "trial", where)};
  record.language = json_get<std::string>(json, "language", where);
  record.init_state = json_get<std::int64_t>(json, "init_state", where);
  record.seed = static_cast<std::uint64_t>(json_get<std::int64_t>(json, "seed", where));
  record.perturbation = json_get<Json>(json, "perturbation", where);
  record.success = json_get<bool>(json, "success", where);
  record.steps = json_get<std::int64_t>(json, "steps", where);
  record.calls = json_get<std::int64_t>(json, "calls", where);
  record.policy_ms = json_get<double>(json, "policy_ms", where);
  record.seconds = json_get<double>(json, "seconds", where);
  record.attempts = json_get<std::int64_t>(json, "attempts", where);
  record.trace = json_get<std::string>(json, "trace", where);
  return record;
}

}  // namespace

std::string file_stem(const EpisodeKey& key) {
  return str(key.suite, "_task", key.task, "_trial", key.trial);
}

std::filesystem::path video_file(const std::filesystem::path& folder, const EpisodeRecord& record) {
  return folder / "videos" / (file_stem(record.key) + (record.success ? "_success.mp4" : "_failure.mp4"));
}

Json RolloutResults::json() const {
  Json out;
  out["format"] = kFormat;
  out["policy"] = policy;
  out["settings"] = settings;
  if (settings.value("batch", 1) > 1)
    out["note"] = "batch > 1: an observation's rounding may depend on which others shared its forward pass";
  out["machine"] = machine;
  out["summary"] = count_json(count_all(*this));
  out["tasks"] = Json::array();
  for (const auto& [task, count] : count_by_task(*this)) {
    Json row{{"suite", task.first}, {"task", task.second}};
    row.update(count_json(count));
    out["tasks"].push_back(row);
  }
  out["episodes"] = Json::array();
  for (const auto& [key, record] : episodes) out["episodes"].push_back(episode_json(record));
  return out;
}

RolloutResults read_results(const std::filesystem::path& file) {
  const Json json = read_json(file);
  const std::string where = file.string();
  if (json_get<std::string>(json, "format", where) != kFormat)
    throw CorruptError(str(where, ": is not a rollout's results.json"));
  RolloutResults results;
  results.policy = json_get<Json>(json, "policy", where);
  results.settings = json_get<Json>(json, "settings", where);
  results.machine = json_get<Json>(json, "machine", where);
  for (const Json* part : {&results.policy, &results.settings, &results.machine})
    if (!part->is_object()) throw CorruptError(where + ": policy, settings and machine must be objects");
  for (const Json& episode : json_get<std::vector<Json>>(json, "episodes", where)) {
    EpisodeRecord record = read_episode(episode, where + ": episodes");
    if (!results.episodes.emplace(record.key, record).second)
      throw CorruptError(str(where, ": holds an episode twice: ", record.key.suite, " task ", record.key.task,
                             " trial ", record.key.trial));
  }
  return results;
}

void write_results(const std::filesystem::path& file, const RolloutResults& results) {
  write_file_atomically(file, results.json().dump(1) + "\n");
}

void resume_from(const std::filesystem::path& file, RolloutResults& results) {
  if (!std::filesystem::exists(file)) return;
  const RolloutResults before = read_results(file);
  std::vector<std::string> differences = json_differences(before.policy, results.policy);
  for (const std::string& one : json_differences(before.settings, results.settings))
    differences.push_back(one);
  if (!differences.empty())
    throw UsageError(str(file.parent_path().string(),
                         " holds another run, which cannot be continued with\n  ", join(differences, "\n  "),
                         "\ngive another --out, or the options of that run"));
  results.episodes = before.episodes;
}

std::map<std::pair<std::string, std::int64_t>, SuccessCount> count_by_task(const RolloutResults& results) {
  std::map<std::pair<std::string, std::int64_t>, SuccessCount> counts;
  for (const auto& [key, record] : results.episodes) {
    SuccessCount& count = counts[{key.suite, key.task}];
    count.episodes += 1;
    count.successes += record.success;
    if (record.success) count.steps += double(record.steps);
  }
  return counts;
}

SuccessCount& SuccessCount::operator+=(const SuccessCount& other) {
  successes += other.successes;
  episodes += other.episodes;
  steps += other.steps;
  return *this;
}

Json count_json(const SuccessCount& count) {
  const Interval interval = wilson_interval(count.successes, count.episodes);
  return {{"successes", count.successes},
          {"episodes", count.episodes},
          {"rate", count.rate()},
          {"wilson_95", {interval.low, interval.high}}};
}

SuccessCount count_all(const RolloutResults& results) {
  SuccessCount all;
  for (const auto& [task, count] : count_by_task(results)) all += count;
  return all;
}

}  // namespace shallowpi
