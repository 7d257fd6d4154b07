#include "shallowpi/distill/run.h"

#include <c10/util/Exception.h>
#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <memory>
#include <new>
#include <numeric>
#include <utility>

#include "distill/plan.h"
#include "distill/trainer.h"
#include "shallowpi/base/cli.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/log.h"
#include "shallowpi/base/memory.h"
#include "shallowpi/base/problems.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace fs = std::filesystem;
namespace {

// `instead`: what to do where the values shall stay as they are now.
void check_same_config(const fs::path& old_config, const ResolvedConfig& resolved, const std::string& whose,
                       const std::string& instead) {
  // Loaded, so that keys which the program that wrote it did not have get their defaults.
  const auto differences = config_differences(load_distill_config(old_config, {}, ConfigUse::kAny), resolved);
  if (!differences.empty())
    throw UsageError(str(whose, " was made with another configuration; set these back, or ", instead, ":\n  ",
                         join(differences, "\n  ")));
}

StartPoint start_point(const fs::path& checkpoint, bool is_own) {
  return {checkpoint, read_training_state(checkpoint / kTrainingState), is_own};
}

// The checkpoint that --resume DIR means: DIR itself, or the newest valid one of the run DIR.
fs::path given_checkpoint(const fs::path& folder) {
  const std::string name = folder.string();
  if (!fs::is_directory(folder)) throw UsageError(str("--resume: ", name, " is not a folder"));
  if (fs::is_directory(folder / kCheckpoints)) {
    const auto newest = newest_valid_checkpoint(folder);
    if (!newest) throw UsageError(str("--resume: ", name, " has no checkpoint that can be resumed"));
    return newest->folder;
  }
  if (!fs::exists(folder / kTrainingState))
    throw UsageError(str("--resume: ", name, " is not a training checkpoint, as it has no training_state; ",
                         "to start from its weights, set student.checkpoint=", name));
  verify_manifest(folder);
  return folder;
}

// What lies in a folder that is not a run's, hidden files apart.
std::vector<std::string> other_files(const fs::path& folder) {
  if (!fs::is_directory(folder) || is_dump(folder / kConfigFile) || !run_checkpoints(folder).empty())
    return {};
  // Of a disk of its own, and of a run that was killed before it had written anything.
  const auto is_nothing = [](const fs::path& path) {
    const std::string name = path.filename();
    return name.starts_with('.') || name == "lost+found" || is_temporary(path) ||
           (name == kCheckpoints && fs::is_empty(path));
  };
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder))
    if (!is_nothing(entry.path())) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

// Can the run's folder be made, or written to where it is there?
void check_output_dir(const fs::path& run_folder) {
  const fs::path existing = nearest_existing(run_folder);
  if (!fs::is_directory(existing))
    throw UsageError(str("output_dir: ", existing.string(), " is a file; name a folder"));
  if (::access(existing.c_str(), W_OK | X_OK) != 0)
    throw UsageError(str("output_dir: ", existing.string(), " cannot be written to; name another folder"));
  constexpr std::size_t kShown = 3;
  std::vector<std::string> others = other_files(run_folder);
  if (others.empty()) return;
  if (others.size() > kShown) others[kShown] = "...";
  others.resize(std::min(others.size(), kShown + 1));
  throw UsageError(str("output_dir: ", run_folder.string(), " is not the folder of a run, but holds ",
                       join(others, ", "), "; name a new or an empty folder"));
}

// Where no number is given, several devices on a CPU divide its cores.
void divide_threads(const TrainingSetup& setup) {
  const auto devices = static_cast<int>(setup.devices.size());
  if (setup.config().threads == 0 && setup.devices.front().is_cpu())
    torch::set_num_threads(std::max(1, torch::get_num_threads() / devices));
}

StartPoint choose_start(const ResolvedConfig& resolved, const std::string& resume) {
  const fs::path run_folder = resolved.config.output_dir;
  check_output_dir(run_folder);
  const bool has_checkpoints = !run_checkpoints(run_folder).empty();
  if (resume == "never") {
    if (has_checkpoints)
      throw UsageError(str(run_folder.string(),
                           " holds checkpoints of a run; choose another output_dir, remove the "
                           "folder, or go on with --resume auto"));
    return {};
  }
  if (has_checkpoints) {
    const auto newest = newest_valid_checkpoint(run_folder);
    if (!newest)
      throw CorruptError(
          str("none of the checkpoints in ", run_folder.string(), " is intact; choose another output_dir"));
    // Not with the run's own copy, which may have been edited and be what `resolved` was read from.
    check_same_config(newest->folder / kTrainingState / kConfigFile, resolved, run_folder.string(),
                      "choose another output_dir");
    if (resume != "auto")
      log::warning("--resume ", resume, " is not used: ", run_folder.string(), " has checkpoints of its own");
    return start_point(newest->folder, true);
  }
  if (resume == "auto") return {};
  const fs::path given = given_checkpoint(resume);
  check_same_config(
      given / kTrainingState / kConfigFile, resolved, given.string(),
      str("start from its weights with student.checkpoint=", given.string(), " instead of --resume"));
  return start_point(given, false);
}

// A run goes on with its log, as it was when the checkpoint was taken.
void require_metrics(const fs::path& metrics, const StartPoint& start) {
  const std::uint64_t bytes = start.state.metrics_bytes;
  if (bytes == 0 || (fs::exists(metrics) && fs::file_size(metrics) >= bytes)) return;
  throw UsageError(str(metrics.string(), " is missing, or shorter than when ", start.checkpoint.string(),
                       " was written; copy it from where the run was, or begin a new run with its weights: "
                       "student.checkpoint=",
                       start.checkpoint.string(), " and another output_dir"));
}

// The metrics of the run that the checkpoint lies in, up to its step: who goes on from there adopts them.
std::string metrics_until(const StartPoint& start) {
  // Canonical, because RUN/last is a link and a completed path ends with a slash.
  const fs::path metrics = fs::canonical(start.checkpoint).parent_path().parent_path() / kMetricsFile;
  require_metrics(metrics, start);
  if (!fs::exists(metrics)) return "";
  return read_file(metrics).substr(0, start.state.metrics_bytes);
}

// Where a run would go on; nothing where it would begin.
std::string start_text(const StartPoint& start, std::int64_t steps) {
  if (start.checkpoint.empty()) return "";
  const std::string after = str(" after ", start.state.step, " steps\n");
  if (start.state.step >= steps) return str("\nnothing to do: the run is complete", after);
  return str("\ngoes on from ", start.checkpoint.string(), after);
}

// The best checkpoint is chosen among the steps that are both evaluated and saved; the last step always is.
void warn_of_a_rare_best(const TrainConfig& train) {
  const std::int64_t rarer = std::max(train.eval_every, train.save_every);
  if (!train.keep_best || train.eval_every == 0 || rarer >= train.steps) return;
  const std::int64_t both = std::lcm(train.eval_every, train.save_every);
  if (both != rarer)
    log::warning("train.keep_best chooses among steps that are evaluated and saved, with train.eval_every ",
                 train.eval_every, " and train.save_every ", train.save_every, " only every ", both,
                 " steps and the last; make one a multiple of the other");
}

// Legal settings that are rarely meant.
void warn_of_settings(const ResolvedConfig& resolved) {
  const DistillConfig& config = resolved.config;
  warn_of_a_rare_best(config.train);
  const TrainConfig& train = config.train;
  if (resolved.is_set("train.keep_every") && train.keep_every % train.save_every != 0)
    log::warning("of the steps that train.keep_every ", train.keep_every, " keeps, train.save_every ",
                 train.save_every, " saves only every ", std::lcm(train.keep_every, train.save_every),
                 "th; make one a multiple of the other");
  const OptimizerConfig& optimizer = config.optimizer;
  if (optimizer.warmup_steps > 0 && optimizer.warmup_steps >= config.train.steps)
    log::warning("the learning rate rises for optimizer.warmup_steps ", optimizer.warmup_steps,
                 " steps, and the run ends after ", config.train.steps,
                 "; for a shorter run lower optimizer.warmup_steps and optimizer.decay_steps too");
  // The average begins with the weights that the run starts from.
  constexpr double kMuch = 0.05;
  const double untrained = std::pow(optimizer.ema_decay, static_cast<double>(train.steps));
  if (untrained > kMuch)
    log::warning("after train.steps ", train.steps, " the averaged weights, which are saved, are still ",
                 fixed(100 * untrained, 0), " % those that the run starts from (optimizer.ema_decay ",
                 optimizer.ema_decay, "); for a shorter run lower optimizer.ema_decay, or set it to 0");
  if (config.device == "auto" && !torch::cuda::is_available() && fs::exists("/dev/nvidiactl"))
    log::warning(
        "device: auto trains on the CPU although this machine has an NVIDIA GPU: either this program is "
        "built for CPUs (scripts/build.sh --cuda builds the other), or it finds no driver that fits, or "
        "CUDA_VISIBLE_DEVICES hides the GPU");
}

// Little memory is only warned of; too little disk fails before the first step rather than at the first
// checkpoint. A dry run may be for another machine, so there it is a warning too.
void check_room(const TrainingPlan& plan, const DistillConfig& config, bool dry_run) {
  if (plan.machine_bytes > 0 && plan.peak_bytes() > plan.machine_bytes)
    log::warning(
        "the run will take ", human_bytes(plan.peak_bytes()), " of memory, but ",
        plan.on_gpu ? "the GPU" : "this machine", " has ", human_bytes(plan.machine_bytes), "; ",
        plan.peak_bytes() - plan.activation_bytes < plan.machine_bytes
            ? "raise train.accumulate or set train.activation_checkpointing"
            : str("train less of the policy (optimizer.freeze, optimizer.ema_decay=0; docs/training.md has "
                  "plans for 24 GB)",
                  plan.on_gpu ? " or take more GPUs" : ""));
  const std::uint64_t host = plan.host_bytes + plan.base_bytes, host_total = total_memory(torch::kCPU);
  if (plan.on_gpu && host_total > 0 && host > host_total)
    log::warning("the run will take ", human_bytes(host),
                 " of main memory while it saves, but this machine, or "
                 "its share for this job, has ",
                 human_bytes(host_total), "; give it more (Slurm: --mem)");
  if (plan.on_gpu && !dry_run && plan.peak_bytes() > plan.free_bytes &&
      plan.peak_bytes() <= plan.machine_bytes)
    log::warning("the run will take ", human_bytes(plan.peak_bytes()),
                 " of the GPU's memory, but others leave ", human_bytes(plan.free_bytes),
                 " of it; choose another one (device=cuda:1), or wait");
  const std::uint64_t available = plan.free_disk_bytes;
  if (available < plan.checkpoint_bytes) {
    const std::string problem = str("output_dir: ", config.output_dir, " has ", human_bytes(available),
                                    " left, but one checkpoint takes ", human_bytes(plan.checkpoint_bytes));
    if (!dry_run) throw UsageError(problem);
    log::warning(problem);
    return;
  }
  const std::uint64_t there = run_checkpoints(config.output_dir).size();
  const std::uint64_t wanted =
      plan.checkpoint_bytes * (plan.most_checkpoints - std::min(plan.most_checkpoints, there));
  if (available < wanted)
    log::warning("output_dir has ", human_bytes(available),
                 " left; with train.keep_last, train.keep_every, best and the one being written, checkpoints "
                 "may take ",
                 human_bytes(wanted), there > 0 ? " more" : "");
}

int dry_run(const ResolvedConfig& resolved, const std::string& resume) {
  Problems problems;
  StartPoint start;
  TrainingSetup setup;
  problems.attempt([&] { start = choose_start(resolved, resume); });
  problems.attempt([&] { setup = prepare_training(resolved); });
  problems.attempt([&] { verify_given(setup); });
  problems.throw_all("problems");
  if (!start.checkpoint.empty() && start.state.step < resolved.config.train.steps)
    check_same_inputs(start, setup, read_run_inputs(setup));
  const TrainingPlan plan = plan_training(setup);
  std::cout << plan_text(setup, plan) << start_text(start, resolved.config.train.steps);
  check_room(plan, resolved.config, true);
  return static_cast<int>(ExitCode::kDone);
}

// Where memory runs out on the host, of whatever allocates, says what helps.
void train(Trainer& trainer, const StopSignal& stop) {
  constexpr const char* kAdvice =
      "out of memory; lower data.prefetch or raise train.accumulate, with either of which the run goes on, "
      "or "
      "begin another one with a smaller train.batch_size";
  try {
    trainer.run(stop);
  } catch (const c10::OutOfMemoryError& error) {
    throw Error(
        str("out of GPU memory; raise train.accumulate or set train.activation_checkpointing, with either of "
            "which the run goes on (",
            error.what_without_backtrace(), ")"));
  } catch (const c10::Error& error) {
    const std::string reason = error.what_without_backtrace();
    if (reason.find("DefaultCPUAllocator") == std::string::npos) throw;
    throw Error(str(kAdvice, " (", reason, ")"));
  } catch (const std::bad_alloc&) {
    throw Error(kAdvice);
  }
}

}  // namespace

void check_place_of_run(const fs::path& config, const fs::path& output_dir) {
  const fs::path folder = fs::absolute(config).parent_path();
  std::error_code missing;
  if (config.filename() != kConfigFile || !fs::is_directory(folder / kCheckpoints, missing) ||
      fs::equivalent(folder, output_dir, missing))
    return;
  throw UsageError(str(config.string(), " is the configuration of the run in ", folder.string(),
                       ", but says output_dir: ", output_dir.string(), "; give output_dir=", folder.string(),
                       " to go on with that run, or another one for a new run"));
}

int run_distill(const ResolvedConfig& resolved, const DistillRun& run) {
  const DistillConfig& config = resolved.config;
  if (config.threads > 0) torch::set_num_threads(static_cast<int>(config.threads));
  warn_of_settings(resolved);
  if (run.dry_run) return dry_run(resolved, run.resume);
  const StopSignal stop;
  const fs::path path = config.output_dir;
  // A run folder is locked before anything slow; a new one is made only when everything is known to fit.
  std::unique_ptr<RunFolder> folder;
  if (is_dump(path / kConfigFile) || !run_checkpoints(path).empty())
    folder = std::make_unique<RunFolder>(path);
  const StartPoint start = choose_start(resolved, run.resume);
  const bool is_adopted = !start.is_own && !start.checkpoint.empty();
  const std::string adopted_metrics = is_adopted ? metrics_until(start) : "";
  if (start.is_own) {
    require_metrics(path / kMetricsFile, start);
    if (start.state.step >= config.train.steps) {
      folder->settle(start.state.step, start.state.best_step, config.train);
      log::info("nothing to do: ", path.string(), " is complete after ", start.state.step, " steps");
      return static_cast<int>(ExitCode::kDone);
    }
  }
  TrainingSetup setup = prepare_training(resolved);
  divide_threads(setup);
  const TrainingPlan plan = plan_training(setup);
  check_room(plan, config, false);
  log::info("training ", human_count(static_cast<std::uint64_t>(plan.trained)), " parameters on ",
            join(setup.devices, ", "), " in ", dtype_name(setup.dtype), ", ", config.train.steps,
            " steps of ", config.train.batch_size);
  verify_given(setup);  // before damage could pass for other weights
  RunInputs inputs = read_run_inputs(setup);
  if (!start.checkpoint.empty()) check_same_inputs(start, setup, inputs);
  if (start.is_own) folder->settle(start.state.step, start.state.best_step, config.train);
  setup.resolved = with_absolute_paths(resolved);  // of what is saved; messages name paths as they were given
  const std::vector<TrainingModels> models = load_models(setup);
  if (!folder) folder = std::make_unique<RunFolder>(path);
  if (!start.is_own && !run_checkpoints(path).empty())
    throw UsageError(
        str("output_dir: another process has trained in ", path.string(), " meanwhile; run again to go on"));
  write_file_atomically(path / kConfigFile, dump_config(setup.resolved));
  if (is_adopted) write_file_atomically(path / kMetricsFile, adopted_metrics);
  Trainer trainer(std::move(setup), models, std::move(inputs), *folder, start, run.quiet);
  train(trainer, stop);
  if (const std::int64_t skipped = trainer.state().guard.skipped; skipped > 0)
    log::warning(skipped, " of ", trainer.state().step, " steps were skipped");
  if (trainer.state().step >= config.train.steps) {
    log::info("done: ", (path / "last").string());
    return static_cast<int>(ExitCode::kDone);
  }
  log::warning("stopped by a signal after step ", trainer.state().step, "; run again to go on");
  return stop.exit_code();
}

void run_init_only(const ResolvedConfig& resolved, const fs::path& out) {
  const PolicySpec& policy = resolved.config.policy;
  const auto horizon = resolved.is_set("policy.horizon") ? std::optional(policy.horizon) : std::nullopt;
  CheckpointInfo teacher = read_checkpoint_info(resolved.config.teacher.checkpoint, horizon);
  if (!teacher.horizon_known)
    log::warning(unknown_horizon(teacher), "; the student gets ", teacher.spec.horizon,
                 ": set policy.horizon if that is wrong");
  log_warnings(teacher);
  teacher.spec = student_spec(resolved, teacher.spec, teacher.config);
  const DataConfig& data = resolved.config.data;
  if (auto given = given_stats(data)) teacher.stats = std::move(given);
  if (!data.tokenizer.empty()) teacher.tokenizer = find_tokenizer(data.tokenizer, {});
  verify_files(teacher, OptionalFiles::kUnchecked);
  init_student(teacher, chosen_layers(resolved.config.student, teacher.config.depth()), out);
}

}  // namespace shallowpi
