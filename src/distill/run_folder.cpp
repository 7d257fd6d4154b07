#include "shallowpi/distill/run_folder.h"

#include <unistd.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <iomanip>
#include <map>

#include "shallowpi/base/error.h"
#include "shallowpi/base/log.h"
#include "shallowpi/base/text.h"
#include "shallowpi/distill/training_state.h"

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
  if (name.substr(0, kStepPrefix.size()) != kStepPrefix) return std::nullopt;
  name.remove_prefix(kStepPrefix.size());
  std::int64_t step = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), step);
  if (error != std::errc{} || end != name.data() + name.size()) return std::nullopt;
  return step;
}

// {a: {b: 1}} as {"a.b": "1"}; a list is one value.
void flatten(const YAML::Node& node, const std::string& key, std::map<std::string, std::string>& out) {
  if (node.IsMap()) {
    for (const auto& entry : node)
      flatten(entry.second, key.empty() ? entry.first.Scalar() : str(key, ".", entry.first.Scalar()), out);
  } else if (node.IsScalar()) {
    out[key] = node.Scalar();
  } else {
    YAML::Emitter text;
    text << YAML::Flow << node;
    out[key] = text.c_str();
  }
}

bool may_change(const std::string& key) {
  static const std::set<std::string> kKeys = {"output_dir",
                                              "threads",
                                              "device",
                                              "data.workers",
                                              "data.prefetch",
                                              "train.steps",
                                              "train.log_every",
                                              "train.eval_every",
                                              "train.save_every",
                                              "train.keep_last",
                                              "train.keep_every",
                                              "train.keep_best",
                                              "train.max_skipped",
                                              "train.activation_checkpointing"};
  return kKeys.count(key) != 0;
}

}  // namespace

std::vector<RunCheckpoint> run_checkpoints(const fs::path& run_folder) {
  std::vector<RunCheckpoint> found;
  std::error_code missing;
  for (const auto& entry : fs::directory_iterator(run_folder / "checkpoints", missing))
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
      read_training_state(checkpoint.folder / "training_state");
      return checkpoint;
    } catch (const Error& error) {
      log::warning("not resuming from ", checkpoint.folder.string(), ": ", error.what());
    }
  }
  return std::nullopt;
}

std::vector<std::string> config_differences(const std::string& old_yaml, const std::string& new_yaml) {
  std::map<std::string, std::string> before, after;
  flatten(YAML::Load(old_yaml), "", before);
  flatten(YAML::Load(new_yaml), "", after);
  std::set<std::string> keys;
  for (const auto& [key, value] : before) keys.insert(key);
  for (const auto& [key, value] : after) keys.insert(key);
  const auto value_of = [](const std::map<std::string, std::string>& values, const std::string& key) {
    const auto found = values.find(key);
    return found == values.end() ? std::string("(unset)") : found->second;
  };
  std::vector<std::string> differences;
  for (const std::string& key : keys)
    if (!may_change(key) && value_of(before, key) != value_of(after, key))
      differences.push_back(str(key, ": ", value_of(before, key), " -> ", value_of(after, key)));
  return differences;
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

RunFolder::RunFolder(const fs::path& path) : path_(path), lock_(path) {
  fs::create_directories(path_ / "checkpoints");
  remove_stale_temporaries(path_);
  remove_stale_temporaries(path_ / "checkpoints");
}

fs::path RunFolder::checkpoint_path(const fs::path& run_folder, std::int64_t step) {
  return run_folder / "checkpoints" / step_name(step);
}

void RunFolder::publish(std::int64_t step, std::int64_t best_step, const TrainConfig& config,
                        const std::function<void(const fs::path&)>& fill) {
  // A folder of this step can only be one that did not verify when the run was resumed.
  publish_folder(checkpoint_path(path_, step), fill, /*replace=*/true);
  settle(step, best_step, config);
}

void RunFolder::settle(std::int64_t step, std::int64_t best_step, const TrainConfig& config) {
  link("last", step);
  if (best_step == step) link("best", step);
  std::vector<std::int64_t> steps;
  for (const RunCheckpoint& checkpoint : run_checkpoints(path_))
    if (checkpoint.step <= step) steps.push_back(checkpoint.step);
  const auto keep = steps_to_keep(steps, config, best_step);
  for (std::int64_t old : steps) {
    if (keep.count(old)) continue;
    // Out of sight first: a kill halfway must not leave half a checkpoint under a final name.
    const fs::path folder = checkpoint_path(path_, old);
    const fs::path doomed = str(folder.string(), ".tmp-", ::getpid(), "-", old);
    fs::rename(folder, doomed);
    fs::remove_all(doomed);
  }
}

void RunFolder::link(const std::string& name, std::int64_t step) {
  const fs::path temporary = path_ / str(name, ".tmp-", ::getpid(), "-0");
  fs::create_directory_symlink(fs::path("checkpoints") / step_name(step), temporary);
  fs::rename(temporary, path_ / name);
}

}  // namespace shallowpi
