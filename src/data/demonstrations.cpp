#include "shallowpi/data/demonstrations.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "shallowpi/base/error.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/policy_spec.h"
#include "shallowpi/base/problems.h"
#include "shallowpi/base/text.h"
#include "shallowpi/data/random.h"

namespace shallowpi {
namespace {

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

using Episode = std::pair<std::int32_t, std::int32_t>;  // source, episode
constexpr std::int32_t kAll = -1;                       // episodes of a source

// A random subset of the group: `fraction` of it, at least one, never all.
void hold_out(std::vector<Episode> group, double fraction, Random random, std::set<Episode>& held_out) {
  if (group.size() < 2) return;
  const auto wanted = static_cast<std::size_t>(std::llround(fraction * static_cast<double>(group.size())));
  const std::size_t count = std::clamp<std::size_t>(wanted, 1, group.size() - 1);
  for (std::size_t i = 0; i < count; ++i) {
    std::swap(group[i], group[i + random.below(group.size() - i)]);
    held_out.insert(group[i]);
  }
}

}  // namespace

Dataset::Dataset(std::vector<Source> sources) : sources_(std::move(sources)) {
  if (sources_.empty()) throw UsageError("there is no demonstration file; name some in data.files");
  const EpisodeFile& first = *sources_.front().file;
  for (const Source& source : sources_) {
    const EpisodeFile& file = *source.file;
    if (!(source.weight > 0.0) || !std::isfinite(source.weight))
      throw UsageError(str(file.path().string(), ": sampling weight ", source.weight, " must be positive"));
    if (file.state_dim() != first.state_dim() || file.action_dim() != first.action_dim())
      throw UsageError(str("demonstrations of different robots: ", first.path().string(), " has ",
                           first.state_dim(), " state and ", first.action_dim(), " action dims, ",
                           file.path().string(), " has ", file.state_dim(), " and ", file.action_dim()));
  }
  if (camera_names().empty())
    throw UsageError("the demonstration files have no camera in common; use files of one robot");
}

std::int64_t Dataset::state_dim() const {
  return sources_.front().file->state_dim();
}

std::int64_t Dataset::action_dim() const {
  return sources_.front().file->action_dim();
}

std::set<double> Dataset::control_rates() const {
  std::set<double> rates;
  for (const Source& source : sources_) rates.insert(source.file->control_hz());
  rates.erase(0);
  return rates;
}

std::vector<std::string> Dataset::camera_names() const {
  std::vector<std::string> candidates = kCanonicalCameras, common;
  for (const std::string& name : sources_.front().file->camera_names())
    if (!contains(candidates, name)) candidates.push_back(name);
  for (const std::string& name : candidates)
    if (files_without(name).empty()) common.push_back(name);
  return common;
}

std::vector<float> Dataset::state(const Sample& sample) const {
  return file(sample).states(sample.episode)[sample.step];
}

RobotActions Dataset::chunk(const Sample& sample, std::int64_t horizon) const {
  const RobotActions& episode = file(sample).actions(sample.episode);
  RobotActions actions;
  actions.reserve(horizon);
  for (std::int64_t h = 0; h < horizon; ++h)
    actions.push_back(episode[std::min<std::size_t>(sample.step + h, episode.size() - 1)]);
  return actions;
}

std::vector<const EpisodeFile*> Dataset::files_without(const std::string& camera) const {
  std::vector<const EpisodeFile*> files;
  for (const Source& source : sources_)
    if (!contains(source.file->camera_names(), camera)) files.push_back(source.file.get());
  return files;
}

Dataset::Split Dataset::split(double held_out_fraction, std::uint64_t seed) const {
  if (!(held_out_fraction >= 0.0 && held_out_fraction < 1.0))
    throw UsageError(
        str("data.held_out_fraction is ", held_out_fraction, "; it must be at least 0 and below 1"));
  std::set<Episode> held_out;
  if (held_out_fraction > 0.0) {
    std::vector<Episode> singles;
    for (std::size_t s = 0; s < sources_.size(); ++s) {
      if (sources_[s].file->layout() == DataFormat::kRecording) {  // neighbouring answers are nearly the same
        singles.emplace_back(s, kAll);
        continue;
      }
      std::vector<Episode> group;
      for (std::size_t e = 0; e < sources_[s].file->episodes().size(); ++e) group.emplace_back(s, e);
      if (group.size() == 1) singles.push_back(group.front());
      hold_out(std::move(group), held_out_fraction, Random({seed, s}), held_out);
    }
    hold_out(std::move(singles), held_out_fraction, Random({seed, sources_.size()}), held_out);
    if (held_out.empty())
      throw UsageError(
          "the data is a single episode or recording, so none can be held out; set data.held_out_fraction to "
          "0");
  }
  Split split;
  for (std::size_t s = 0; s < sources_.size(); ++s) {
    const std::vector<EpisodeInfo>& episodes = sources_[s].file->episodes();
    for (std::size_t e = 0; e < episodes.size(); ++e) {
      const bool is_held_out = held_out.count({s, e}) != 0 || held_out.count({s, kAll}) != 0;
      std::vector<Sample>& samples = is_held_out ? split.held_out : split.train;
      for (std::int64_t step = 0; step < episodes[e].length; ++step) {
        if (!episodes[e].repeats.empty() && episodes[e].repeats[step]) continue;
        samples.push_back(
            {static_cast<std::int32_t>(s), static_cast<std::int32_t>(e), static_cast<std::int32_t>(step)});
      }
    }
  }
  return split;
}

Dataset open_dataset(const std::vector<DataFile>& files, DataFormat format, const LiberoOptions& options) {
  std::map<std::filesystem::path, std::string> pattern_of;
  std::vector<Dataset::Source> sources;
  Problems problems;
  for (const auto& [pattern, weight] : files)
    for (const std::filesystem::path& path : expand_globs({pattern})) {
      const auto [earlier, is_new] = pattern_of.emplace(std::filesystem::weakly_canonical(path), pattern);
      if (!is_new)
        throw UsageError(str("data.files: both '", earlier->second, "' and '", pattern, "' match ",
                             path.string(), "; name each file once"));
      problems.attempt([&, weight = weight] {
        sources.push_back({open_episodes(path, format, options), weight});
      });
    }
  problems.throw_all("demonstration files cannot be used");
  return Dataset(std::move(sources));
}

std::uint64_t sample_seed(const Dataset::Sample& sample, std::uint64_t seed) {
  return Random({seed, static_cast<std::uint64_t>(sample.source), static_cast<std::uint64_t>(sample.episode),
                 static_cast<std::uint64_t>(sample.step)})
      .next();
}

std::vector<Dataset::Sample> spread_samples(const std::vector<Dataset::Sample>& samples, std::int64_t count) {
  const auto size = static_cast<std::int64_t>(samples.size());
  if (count <= 0 || count >= size) return samples;
  std::vector<Dataset::Sample> chosen;
  for (std::int64_t i = 0; i < count; ++i)
    chosen.push_back(samples[static_cast<std::size_t>((2 * i + 1) * size / (2 * count))]);
  return chosen;
}

std::vector<std::vector<Dataset::Sample>> batches_of(const std::vector<Dataset::Sample>& samples,
                                                     std::int64_t batch_size) {
  std::vector<std::vector<Dataset::Sample>> batches;
  const auto size = static_cast<std::size_t>(batch_size);
  for (std::size_t begin = 0; begin < samples.size(); begin += size)
    batches.emplace_back(
        samples.begin() + static_cast<std::ptrdiff_t>(begin),
        samples.begin() + static_cast<std::ptrdiff_t>(std::min(samples.size(), begin + size)));
  return batches;
}

}  // namespace shallowpi
