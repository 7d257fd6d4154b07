// `shallowpi-eval rollout`: policies in the real LIBERO simulator, closed loop.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "shallowpi/eval/rollout_policy.h"
#include "shallowpi/runtime/action_chunking.h"

namespace shallowpi {

enum class Protocol { kOpenpi, kLeRobot };
template <>
inline constexpr auto kEnumNames<Protocol> = std::to_array<EnumName<Protocol>>({
    {Protocol::kOpenpi, "openpi"},
    {Protocol::kLeRobot, "lerobot"},
});

struct RolloutOptions {
  std::string checkpoint;              ///< a folder; or
  std::string server;                  ///< ws://host:port; or
  std::filesystem::path api_key_file;  ///< with the key that the server wants; empty: none
  std::string policy;                  ///< noop, replay:FILE[#demo], mean-action:FILE (rollout_policy.h)

  std::vector<std::string> suites;
  std::vector<std::int64_t> tasks;  ///< of each suite; empty: all

  Protocol protocol = Protocol::kOpenpi;  ///< gives the six that follow, where they are not given
  std::optional<std::int64_t> trials;     ///< per task; trial i starts from initial state i
  std::optional<std::int64_t> max_steps, settle, replan, image_size;
  std::optional<std::uint64_t> seed;

  std::vector<std::string> perturb;  ///< NAME_xy=METRES, NAME_x=, NAME_y=, NAME_r=
  std::vector<std::string> move;     ///< NAME=METRES_PER_SECOND[@DEGREES]
  double latency_ms = 0;
  std::filesystem::path latency_from;  ///< a report of `shallowpi-infer bench --json`; empty: latency_ms
  ChunkMode chunking = ChunkMode::kReceding;

  std::int64_t workers = 1;  ///< simulators at once
  std::int64_t batch = 1;    ///< observations per forward pass, at most
  std::filesystem::path out;
  std::int64_t videos = 0;                 ///< of the first so many trials of each task, and
  std::vector<std::int64_t> video_trials;  ///< of these
  bool always_render = false;              ///< at every step, as LIBERO does; the same images, only slower
  bool quiet = false;

  std::string python;            ///< of the simulator; empty: that of scripts/setup_libero.sh
  std::filesystem::path worker;  ///< the worker's script; empty: the one that came with this program
  /// Seconds after which a simulator counts as hung; the step's (above 0, at most a day) are a server's too.
  double reset_timeout_s = 300, step_timeout_s = 120;

  NetworkOptions network;  ///< of a checkpoint
};

/// Runs what is still missing in `out` and writes results.json after every episode, then report.html; prints
/// a table with 95 % Wilson intervals. Returns 0, or 130/143 where a signal stopped it after the results so
/// far were saved. Throws UsageError for everything in the options that does not fit.
int run_rollout(const RolloutOptions& options);
/// The same with a policy of the caller's.
int run_rollout(const RolloutOptions& options, RolloutPolicy& policy);

struct CompareOptions {
  std::vector<std::string> runs;  ///< "LABEL=DIR" or "DIR": folders of run_rollout, or results.json files
  std::filesystem::path video;    ///< write the runs' videos side by side into this folder; empty: no
  std::filesystem::path out;      ///< the comparison as JSON; empty: none
  std::optional<std::int64_t> within;  ///< later successes, in control steps, do not count
};

/// Prints each run's success, and each against the first on the episodes that both have: exact McNemar test
/// and the 95 % interval of the paired difference. Throws UsageError where there are fewer than two runs, or
/// `within` is below 1.
void run_compare(const CompareOptions& options);

}  // namespace shallowpi
