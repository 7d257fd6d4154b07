#include "shallowpi/eval/offline.h"

#include <algorithm>
#include <iostream>
#include <set>

#include "eval/chunk_page.h"
#include "eval/frame_file.h"
#include "eval/frames.h"
#include "eval/labelled_path.h"
#include "shallowpi/base/cli.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/log.h"
#include "shallowpi/base/status_line.h"
#include "shallowpi/base/text.h"
#include "shallowpi/distill/setup.h"
#include "shallowpi/model/checkpoint.h"
#include "shallowpi/runtime/tensor_file.h"

namespace shallowpi {
namespace {

std::vector<LabelledCheckpoint> read_all(const OfflineOptions& options) {
  std::vector<LabelledCheckpoint> all;
  for (const LabelledPath& path : read_labelled_paths(options.checkpoints, "checkpoints"))
    all.push_back(read_labelled_checkpoint(path, options.horizon, options.demos.horizon));
  return all;
}

LabelledCheckpoint read_teacher(const OfflineOptions& options) {
  return read_labelled_checkpoint({"teacher", options.teacher}, options.horizon, options.demos.horizon);
}

void check_options(const OfflineOptions& options) {
  if (options.checkpoints.empty()) throw UsageError("give at least one --checkpoint DIR");
  if (options.batch.empty() == options.demos.data.files.empty())
    throw UsageError(
        "give either --data FILE... or --held-out CONFIG (demonstrations), or --batch FILE.safetensors "
        "(tensors)");
  if (options.skipped && options.teacher.empty())
    throw UsageError("--skipped needs --teacher DIR, whose layers it takes");
  if (!options.batch.empty() &&
      (options.demos.held_out || options.skipped || !options.per_frame.empty() || !options.plot.empty()))
    throw UsageError("--held-out, --skipped, --per-frame and --plot go with --data, not with --batch");
}

/// A student's losses mean nothing against a teacher that it did not come from.
void warn_of_foreign_teacher(const LabelledCheckpoint& student, const std::string& teacher_fingerprint) {
  if (student.info.teacher_fingerprint.empty() || student.info.teacher_fingerprint == teacher_fingerprint)
    return;
  log::warning(student.label, " was distilled from another teacher (",
               student.info.teacher_fingerprint.substr(0, 12), ") than the one given (",
               teacher_fingerprint.substr(0, 12), ")");
}

MeasuredPolicy load(const LabelledCheckpoint& named, const OfflineOptions& options) {
  return {named.label, load_policy(named.info, options.dtype, options.measure.device),
          named.info.kept_layers};
}

Json losses_json(const BatchLosses& losses) {
  Json out;
  out["loss_task"] = losses.loss_task;
  if (losses.loss_kd) out["loss_kd"] = *losses.loss_kd;
  if (losses.loss_attn) out["loss_attn"] = *losses.loss_attn;
  return out;
}

void run_on_batch(const OfflineOptions& options) {
  const std::vector<LabelledCheckpoint> all = read_all(options);
  Policy teacher{nullptr};
  if (!options.teacher.empty()) teacher = load(read_teacher(options), options).policy;
  Json out;
  for (const LabelledCheckpoint& named : all) {
    const PolicyInputs inputs =
        read_policy_inputs(options.batch, named.info.config).to(options.measure.device);
    if (!inputs.actions_bhd.defined() || !inputs.noise_bhd.defined() || !inputs.time_b.defined())
      throw UsageError(str(options.batch.string(), ": losses need in.actions, in.noise and in.time"));
    MeasuredPolicy student = load(named, options);
    const Json losses =
        losses_json(batch_losses(student, teacher.is_empty() ? nullptr : &teacher, inputs.observation,
                                 inputs.actions_bhd, inputs.noise_bhd, inputs.time_b));
    if (all.size() == 1)
      out = losses;
    else
      out[named.label] = losses;
  }
  std::cout << out.dump(2) << "\n";
  if (!options.out.empty()) write_json(options.out, out);
}

/// Measures all policies of one call and collects their reports.
class Comparison {
 public:
  Comparison(const OfflineOptions& options, const Dataset& dataset, std::vector<Dataset::Sample> samples)
      : options_(options), dataset_(dataset), samples_(std::move(samples)) {}

  void run(const std::vector<LabelledCheckpoint>& all) {
    if (!options_.teacher.empty()) load_teacher(all);
    std::set<std::vector<std::int64_t>> skipped;
    std::optional<PolicyReport> floor;
    for (const LabelledCheckpoint& named : all) {
      const SamplePipeline pipeline = make_pipeline(dataset_, named.info, options_.demos.data);
      const auto& kept = named.info.kept_layers;
      if (!floor) floor = repeat_last_action(dataset_, pipeline, samples_);
      if (teacher_ && named.info.folder == teacher_info_.folder) {
        measure({named.label, teacher_->policy, kept}, nullptr, pipeline);
        continue;
      }
      if (teacher_) warn_of_foreign_teacher(named, teacher_fingerprint_);
      if (options_.skipped && !kept.empty() && skipped.insert(kept).second) measure_skipped(named, pipeline);
      measure(load(named, options_), teacher_ ? &teacher_->policy : nullptr, pipeline);
    }
    if (!floor->frames.empty()) reports_.push_back(std::move(*floor));
  }

  const std::vector<PolicyReport>& reports() const { return reports_; }

 private:
  /// The teacher gets a row of its own where it is not one of the checkpoints anyway.
  void load_teacher(const std::vector<LabelledCheckpoint>& all) {
    const LabelledCheckpoint named = read_teacher(options_);
    const auto is_teacher = [&](const LabelledCheckpoint& other) {
      return other.info.folder == named.info.folder;
    };
    const bool is_listed = std::any_of(all.begin(), all.end(), is_teacher);
    for (const LabelledCheckpoint& other : all) {
      if (!is_teacher(other) && other.label == named.label)
        throw UsageError(str("--checkpoint ", other.info.folder.string(),
                             " is called 'teacher' but is not the one of --teacher: name it, as in before=",
                             other.info.folder.string()));
    }
    require_horizon(named.info);
    teacher_info_ = named.info;
    teacher_fingerprint_ = weights_fingerprint(named.info);
    teacher_ = load(named, options_);
    if (!is_listed) measure(*teacher_, nullptr, make_pipeline(dataset_, named.info, options_.demos.data));
  }

  void measure_skipped(const LabelledCheckpoint& student, const SamplePipeline& pipeline) {
    const std::vector<std::int64_t>& kept = student.info.kept_layers;
    const std::string label = student.label + " before training";
    Policy policy = load_student(teacher_info_, kept, options_.dtype, options_.measure.device);
    measure({label, policy, kept}, &teacher_->policy, pipeline);
  }

  void measure(MeasuredPolicy subject, Policy* teacher, const SamplePipeline& pipeline) {
    MeasureOptions options = options_.measure;
    options.keep_chunks = !options_.plot.empty();
    StatusLine status(options_.quiet);
    options.progress = [&](std::int64_t done, std::int64_t total) {
      status.show(str(subject.label, ": ", done, " of ", total, " frames"));
    };
    reports_.push_back(measure_policy(subject, teacher, dataset_, pipeline, samples_, options));
  }

  const OfflineOptions& options_;
  const Dataset& dataset_;
  std::vector<Dataset::Sample> samples_;
  CheckpointInfo teacher_info_;
  std::string teacher_fingerprint_;
  std::optional<MeasuredPolicy> teacher_;
  std::vector<PolicyReport> reports_;
};

Json comparison_json(const OfflineOptions& options, const std::vector<Dataset::Sample>& samples,
                     const std::vector<PolicyReport>& reports) {
  Json out;
  out["frames"] = samples.size();
  out["held_out"] = options.demos.held_out;
  out["seed"] = options.measure.seed;
  out["noise_scale"] = options.measure.noise_scale;
  out["flow_draws"] = options.measure.draws;
  out["euler_steps"] = options.measure.steps;
  out["threads"] = torch::get_num_threads();
  out["dtype"] = dtype_name(options.dtype);
  out["device"] = options.measure.device.str();
  out["policies"] = Json::array();
  for (const PolicyReport& report : reports) out["policies"].push_back(report.json());
  return out;
}

void run_on_data(const OfflineOptions& options) {
  const std::vector<LabelledCheckpoint> all = read_all(options);
  for (const LabelledCheckpoint& named : all) require_horizon(named.info);  // before any weights are read
  const Dataset dataset = open_data(options.demos.data);
  const std::vector<Dataset::Sample> samples = choose_samples(dataset, options.demos, options.frames);
  Comparison comparison(options, dataset, samples);
  comparison.run(all);
  std::cout << comparison_table(comparison.reports());
  if (!options.out.empty()) write_json(options.out, comparison_json(options, samples, comparison.reports()));
  if (!options.per_frame.empty())
    write_file_atomically(options.per_frame,
                          frame_file(dataset, comparison.reports(), options.per_frame.extension() == ".csv"));
  if (!options.plot.empty()) write_file_atomically(options.plot, chunk_page(dataset, comparison.reports()));
}

}  // namespace

void run_offline(const OfflineOptions& options) {
  check_options(options);
  if (options.batch.empty())
    run_on_data(options);
  else
    run_on_batch(options);
}

}  // namespace shallowpi
