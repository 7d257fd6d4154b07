#include "shallowpi/eval/rollout.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <deque>
#include <iostream>
#include <set>
#include <tuple>

#include "distill/progress.h"
#include "distill/stop_signal.h"
#include "eval/rollout_episode.h"
#include "eval/video.h"
#include "shallowpi/base/cli.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/log.h"
#include "shallowpi/base/status_line.h"
#include "shallowpi/base/stopwatch.h"
#include "shallowpi/base/text.h"
#include "shallowpi/runtime/api_key.h"

namespace shallowpi {
namespace fs = std::filesystem;
namespace {

constexpr std::int64_t kMaxAttempts = 5;  // in a row, at one episode or at the list of tasks

/// A simulator with the episode that it plays.
struct Seat {
  std::unique_ptr<Simulator> simulator;
  std::optional<Episode> episode;
  std::unique_ptr<VideoWriter> video;
  std::int64_t attempts = 0;
  Stopwatch watch;
  std::pair<std::string, std::int64_t> loaded{"", -1};  // the (suite, task) that its process holds
};

/// One line that is redrawn on a terminal, a log line every half minute otherwise.
class RolloutProgress {
 public:
  RolloutProgress(std::size_t before, std::size_t total, bool quiet)
      : before_(before), total_(total), quiet_(quiet), status_(quiet) {}
  void show(const SuccessCount& count) {
    if (quiet_) return;
    const auto done = static_cast<std::size_t>(count.episodes);
    const double each = watch_.seconds() / double(std::max<std::size_t>(done - before_, 1));
    const std::string line =
        str(done, "/", total_, " episodes  success ", count.successes, "/", count.episodes, " (",
            fixed(100 * count.rate(), 1), " %)  left ", human_duration(each * double(total_ - done)));
    if (status_.shows()) {
      status_.show(progress_bar(static_cast<std::int64_t>(done), static_cast<std::int64_t>(total_)) + line);
    } else if (!logged_ || logged_->seconds() > 30 || done == total_) {
      log::info(line);
      logged_.emplace();
    }
  }

 private:
  std::size_t before_, total_;
  bool quiet_;
  StatusLine status_;
  Stopwatch watch_;
  std::optional<Stopwatch> logged_;
};

/// Throws UsageError where a rollout's files would lie among others: those of a training run, say.
void check_own(const fs::path& out) {
  static const std::set<std::string> kOwn{"results.json", "report.html", "logs", "videos"};
  if (!fs::is_directory(out) || fs::exists(out / "results.json")) return;  // resume_from() looks at that
  for (const auto& entry : fs::directory_iterator(out)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with('.') && !is_temporary(name) && kOwn.count(name) == 0)
      throw UsageError(str("--out ", out.string(), " is no rollout's folder, it holds ", name,
                           "; name an empty or a new one"));
  }
}

/// A simulator's failure is nobody's result: says that `what` is tried again, or throws Error after too many.
void try_again(const std::string& what, std::int64_t attempts, const SimulatorFault& fault) {
  if (attempts >= kMaxAttempts)
    throw Error(str("gave up on ", what, " after ", kMaxAttempts, " attempts: ", fault.what()));
  log::warning(fault.what(), "\ntrying again: ", what);
}

/// The evaluation: seats, the episodes that wait for one, and the results.
class Rollout {
 public:
  Rollout(const RolloutOptions& options, RolloutPolicy& policy)
      : options_(options),
        policy_(policy),
        settings_(resolve_settings(options, policy.demo_image_size())),
        lock_(prepared(options.out)) {
    for (const fs::path& folder : {options.out, options.out / "videos"}) remove_stale_temporaries(folder);
    settings_.needs_images = policy.needs_images();
    if (settings_.image_size == policy.demo_image_size())
      log::info("images of ", settings_.image_size, " pixels, as in the policy's demonstrations");
    if (settings_.chunking == ChunkMode::kRtc) {
      const std::string warning = rtc_warning(settings_.delay(), policy.rtc_training_max_delay());
      if (!warning.empty()) log::warning("--chunking ", warning);
    }
    // Before anything is started: a chunk that is too short will not get longer.
    if (policy.horizon() > 0) ActionChunker{settings_.chunking_options(policy.horizon())};
    if (settings_.records_any()) require_ffmpeg();
    results_.policy = policy.identity();
    results_.settings = settings_.json();
    results_.machine = {{"version", version_text()},
                        {"workers", options.workers},
                        {"threads", at::get_num_threads()},
                        {"device", options.network.device.str()}};
    resume_from(results_file(), results_);
    const std::string python = find_simulator_python(options.python);
    const fs::path script = find_worker_script(options.worker);
    fs::create_directories(options.out / "logs");
    for (std::int64_t i = 0; i < options.workers; ++i) {
      seats_.emplace_back();
      seats_.back().simulator =
          std::make_unique<Simulator>(python, script, options.out / "logs" / str("simulator_", i, ".log"));
    }
  }

  int run() {
    queue_episodes();
    const StopSignal stop(
        "stopping: the episodes that have ended are saved, the same command plays the others; a second signal"
        " ends at once");
    RolloutProgress progress(done_before_, done_before_ + waiting_.size(), options_.quiet);
    while (!stop.requested()) {
      fill_seats();
      if (std::none_of(seats_.begin(), seats_.end(),
                       [](const Seat& seat) { return seat.episode.has_value(); }))
        break;
      if (collect_answers()) progress.show(count_all(results_));
      if (!ask_policy()) wait();
    }
    write_results(results_file(), results_);
    write_file_atomically(options_.out / "report.html", rollout_html(results_));
    return stop.requested() ? stop.exit_code() : 0;
  }

  const RolloutResults& results() const { return results_; }

 private:
  static const fs::path& prepared(const fs::path& out) {
    if (out.empty()) throw UsageError("no --out DIR");
    check_own(out);
    fs::create_directories(out);
    return out;
  }
  fs::path results_file() const { return options_.out / "results.json"; }

  /// The suites' tasks.
  Json ask_for_tasks() {
    Simulator& simulator = *seats_.front().simulator;
    for (std::int64_t attempt = 1;; ++attempt) {
      try {
        simulator.send({{"cmd", "describe"}, {"suites", options_.suites}}, options_.reset_timeout_s);
        return simulator.wait().json.at("suites");
      } catch (const SimulatorFault& fault) {
        try_again("the list of tasks", attempt, fault);
      }
    }
  }

  /// Lists the episodes that are still to be played.
  void queue_episodes() {
    const Json suites = ask_for_tasks();
    std::size_t asked = 0;
    for (const std::string& suite : options_.suites) {
      (void)settings_.steps_allowed(suite);
      const auto count = static_cast<std::int64_t>(suites.at(suite).size());
      for (std::int64_t task : chosen_tasks(suite, suites.at(suite))) {
        const Json& described = suites.at(suite)[static_cast<std::size_t>(task)];
        const TaskInfo info{described.at("language"), described.at("init_states")};
        if (!tasks_.try_emplace({suite, task}, info).second) continue;  // named twice
        policy_.check_task(info.language);
        for (std::int64_t trial = 0; trial < settings_.trials; ++trial, ++asked)
          if (!results_.episodes.count({suite, task, trial})) waiting_.push_back({suite, task, trial});
      }
      log::debug(suite, ": ", count, " tasks");
    }
    done_before_ = results_.episodes.size();
    if (asked > waiting_.size())
      log::info("going on with ", results_file().string(), ": ", asked - waiting_.size(), " of ", asked,
                " episodes are done");
  }

  std::vector<std::int64_t> chosen_tasks(const std::string& suite, const Json& tasks) const {
    std::vector<std::int64_t> chosen = options_.tasks;
    const auto count = static_cast<std::int64_t>(tasks.size());
    for (std::int64_t task = 0; options_.tasks.empty() && task < count; ++task) chosen.push_back(task);
    std::sort(chosen.begin(), chosen.end());
    for (std::int64_t task : chosen) {
      if (task >= 0 && task < count) continue;
      std::vector<std::string> valid;
      for (std::int64_t i = 0; i < count; ++i)
        valid.push_back(
            str("\n  ", i, "  ", tasks[static_cast<std::size_t>(i)].at("language").get<std::string>()));
      throw UsageError(str(suite, " has no task ", task, "; it has", join(valid, "")));
    }
    return chosen;
  }

  /// The waiting episode that suits a seat best: of the task that its process has loaded, else of the task on
  /// which the fewest others work.
  std::size_t best_waiting(const Seat& seat) const {
    const auto cost = [&](std::size_t i) {
      const std::pair task{waiting_[i].suite, waiting_[i].task};
      const auto others =
          std::count_if(seats_.begin(), seats_.end(), [&](const Seat& s) { return s.loaded == task; });
      return std::tuple(task != seat.loaded, others, i);
    };
    std::size_t best = 0;
    for (std::size_t i = 1; i < waiting_.size(); ++i)
      if (cost(i) < cost(best)) best = i;
    return best;
  }

  void fill_seats() {
    for (Seat& seat : seats_) {
      if (seat.episode || waiting_.empty()) continue;
      const std::size_t choice = best_waiting(seat);
      const EpisodeKey key = waiting_[choice];
      waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(choice));
      seat.attempts = 0;
      seat.loaded = {key.suite, key.task};
      begin(seat, key);
    }
  }

  void begin(Seat& seat, const EpisodeKey& key) {
    seat.video.reset();
    seat.episode.emplace(key, tasks_.at({key.suite, key.task}), settings_);
    seat.watch = {};
    ++seat.attempts;
    if (seat.episode->recorded())
      seat.video = std::make_unique<VideoWriter>(options_.out / "videos" / (file_stem(key) + ".mp4"),
                                                 2 * settings_.image_size, settings_.image_size, kControlHz);
    send(seat);
  }

  void send(Seat& seat) {
    guard(seat, [&] {
      seat.simulator->send(seat.episode->simulator_request(),
                           seat.episode->started() ? options_.step_timeout_s : options_.reset_timeout_s);
    });
  }

  /// After a simulator's failure the episode starts again with a new process.
  template <typename Action>
  void guard(Seat& seat, Action action) {
    try {
      action();
    } catch (const SimulatorFault& fault) {
      const EpisodeKey key = seat.episode->key();
      try_again(str(key.suite, " task ", key.task, " trial ", key.trial), seat.attempts, fault);
      seat.simulator->kill();
      begin(seat, key);
    }
  }

  /// Returns whether an episode ended.
  bool collect_answers() {
    bool ended = false;
    for (Seat& seat : seats_) {
      if (!seat.episode || !seat.simulator->busy()) continue;
      guard(seat, [&] {
        auto answer = seat.simulator->receive();
        if (!answer) return;
        seat.episode->take_simulator_answer(std::move(*answer));
        if (seat.video) seat.video->write(seat.episode->frames());
        if (!seat.episode->finished()) return;
        finish(seat);
        ended = true;
      });
    }
    return ended;
  }

  void finish(Seat& seat) {
    EpisodeRecord record = seat.episode->record();
    record.attempts = seat.attempts;
    record.seconds = seat.watch.seconds();
    if (seat.video) seat.video->finish(video_file(options_.out, record));
    seat.video.reset();
    seat.episode.reset();
    results_.episodes[record.key] = std::move(record);
    write_results(results_file(), results_);
  }

  /// One forward pass, if a batch is full or nobody is left who could fill it. Returns whether there was one.
  bool ask_policy() {
    std::vector<Seat*> ready;
    bool others = false;
    for (std::size_t i = 0; i < seats_.size(); ++i) {
      Seat& seat = seats_[(next_seat_ + i) % seats_.size()];
      if (!seat.episode) continue;
      if (seat.episode->wants_policy()) {
        if (static_cast<std::int64_t>(ready.size()) < settings_.batch) ready.push_back(&seat);
      } else {
        others = true;
      }
    }
    if (ready.empty() || (others && static_cast<std::int64_t>(ready.size()) < settings_.batch)) return false;
    next_seat_ = static_cast<std::size_t>(ready.back() - seats_.data()) + 1;
    std::vector<PolicyCall> calls;
    for (Seat* seat : ready) calls.push_back(seat->episode->call());
    const Stopwatch watch;
    std::vector<RobotActions> chunks = policy_.infer(calls);
    const double each = watch.milliseconds() / double(calls.size());
    for (std::size_t i = 0; i < ready.size(); ++i) {
      ready[i]->episode->take_actions(std::move(chunks.at(i)), each);
      send(*ready[i]);
    }
    return true;
  }

  void wait() {
    std::vector<Simulator*> busy;
    for (Seat& seat : seats_)
      if (seat.episode) busy.push_back(seat.simulator.get());
    wait_for_any(busy);
  }

  const RolloutOptions& options_;
  RolloutPolicy& policy_;
  RolloutSettings settings_;
  FolderLock lock_;
  RolloutResults results_;
  std::vector<Seat> seats_;
  std::size_t next_seat_ = 0;  ///< the first to be asked for, so that all have their turn
  std::map<std::pair<std::string, std::int64_t>, TaskInfo> tasks_;
  std::deque<EpisodeKey> waiting_;
  std::size_t done_before_ = 0;
};

std::unique_ptr<RolloutPolicy> choose_policy(const RolloutOptions& options) {
  const int given = !options.checkpoint.empty() + !options.server.empty() + !options.policy.empty();
  if (given != 1)
    throw UsageError("give exactly one of --checkpoint DIR, --server ws://HOST:PORT and --policy NAME");
  if (!options.server.empty())
    return server_policy(options.server, resolve_settings(options).seed, options.step_timeout_s,
                         read_api_key(options.api_key_file));
  if (!options.policy.empty()) return baseline_policy(options.policy);
  // Before a checkpoint is loaded.
  check_own(options.out);
  find_simulator_python(options.python);
  return checkpoint_policy(options.checkpoint, resolve_settings(options).seed, options.network);
}

}  // namespace

int run_rollout(const RolloutOptions& options) {
  const auto policy = choose_policy(options);
  return run_rollout(options, *policy);
}

int run_rollout(const RolloutOptions& options, RolloutPolicy& policy) {
  if (options.suites.empty()) throw UsageError("no --suite NAME");
  Rollout rollout(options, policy);
  const int code = rollout.run();
  std::cout << rollout_table(rollout.results());
  log::info("wrote ", (options.out / "results.json").string(), " and report.html beside it");
  return code;
}

}  // namespace shallowpi
