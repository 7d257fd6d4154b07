#include "shallowpi/runtime/simulate_loop.h"

#include <algorithm>

#include "runtime/loop_metrics.h"

namespace shallowpi {
namespace {

/// Calls `play` with every chosen episode: a sample of step 0, and the episode's length.
template <typename Play>
void for_episodes(const Dataset& dataset, const LoopSettings& settings, Play play) {
  std::vector<Dataset::Sample> episodes;
  for (std::size_t source = 0; source < dataset.sources().size(); ++source) {
    const auto& infos = dataset.sources()[source].file->episodes();
    const std::size_t count = settings.episodes > 0
                                  ? std::min(infos.size(), static_cast<std::size_t>(settings.episodes))
                                  : infos.size();
    for (std::size_t episode = 0; episode < count; ++episode)
      if (infos[episode].length > 0)
        episodes.push_back({static_cast<std::int32_t>(source), static_cast<std::int32_t>(episode), 0});
  }
  for (std::size_t i = 0; i < episodes.size(); ++i) {
    play(episodes[i]);
    if (settings.progress)
      settings.progress(static_cast<std::int64_t>(i + 1), static_cast<std::int64_t>(episodes.size()));
  }
}

/// One episode under the simulated clock: an answer arrives `delay` ticks after its request.
void play_episode(const Dataset& dataset, const EpisodePolicy& policy, Dataset::Sample sample,
                  const ChunkingOptions& chunking, std::int64_t delay, LoopMetrics& metrics) {
  const RobotActions& shown = dataset.file(sample).actions(sample.episode);
  ActionChunker chunker(chunking);
  std::optional<ChunkRequest> under_way;
  std::vector<ChunkTick> ticks;
  for (std::size_t t = 0; t < shown.size(); ++t) {
    const auto answer_if_due = [&] {
      if (!under_way || chunker.now() < under_way->tick + delay) return;
      sample.step = static_cast<std::int32_t>(under_way->tick);
      chunker.deliver({under_way->id, policy(sample, under_way->prefix), ""});
      under_way.reset();
    };
    const Action planned = chunker.planned(chunker.now());
    answer_if_due();
    if (auto request = chunker.next_request()) under_way = std::move(request);
    answer_if_due();
    ticks.push_back(chunker.tick());
    if (ticks.back().new_chunk && !planned.empty()) metrics.add_switch(ticks.back().action, planned);
  }
  metrics.add_episode(ticks, shown);
}

}  // namespace

EpisodePolicy demonstration_policy(const Dataset& dataset, std::int64_t horizon) {
  return [&dataset, horizon](const Dataset::Sample& sample, const RobotActions&) {
    return dataset.chunk(sample, horizon);
  };
}

LoopReport simulate_loop(const Dataset& dataset, const EpisodePolicy& policy, const LoopSettings& settings) {
  ChunkingOptions chunking = settings.chunking;
  LoopReport report;
  report.mode = std::string(enum_name(chunking.mode));
  report.latency_ms = settings.latency_ms;
  report.delay = delay_ticks(settings.latency_ms, chunking.control_hz);
  report.needed = needed_horizon(chunking.execute, report.delay);
  // Where chunks are too short, the loop runs dry, and that is to be seen.
  chunking.expected_delay = chunking.horizon >= report.needed ? report.delay : 0;
  LoopMetrics metrics(settings.robot, chunking.control_hz, report.delay);
  for_episodes(dataset, settings, [&](const Dataset::Sample& episode) {
    play_episode(dataset, policy, episode, chunking, report.delay, metrics);
    metrics.add_travel(dataset.file(episode).states(episode.episode));
  });
  metrics.finish(report);
  return report;
}

LoopReport demonstration_report(const Dataset& dataset, const LoopSettings& settings) {
  LoopMetrics metrics(settings.robot, settings.chunking.control_hz, 0);
  for_episodes(dataset, settings, [&](const Dataset::Sample& episode) {
    const EpisodeFile& file = dataset.file(episode);
    const RobotActions& shown = file.actions(episode.episode);
    std::vector<ChunkTick> ticks;
    for (const Action& action : shown)
      ticks.push_back({.tick = static_cast<std::int64_t>(ticks.size()),
                       .status = TickStatus::kActing,
                       .action = action,
                       .age = 0,
                       .mean_age = 0});
    metrics.add_episode(ticks, shown);
    metrics.add_travel(file.states(episode.episode));
  });
  LoopReport report;
  report.mode = "demonstration";
  metrics.finish(report);
  return report;
}

}  // namespace shallowpi
