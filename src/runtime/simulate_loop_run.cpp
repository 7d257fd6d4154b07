// The command `shallowpi-infer simulate-loop`: options, the loaded policy, the table.
#include <torch/torch.h>

#include <iostream>
#include <map>
#include <tuple>

#include "data/policy_sample.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/log.h"
#include "shallowpi/base/status_line.h"
#include "shallowpi/base/text.h"
#include "shallowpi/data/pipeline.h"
#include "shallowpi/runtime/action_chunk_controller.h"
#include "shallowpi/runtime/policy_runner.h"
#include "shallowpi/runtime/simulate_loop.h"

namespace shallowpi {
namespace {

std::string optional_text(const std::optional<double>& value, int decimals) {
  return value ? fixed(*value, decimals) : "-";
}

void check_options(const SimulateLoopOptions& options) {
  if (options.episodes < 0) throw UsageError(str("--episodes ", options.episodes, ": must not be negative"));
  if (options.latencies_ms.empty()) throw UsageError("give at least one --latency-ms");
  for (double latency : options.latencies_ms)
    if (!(latency >= 0 && latency <= kMaxLatencyMs))
      throw UsageError(str("--latency-ms ", latency, " is not from 0 to ", kMaxLatencyMs));
}

/// A policy whose noise is a function of seed and frame, so that modes and latencies differ in nothing else.
/// Chunks without a prefix are remembered: those modes ask for the same ones.
class RunnerPolicy {
 public:
  RunnerPolicy(const Dataset& dataset, PolicyRunner runner, const SimulateLoopOptions& options)
      : dataset_(dataset),
        runner_(std::move(runner)),
        steps_(options.steps),
        seed_(options.seed),
        noise_scale_(options.noise_scale) {}

  const PolicySpec& spec() const { return runner_.info().spec; }

  RobotActions answer(const Dataset::Sample& sample, const RobotActions& prefix) {
    if (!prefix.empty()) return infer(sample, prefix);
    const auto key = std::make_tuple(sample.source, sample.episode, sample.step);
    const auto known = known_.find(key);
    return known != known_.end() ? known->second : known_[key] = infer(sample, prefix);
  }

 private:
  RobotActions infer(const Dataset::Sample& sample, const RobotActions& prefix) {
    const InferRequest request = runner_.request(robot_observation(dataset_, sample, spec().image_keys),
                                                 prefix, sample_seed(sample, seed_), noise_scale_);
    return runner_.infer({request}, {.steps = steps_}).at(0).actions;
  }

  const Dataset& dataset_;
  PolicyRunner runner_;
  std::int64_t steps_;
  std::uint64_t seed_;
  double noise_scale_;
  std::map<std::tuple<std::int32_t, std::int32_t, std::int32_t>, RobotActions> known_;
};

/// Without a checkpoint the layout of the files says which robot it is.
RobotSpec robot_of(const Dataset& dataset) {
  const bool libero = dataset.sources().front().file->layout() == DataFormat::kLibero;
  const bool aloha = !libero && dataset.state_dim() == kAlohaDim && dataset.action_dim() == kAlohaDim;
  return {libero  ? RobotKind::kLibero
          : aloha ? RobotKind::kAloha
                  : RobotKind::kJoints,
          dataset.state_dim(),
          dataset.action_dim(),
          {}};
}

/// `is_demonstration`: the recorded actions stand for a policy's, which continue any.
void warn_if_untrained(const LoopReport& report, ChunkMode mode, const PolicySpec& spec,
                       bool is_demonstration) {
  if (mode != ChunkMode::kRtc || is_demonstration) return;
  const std::string warning = rtc_warning(report.delay, spec.rtc_training_max_delay);
  if (!warning.empty()) log::warning(report.latency_ms, " ms: ", warning);
}

void warn_if_short(const LoopReport& report, const ChunkingOptions& chunking) {
  if (chunking.horizon < report.needed)
    log::warning("chunks of ", chunking.horizon, " actions are too short for ", report.latency_ms, " ms at ",
                 chunking.control_hz, " Hz with a request every ", chunking.execute, " ticks: they need ",
                 report.needed, ", so the robot idles");
}

std::vector<LoopReport> simulate_all(const Dataset& dataset, const EpisodePolicy& policy,
                                     const PolicySpec& spec, const SimulateLoopOptions& options) {
  LoopSettings settings;
  settings.chunking = chunking_for(spec);
  settings.chunking.execute = options.execute;
  settings.chunking.control_hz = *options.control_hz;
  settings.chunking.ensemble_decay = options.ensemble_decay;
  settings.robot = spec.robot;
  settings.episodes = options.episodes;
  check_chunking(settings.chunking, 0);
  StatusLine status(options.quiet);
  std::vector<LoopReport> reports{demonstration_report(dataset, settings)};
  for (double latency : options.latencies_ms) {
    settings.latency_ms = latency;
    for (ChunkMode mode : options.modes) {
      settings.chunking.mode = mode;
      settings.progress = [&](std::int64_t done, std::int64_t total) {
        status.show(str(latency, " ms, ", enum_name(mode), ": ", done, " of ", total, " episodes"));
      };
      reports.push_back(simulate_loop(dataset, policy, settings));
      warn_if_untrained(reports.back(), mode, spec, options.checkpoint.empty());
    }
    warn_if_short(reports.back(), settings.chunking);
  }
  return reports;
}

Json reports_json(const std::vector<LoopReport>& reports, const PolicySpec& spec,
                  const SimulateLoopOptions& options) {
  Json out;
  out["checkpoint"] = options.checkpoint.empty() ? Json(nullptr) : Json(options.checkpoint.string());
  out["control_hz"] = *options.control_hz;
  out["execute"] = options.execute;
  out["horizon"] = spec.horizon;
  out["ensemble_decay"] = options.ensemble_decay;
  out["euler_steps"] = options.steps;
  out["seed"] = options.seed;
  out["noise_scale"] = options.noise_scale;
  out["rows"] = Json::array();
  for (const LoopReport& report : reports) out["rows"].push_back(report.json());
  return out;
}

}  // namespace

Json LoopReport::json() const {
  Json out;
  out["mode"] = mode;
  out["latency_ms"] = latency_ms;
  out["delay_ticks"] = delay;
  out["needed_horizon"] = needed;
  out["episodes"] = episodes;
  out["ticks"] = ticks;
  out["reaction_ms"] = optional_json(reaction_ms);
  out["worst_reaction_ms"] = optional_json(worst_reaction_ms);
  out["observation_age_ms"] = optional_json(observation_age_ms);
  out["jerk"] = optional_json(jerk);
  out["discontinuity"] = optional_json(discontinuity);
  out["waiting_ticks"] = waiting_ticks;
  out["idle_ticks"] = idle_ticks;
  out["travel"] = travel;
  out["travel_unit"] = travel_unit;
  out["error"] = optional_json(error);
  return out;
}

std::string loop_table(const std::vector<LoopReport>& reports) {
  const std::string unit = reports.empty() ? "" : reports.front().travel_unit;
  const std::vector<std::string> header = {"mode",
                                           "latency ms",
                                           "delay",
                                           "needs",
                                           "reaction ms",
                                           "worst",
                                           "observation age ms",
                                           "jerk",
                                           "discontinuity",
                                           "idle",
                                           str("travel ", unit),
                                           "error"};
  std::vector<std::vector<std::string>> rows;
  for (const LoopReport& report : reports) {
    if (report.mode == "demonstration") {
      rows.push_back(
          {report.mode, "-", "-", "-", "-", "-", "-", optional_text(report.jerk, 0), "-", "-", "-", "-"});
      continue;
    }
    rows.push_back({report.mode, fixed(report.latency_ms, 0), str(report.delay), str(report.needed),
                    optional_text(report.reaction_ms, 0), optional_text(report.worst_reaction_ms, 0),
                    optional_text(report.observation_age_ms, 0), optional_text(report.jerk, 0),
                    optional_text(report.discontinuity, 4), str(report.idle_ticks), fixed(report.travel, 2),
                    optional_text(report.error, 4)});
  }
  return text_table(header, rows);
}

void run_simulate_loop(const SimulateLoopOptions& given) {
  check_options(given);
  // Pauses are part of real time.
  const Dataset dataset =
      open_dataset({given.data.begin(), given.data.end()}, DataFormat::kAuto, {.drop_noops = false});
  for (const Dataset::Source& source : dataset.sources())
    if (source.file->layout() == DataFormat::kRecording)
      throw UsageError(str(source.file->path().string(),
                           " is a recording: it has an observation per answer, not one per tick; give "
                           "demonstrations"));
  SimulateLoopOptions options = given;
  const std::set<double> rates = dataset.control_rates();
  if (!options.control_hz && rates.size() > 1)
    throw UsageError(str("the demonstrations have different steps per second (", join(rates, ", "),
                         "): give --control-hz, or those of one rate"));
  if (!options.control_hz) options.control_hz = rates.empty() ? 30 : *rates.begin();
  PolicySpec spec;
  EpisodePolicy policy;
  if (options.checkpoint.empty()) {
    spec.robot = robot_of(dataset);
    spec.horizon = options.horizon.value_or(spec.horizon);
    policy = demonstration_policy(dataset, spec.horizon);
  } else {
    auto runner =
        std::make_shared<RunnerPolicy>(dataset,
                                       PolicyRunner::load(options.checkpoint, options.device, options.dtype,
                                                          options.horizon, options.tokenizer),
                                       options);
    spec = runner->spec();
    check_fits(dataset, spec);
    if (repeats_images(dataset))
      log::warning(
          "these demonstrations repeat images (collect_libero_demos.py --render-every): "
          "the policy often sees older ones than a robot would show it");
    policy = [runner](const Dataset::Sample& sample, const RobotActions& prefix) {
      return runner->answer(sample, prefix);
    };
  }
  const std::vector<LoopReport> reports = simulate_all(dataset, policy, spec, options);
  std::cout << loop_table(reports);
  if (!options.json.empty()) write_json(options.json, reports_json(reports, spec, options));
}

}  // namespace shallowpi
