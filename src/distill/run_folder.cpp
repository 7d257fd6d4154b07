#include "distill/run_folder.h"

#include <algorithm>
#include <charconv>
#include <iomanip>
#include <numeric>

#include "distill/config_table.h"
#include "distill/training_state.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/log.h"
#include "shallowpi/base/text.h"
#include "shallowpi/model/checkpoint.h"

namespace shallowpi {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kStepPrefix = "step_";

std::string step_name(std::int64_t step) {
  std::ostringstream name;
  name << kStepPrefix << std::setw(6) << std::setfill('0') << step;
  return std::move(name).str();
}

std::optional<std::int64_t> parse_step(std::string_view name) {
  if (!name.starts_with(kStepPrefix)) return std::nullopt;
  name.remove_prefix(kStepPrefix.size());
  std::int64_t step = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), step);
  if (error != std::errc{} || end != name.data() + name.size()) return std::nullopt;
  return step;
}

template <typename Change>
void change_paths(DistillConfig& config, const Change& change) {
  std::vector<std::string*> paths = {&config.output_dir, &config.teacher.checkpoint,
                                     &config.student.checkpoint, &config.data.tokenizer};
  for (DataFile& file : config.data.files) paths.push_back(&file.path);
  if (config.data.norm_stats != kComputeStats) paths.push_back(&config.data.norm_stats);
  for (std::string* path : paths)
    if (!path->empty()) *path = fs::path(change(*path)).string();
}

bool may_change(const std::string& key) {
  static const std::set<std::string> kKeys = {"output_dir",
                                              "threads",
                                              "device",
                                              "data.workers",
                                              "data.prefetch",
                                              "train.steps",
                                              "train.accumulate",
                                              "train.log_every",
                                              "train.trace_step",
                                              "train.eval_every",
                                              "train.save_every",
                                              "train.keep_last",
                                              "train.keep_every",
                                              "train.keep_best",
                                              "train.max_skipped",
                                              "train.activation_checkpointing"};
  return kKeys.contains(key);
}

}  // namespace

std::vector<RunCheckpoint> run_checkpoints(const fs::path& run_folder) {
  std::vector<RunCheckpoint> found;
  std::error_code missing;
  for (const auto& entry : fs::directory_iterator(run_folder / kCheckpoints, missing))
    if (const auto step = parse_step(entry.path().filename().string()))
      found.push_back({*step, entry.path()});
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.step < b.step; });
  return found;
}

std::optional<RunCheckpoint> newest_valid_checkpoint(const fs::path& run_folder) {
  auto checkpoints = run_checkpoints(run_folder);
  std::reverse(checkpoints.begin(), checkpoints.end());
  for (const RunCheckpoint& checkpoint : checkpoints) {
    try {
      verify_manifest(checkpoint.folder);
      read_training_state(checkpoint.folder / kTrainingState);
      return checkpoint;
    } catch (const Error& error) {
      log::warning("not resuming from ", checkpoint.folder.string(), ": ", error.what());
    }
  }
  return std::nullopt;
}

std::vector<std::string> config_differences(const ResolvedConfig& before, const ResolvedConfig& after) {
  DistillConfig old_values = before.config, new_values = after.config;
  for (DistillConfig* config : {&old_values, &new_values}) {
    for (std::string* checkpoint : {&config->teacher.checkpoint, &config->student.checkpoint})
      if (!checkpoint->empty()) *checkpoint = "(given)";
    change_paths(*config, [](const std::string& path) { return fs::path(path).filename(); });
  }
  const ConfigTable old_table = distill_table(old_values), new_table = distill_table(new_values);
  const auto value_of = [](const ResolvedConfig& resolved, const ConfigField& field) {
    return field.inherited && !resolved.is_set(field.key) ? "(unset)" : field.write();
  };
  std::vector<std::string> differences;
  for (const std::string& key : new_table.keys()) {
    if (may_change(key)) continue;
    const std::string was = value_of(before, *old_table.find(key));
    const std::string is = value_of(after, *new_table.find(key));
    if (was != is) differences.push_back(str(key, ": ", was, " -> ", is));
  }
  return differences;
}

ResolvedConfig with_absolute_paths(ResolvedConfig resolved) {
  change_paths(resolved.config, [](const std::string& path) { return fs::absolute(path); });
  return resolved;
}

std::set<std::int64_t> steps_to_keep(const std::vector<std::int64_t>& steps, const TrainConfig& config,
                                     std::int64_t best_step) {
  std::set<std::int64_t> sorted(steps.begin(), steps.end());
  std::set<std::int64_t> keep;
  std::int64_t newer = 0;
  for (auto step = sorted.rbegin(); step != sorted.rend(); ++step, ++newer) {
    const bool is_last = newer < std::max<std::int64_t>(1, config.keep_last);
    const bool is_every = config.keep_every > 0 && *step % config.keep_every == 0;
    if (is_last || is_every || (config.keep_best && *step == best_step)) keep.insert(*step);
  }
  return keep;
}

// They are most while the last one is written. Before it, every save_every-th step was saved.
std::int64_t most_checkpoints(const TrainConfig& config) {
  const std::int64_t saved = (config.steps - 1) / config.save_every;
  const std::int64_t last = std::min(std::max<std::int64_t>(1, config.keep_last), saved);
  const std::int64_t older_steps = (saved - last) * config.save_every;
  std::int64_t older = config.keep_best && config.eval_every > 0 ? 1 : 0;
  if (config.keep_every > 0) older += older_steps / std::lcm(config.keep_every, config.save_every);
  return 1 + last + std::min(older, saved - last);
}

RunFolder::RunFolder(const fs::path& path) : path_(path), lock_(path) {
  fs::create_directories(path_ / kCheckpoints);
  remove_stale_temporaries(path_);
  remove_stale_temporaries(path_ / kCheckpoints, /*locked=*/true);
}

fs::path RunFolder::checkpoint_path(const fs::path& run_folder, std::int64_t step) {
  return run_folder / kCheckpoints / step_name(step);
}

void RunFolder::publish(std::int64_t step, std::int64_t best_step, const TrainConfig& config,
                        const std::function<void(const fs::path&)>& fill) {
  // A folder of this step can only be one that did not verify when the run was resumed.
  publish_folder(checkpoint_path(path_, step), fill, /*replace=*/true);
  settle(step, best_step, config);
}

void RunFolder::settle(std::int64_t step, std::int64_t best_step, const TrainConfig& config) {
  link("last", step);
  if (config.keep_best && best_step == step) link("best", step);
  std::vector<std::int64_t> steps;
  for (const RunCheckpoint& checkpoint : run_checkpoints(path_))
    if (checkpoint.step <= step) steps.push_back(checkpoint.step);
  const auto keep = steps_to_keep(steps, config, best_step);
  for (std::int64_t old : steps)
    if (!keep.contains(old)) discard(checkpoint_path(path_, old));
  if (const fs::path best = path_ / "best"; fs::is_symlink(best) && !fs::exists(best)) fs::remove(best);
}

// One that stays, such as on a network's file system while somebody reads it, is no reason to stop training.
void RunFolder::discard(const fs::path& checkpoint) {
  try {
    discard_folder(checkpoint);
  } catch (const IoError& error) {
    log::warning(error.what(), "; the next start of the run tries again");
  }
}

void RunFolder::link(const std::string& name, std::int64_t step) {
  write_atomically(path_ / name, [&](const fs::path& temporary) {
    fs::create_directory_symlink(fs::path(kCheckpoints) / step_name(step), temporary);
  });
}

}  // namespace shallowpi
