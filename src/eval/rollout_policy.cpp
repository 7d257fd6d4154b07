#include "shallowpi/eval/rollout_policy.h"

#include <algorithm>
#include <charconv>
#include <map>

#include "shallowpi/base/error.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/manifest.h"
#include "shallowpi/base/text.h"
#include "shallowpi/data/readers.h"

namespace shallowpi {
namespace {

constexpr std::int64_t kBaselineHorizon = 64;

/// A policy that does not look: its chunk depends on the task, the trial and the tick.
class BlindPolicy : public RolloutPolicy {
 public:
  bool needs_images() const override { return false; }
  std::int64_t horizon() const override { return kBaselineHorizon; }
  std::vector<RobotActions> infer(const std::vector<PolicyCall>& calls) override {
    std::vector<RobotActions> out;
    for (const PolicyCall& call : calls) {
      out.emplace_back();
      for (std::int64_t i = 0; i < kBaselineHorizon; ++i) out.back().push_back(action(call, call.tick + i));
    }
    return out;
  }

 protected:
  virtual std::vector<float> action(const PolicyCall& call, std::int64_t tick) = 0;
};

class Noop final : public BlindPolicy {
 public:
  Json identity() const override { return {{"kind", "noop"}}; }

 protected:
  std::vector<float> action(const PolicyCall&, std::int64_t) override { return kLiberoStandStill; }
};

/// Demonstrations as recorded, by instruction.
class Recordings {
 public:
  explicit Recordings(const std::string& glob) {
    constexpr LiberoOptions kAsRecorded{.raw_alignment = false, .drop_noops = false};
    for (const auto& path : expand_globs({glob})) {
      auto file = open_episodes(path, DataFormat::kLibero, kAsRecorded);
      hashes_.push_back(sha256_file(path));
      const std::string prompt = file->episodes().front().prompt;
      if (!files_.emplace(prompt, std::move(file)).second)
        throw UsageError(str(path.string(), ": another file has the instruction ", in_quotes(prompt),
                             " too; give one file per task"));
    }
  }
  const EpisodeFile& of(const std::string& prompt) const {
    const auto found = files_.find(prompt);
    if (found != files_.end()) return *found->second;
    std::vector<std::string> prompts;
    for (const auto& [other, file] : files_) prompts.push_back(other);
    throw UsageError(
        str("no demonstration of \"", prompt, "\"; the files given are of: ", join(prompts, "; ")));
  }
  const std::vector<std::string>& hashes() const { return hashes_; }

 private:
  std::map<std::string, std::unique_ptr<EpisodeFile>> files_;
  std::vector<std::string> hashes_;
};

/// Open loop: the recorded actions one by one, then the last one over again.
class Replay final : public BlindPolicy {
 public:
  Replay(const std::string& glob, std::string which) : recordings_(glob), which_(std::move(which)) {
    if (which_ == "trial") return;
    const auto [end, error] = std::from_chars(which_.data(), which_.data() + which_.size(), demo_);
    if (error != std::errc{} || end != which_.data() + which_.size() || demo_ < 0)
      throw UsageError(str("replay: ", in_quotes(which_), " after # is neither a number nor trial"));
  }
  Json identity() const override {
    return {{"kind", "replay"}, {"demonstration", which_}, {"files", recordings_.hashes()}};
  }
  void check_task(const std::string& instruction) const override { (void)demonstration(instruction, 0); }

 protected:
  std::vector<float> action(const PolicyCall& call, std::int64_t tick) override {
    const auto& actions = demonstration(call.observation.prompt, call.episode.trial);
    return actions[std::min(static_cast<std::size_t>(tick), actions.size() - 1)];
  }

 private:
  const RobotActions& demonstration(const std::string& instruction, std::int64_t trial) const {
    const EpisodeFile& file = recordings_.of(instruction);
    const auto count = static_cast<std::int64_t>(file.episodes().size());
    const std::int64_t demo = which_ == "trial" ? trial % count : demo_;
    if (demo >= count)
      throw UsageError(str(file.path().string(), ": there is no demonstration ", demo, ", it holds ", count));
    return file.actions(demo);
  }

  Recordings recordings_;
  std::string which_;
  std::int64_t demo_ = 0;
};

class MeanAction final : public BlindPolicy {
 public:
  explicit MeanAction(const std::string& glob) : recordings_(glob) {}
  Json identity() const override { return {{"kind", "mean-action"}, {"files", recordings_.hashes()}}; }
  void check_task(const std::string& instruction) const override { (void)recordings_.of(instruction); }

 protected:
  std::vector<float> action(const PolicyCall& call, std::int64_t) override {
    auto [found, is_new] = means_.try_emplace(call.observation.prompt);
    if (is_new) found->second = mean(recordings_.of(call.observation.prompt));
    return found->second;
  }

 private:
  static std::vector<float> mean(const EpisodeFile& file) {
    std::vector<double> sum(static_cast<std::size_t>(file.action_dim()));
    double count = 0;
    for (std::size_t episode = 0; episode < file.episodes().size(); ++episode)
      for (const auto& action : file.actions(static_cast<std::int64_t>(episode))) {
        for (std::size_t d = 0; d < sum.size(); ++d) sum[d] += double(action[d]);
        ++count;
      }
    std::vector<float> out;
    for (double value : sum) out.push_back(static_cast<float>(value / count));
    return out;
  }

  Recordings recordings_;
  std::map<std::string, std::vector<float>> means_;
};

}  // namespace

std::unique_ptr<RolloutPolicy> baseline_policy(const std::string& description) {
  const auto colon = description.find(':');
  const std::string kind = description.substr(0, colon);
  std::string file = colon == std::string::npos ? "" : description.substr(colon + 1);
  if (kind == "noop" && file.empty()) return std::make_unique<Noop>();
  if (kind == "mean-action" && !file.empty()) return std::make_unique<MeanAction>(file);
  if (kind == "replay" && !file.empty()) {
    const auto hash = file.rfind('#');
    const std::string which = hash == std::string::npos ? "0" : file.substr(hash + 1);
    return std::make_unique<Replay>(file.substr(0, hash), which);
  }
  throw UsageError(str("--policy ", in_quotes(description),
                       " is none of noop, replay:FILE.hdf5, replay:FILE.hdf5#K, mean-action:FILE.hdf5"));
}

}  // namespace shallowpi
