#include "shallowpi/eval/measure.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "eval/frames.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/stopwatch.h"
#include "shallowpi/base/text.h"
#include "shallowpi/distill/flow.h"
#include "shallowpi/distill/losses.h"

namespace shallowpi {
namespace {

/// The teacher layer that the student's layer floor(L / 2) was copied from; nothing where that is not known.
std::optional<std::int64_t> matching_teacher_layer(MeasuredPolicy& student, Policy& teacher) {
  const std::int64_t depth = student.policy->config().depth();
  if (!student.kept_layers.empty()) {
    const std::int64_t layer = student.kept_layers.at(static_cast<std::size_t>(depth / 2));
    if (layer < teacher->config().depth()) return layer;
  }
  if (student.kept_layers.empty() && depth == teacher->config().depth()) return depth / 2;
  return std::nullopt;
}

/// One forward pass at given flow draws, with the attention of one layer.
struct FlowPass {
  torch::Tensor velocity_bhd;
  AttentionTap tap;
  PrefixCache cache;
};
FlowPass run_flow(Policy& policy, const Observation& observation, const FlowDraw& draw, std::int64_t layer) {
  FlowPass pass;
  pass.tap.layer = layer;
  pass.cache = policy->encode(observation);
  pass.velocity_bhd = policy->velocity(pass.cache, observation.state_bd, draw.x_t, draw.t, &pass.tap);
  return pass;
}

/// The part of a tap that belongs to sample `b` of `batch`.
AttentionTap tap_of_sample(const AttentionTap& tap, std::int64_t b, std::int64_t batch) {
  const std::int64_t draws = tap.action_queries_bnhk.size(0) / batch;
  AttentionTap one;
  one.layer = tap.layer;
  one.action_queries_bnhk = tap.action_queries_bnhk.narrow(0, b * draws, draws);
  one.prefix_keys_bpk = tap.prefix_keys_bpk.narrow(0, b, 1);
  one.mask_bp = tap.mask_bp.narrow(0, b, 1);
  return one;
}

/// Mean of a [B*R, H, D] tensor over the rows of each sample: [B].
torch::Tensor mean_per_sample(const torch::Tensor& values, std::int64_t batch) {
  return values.reshape({batch, -1}).mean(1).to(torch::kCPU, torch::kFloat64);
}

/// Mean absolute error per dim over the steps of two chunks.
std::vector<double> error_per_dim(const RobotActions& a, const RobotActions& b) {
  std::vector<double> error(a.at(0).size(), 0.0);
  for (std::size_t h = 0; h < a.size(); ++h)
    for (std::size_t d = 0; d < error.size(); ++d)
      error[d] += std::abs(static_cast<double>(a[h][d]) - b.at(h).at(d));
  for (double& value : error) value /= static_cast<double>(a.size());
  return error;
}

double mean_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

void add_to(std::vector<double>& sums, const std::vector<double>& values) {
  sums.resize(values.size(), 0.0);
  for (std::size_t i = 0; i < values.size(); ++i) sums[i] += values[i];
}

/// Runs one policy over frames, batch by batch.
class Measurement {
 public:
  Measurement(MeasuredPolicy& subject, Policy* teacher, const Dataset& dataset,
              const SamplePipeline& pipeline, const MeasureOptions& options)
      : subject_(subject), teacher_(teacher), dataset_(dataset), pipeline_(pipeline), options_(options) {
    if (teacher_ != nullptr) teacher_layer_ = matching_teacher_layer(subject_, *teacher_);
  }

  void measure_batch(const std::vector<Dataset::Sample>& frames) {
    const TrainingBatch batch = pipeline_.make_batch(frames);
    const Observation observation = batch.observation.to(options_.device);
    const FlowDraw draw = draw_for_frames(batch.actions_bhd, frames, options_);
    const std::size_t first = reports_.size();
    for (const auto& frame : frames) reports_.emplace_back().sample = frame;
    const FlowPass pass = run_flow(subject_.policy, observation, draw, subject_.policy->config().depth() / 2);
    velocity_errors(pass, draw, first);
    if (teacher_ != nullptr) compare_with_teacher(pass, observation, draw, first);
    const torch::Tensor noise_bhd =
        (sampling_noise(batch.actions_bhd, frames, options_.seed) * options_.noise_scale).to(options_.device);
    const torch::Tensor sampled_bhd =
        subject_.policy->sample_actions(pass.cache, observation.state_bd, noise_bhd, options_.steps)
            .to(torch::kCPU);
    action_errors(sampled_bhd, batch.actions_bhd, first);
    check_finite(first);
  }

  /// Milliseconds from one observation to one chunk, repeated after a warm-up.
  std::vector<double> latencies(const Dataset::Sample& sample) {
    const TrainingBatch batch = pipeline_.make_batch({sample});
    const Observation observation = batch.observation.to(options_.device);
    const torch::Tensor noise_bhd =
        sampling_noise(batch.actions_bhd, {sample}, options_.seed).to(options_.device);
    std::vector<double> milliseconds;
    for (std::int64_t i = 0; i <= options_.latency_repetitions; ++i) {
      const Stopwatch watch;
      subject_.policy->sample_actions(observation, noise_bhd, options_.steps)
          .to(torch::kCPU);  // waits for the device
      if (i > 0) milliseconds.push_back(watch.milliseconds());
    }
    std::sort(milliseconds.begin(), milliseconds.end());
    return milliseconds;
  }

  std::vector<FrameReport>& reports() { return reports_; }
  const std::vector<double>& robot_error_sums() const { return robot_error_sums_; }

 private:
  std::int64_t batch_size(std::size_t first) const {
    return static_cast<std::int64_t>(reports_.size() - first);
  }
  std::int64_t real_dims() const { return pipeline_.spec().robot.action_dim; }

  /// No mean over frames means anything with one of these.
  void check_finite(std::size_t first) const {
    const auto bad = [](const std::optional<double>& value) { return value && !std::isfinite(*value); };
    for (std::size_t i = first; i < reports_.size(); ++i) {
      const FrameReport& report = reports_[i];
      const bool own = bad(report.loss_task) || bad(report.velocity_error) || bad(report.action_error) ||
                       bad(report.action_error_robot);
      if (own || bad(report.loss_kd) || bad(report.velocity_error_teacher) || bad(report.loss_attn))
        throw CorruptError(str(own ? subject_.label : "the teacher", ": its outputs are not finite (",
                               frame_name(dataset_, report.sample), ")"));
    }
  }

  void velocity_errors(const FlowPass& pass, const FlowDraw& draw, std::size_t first) {
    const torch::Tensor squared = (pass.velocity_bhd - draw.target).square();
    const torch::Tensor padded = mean_per_sample(squared, batch_size(first));
    const torch::Tensor real = mean_per_sample(squared.narrow(2, 0, real_dims()), batch_size(first));
    for (std::int64_t b = 0; b < batch_size(first); ++b) {
      reports_[first + b].loss_task = padded[b].item<double>();
      reports_[first + b].velocity_error = real[b].item<double>();
    }
  }

  void compare_with_teacher(const FlowPass& pass, const Observation& observation, const FlowDraw& draw,
                            std::size_t first) {
    const FlowPass teacher = run_flow(*teacher_, observation, draw, teacher_layer_.value_or(0));
    const torch::Tensor squared = (pass.velocity_bhd - teacher.velocity_bhd).square();
    const std::int64_t batch = batch_size(first);
    const torch::Tensor padded = mean_per_sample(squared, batch);
    const torch::Tensor real = mean_per_sample(squared.narrow(2, 0, real_dims()), batch);
    for (std::int64_t b = 0; b < batch; ++b) {
      FrameReport& report = reports_[first + b];
      report.loss_kd = padded[b].item<double>();
      report.velocity_error_teacher = real[b].item<double>();
      if (teacher_layer_)
        report.loss_attn =
            attention_loss(tap_of_sample(teacher.tap, b, batch), tap_of_sample(pass.tap, b, batch))
                .mean()
                .item<double>();
    }
  }

  void action_errors(const torch::Tensor& sampled_bhd, const torch::Tensor& actions_bhd, std::size_t first) {
    const torch::Tensor error = (sampled_bhd - actions_bhd).abs().narrow(2, 0, real_dims());
    const torch::Tensor mean = mean_per_sample(error, batch_size(first));
    for (std::int64_t b = 0; b < batch_size(first); ++b) {
      FrameReport& report = reports_[first + b];
      report.action_error = mean[b].item<double>();
      RobotActions sampled = pipeline_.to_robot(sampled_bhd[b], dataset_.state(report.sample));
      const std::vector<double> robot =
          error_per_dim(sampled, dataset_.chunk(report.sample, sampled_bhd.size(1)));
      report.action_error_robot = mean_of(robot);
      add_to(robot_error_sums_, robot);
      if (options_.keep_chunks) report.chunk = std::move(sampled);
    }
  }

  MeasuredPolicy& subject_;
  Policy* teacher_;
  const Dataset& dataset_;
  const SamplePipeline& pipeline_;
  const MeasureOptions& options_;
  std::optional<std::int64_t> teacher_layer_;
  std::vector<FrameReport> reports_;
  std::vector<double> robot_error_sums_;
};

/// Mean of a member over the frames that have it.
template <typename Member>
std::optional<double> mean_over(const std::vector<FrameReport>& frames, Member member) {
  double sum = 0;
  std::size_t count = 0;
  for (const FrameReport& frame : frames)
    if (const std::optional<double> value = frame.*member) {
      sum += *value;
      ++count;
    }
  if (count == 0) return std::nullopt;
  return sum / static_cast<double>(count);
}

void summarise(PolicyReport& report, std::vector<double> robot_error_sums) {
  const auto& frames = report.frames;
  report.action_error = mean_over(frames, &FrameReport::action_error);
  report.action_error_robot = mean_over(frames, &FrameReport::action_error_robot);
  for (double& value : robot_error_sums) value /= static_cast<double>(frames.size());
  report.action_error_robot_per_dim = std::move(robot_error_sums);
}

void describe_policy(const MeasuredPolicy& subject, PolicyReport& report) {
  report.layers = subject.policy->config().depth();
  for (const auto& [name, tensor] : subject.policy->named_tensors(false)) {
    report.parameters += tensor.numel();
    report.weight_bytes += static_cast<std::uint64_t>(tensor.nbytes());
  }
}

}  // namespace

BatchLosses batch_losses(MeasuredPolicy& student, Policy* teacher, const Observation& observation,
                         const torch::Tensor& actions_bhd, const torch::Tensor& noise_bhd,
                         const torch::Tensor& time_b) {
  torch::InferenceMode guard;
  const FlowDraw draw = make_flow(actions_bhd, noise_bhd, time_b);
  const std::int64_t dims = actions_bhd.size(2);
  const FlowPass pass = run_flow(student.policy, observation, draw, student.policy->config().depth() / 2);
  BatchLosses losses;
  losses.loss_task = velocity_loss(pass.velocity_bhd, draw.target, dims).mean().item<double>();
  if (!std::isfinite(losses.loss_task)) throw CorruptError(student.label + ": its outputs are not finite");
  if (teacher == nullptr) return losses;
  const std::optional<std::int64_t> layer = matching_teacher_layer(student, *teacher);
  if (!layer)
    throw UsageError(str(
        student.label, " has ", student.policy->config().depth(), " layers, its teacher ",
        (*teacher)->config().depth(),
        student.kept_layers.empty()
            ? ", and the folder does not say which ones it kept (kept_layers in shallowpi.json): there is no "
              "attention loss without that"
            : str(", but it kept ", join(student.kept_layers, ", "), ": it came from another teacher")));
  const FlowPass reference = run_flow(*teacher, observation, draw, *layer);
  losses.loss_kd = velocity_loss(pass.velocity_bhd, reference.velocity_bhd, dims).mean().item<double>();
  losses.loss_attn = attention_loss(reference.tap, pass.tap).mean().item<double>();
  if (!std::isfinite(*losses.loss_kd) || !std::isfinite(*losses.loss_attn))
    throw CorruptError("the teacher: its outputs are not finite");
  return losses;
}

PolicyReport measure_policy(MeasuredPolicy& subject, Policy* teacher, const Dataset& dataset,
                            const SamplePipeline& pipeline, const std::vector<Dataset::Sample>& samples,
                            const MeasureOptions& options) {
  if (samples.empty()) throw UsageError("there is no frame to measure on");
  if (options.draws < 1 || options.steps < 1 || options.batch_size < 1)
    throw UsageError("flow draws, Euler steps and batch size must be at least 1");
  torch::InferenceMode guard;
  Measurement measurement(subject, teacher, dataset, pipeline, options);
  std::int64_t done = 0;
  for (const std::vector<Dataset::Sample>& frames : batches_of(samples, options.batch_size)) {
    measurement.measure_batch(frames);
    done += static_cast<std::int64_t>(frames.size());
    if (options.progress) options.progress(done, static_cast<std::int64_t>(samples.size()));
  }
  PolicyReport report;
  report.label = subject.label;
  describe_policy(subject, report);
  report.frames = std::move(measurement.reports());
  summarise(report, measurement.robot_error_sums());
  const auto& frames = report.frames;
  report.loss_task = mean_over(frames, &FrameReport::loss_task);
  report.velocity_error = mean_over(frames, &FrameReport::velocity_error);
  report.loss_kd = mean_over(frames, &FrameReport::loss_kd);
  report.velocity_error_teacher = mean_over(frames, &FrameReport::velocity_error_teacher);
  report.loss_attn = mean_over(frames, &FrameReport::loss_attn);
  if (const auto times = measurement.latencies(samples.front()); !times.empty()) {
    report.latency_ms = times[times.size() / 2];
    report.latency_min_ms = times.front();
  }
  return report;
}

PolicyReport repeat_last_action(const Dataset& dataset, const SamplePipeline& pipeline,
                                const std::vector<Dataset::Sample>& samples) {
  PolicyReport report;
  report.label = "repeat last action";
  std::vector<double> robot_error_sums;
  const std::int64_t horizon = pipeline.spec().horizon;
  for (const Dataset::Sample& sample : samples) {
    if (sample.step == 0) continue;  // nothing was executed before it
    const RobotActions& actions = dataset.file(sample).actions(sample.episode);
    const RobotActions repeated(static_cast<std::size_t>(horizon),
                                actions[static_cast<std::size_t>(sample.step) - 1]);
    const RobotActions truth = dataset.chunk(sample, horizon);
    const std::vector<float> state = dataset.state(sample);
    const std::vector<double> robot = error_per_dim(repeated, truth);
    FrameReport frame;
    frame.sample = sample;
    const auto normalised = [&](const RobotActions& chunk) {
      return policy_actions(pipeline.spec(), pipeline.stats().actions, chunk, state);
    };
    frame.action_error = mean_of(error_per_dim(normalised(repeated), normalised(truth)));
    frame.action_error_robot = mean_of(robot);
    add_to(robot_error_sums, robot);
    report.frames.push_back(frame);
  }
  summarise(report, std::move(robot_error_sums));
  return report;
}

}  // namespace shallowpi
