#include "shallowpi/eval/gate.h"

#include <torch/torch.h>

#include <cmath>
#include <iostream>

#include "eval/frames.h"
#include "eval/labelled_path.h"
#include "shallowpi/base/cli.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/log.h"
#include "shallowpi/base/text.h"
#include "shallowpi/distill/setup.h"

namespace shallowpi {
namespace {

using Frames = std::vector<Dataset::Sample>;

/// A limit that nothing can break, or that everything breaks, is a mistake.
void check_limit(const char* option, double value, double low, double high) {
  if (!(value >= low && value <= high))  // NaN neither
    throw UsageError(
        str(option, " ", value, ": must be ", low, std::isinf(high) ? " or more" : str(" to ", high)));
}

void check_limits(const GateLimits& limits) {
  check_limit("--min-cosine", limits.min_cosine_mean, -1, 1);
  check_limit("--min-cosine-worst", limits.min_cosine_worst, -1, 1);
  check_limit("--max-abs", limits.max_abs_mean, 0, INFINITY);
  check_limit("--max-abs-worst", limits.max_abs_worst, 0, INFINITY);
  check_limit("--max-l2", limits.max_l2_mean, 0, INFINITY);
  check_limit("--max-l2-worst", limits.max_l2_worst, 0, INFINITY);
}

void check_options(const GateOptions& options) {
  check_limits(options.limits);
  if (options.batch_size < 1)
    throw UsageError(str("--batch-size ", options.batch_size, ": must be at least 1"));
  const bool eager = options.engine == EngineKind::kEager ||
                     (options.engine == EngineKind::kAuto && !options.device.is_cuda());
  if (eager && options.dtype == torch::kFloat32)
    throw UsageError(
        "float32 with the eager engine is what the gate compares with: give --dtype bfloat16 or --engine "
        "graph");
}

struct Sampled {
  torch::Tensor actions_nhd;  // normalised, float32 [frames, H, A]
  EngineKind engine;          // that ran
};

/// All frames on one path. The policy is gone afterwards: two would not fit many devices.
Sampled sample_all(const GateOptions& options, const CheckpointInfo& info, const SamplePipeline& pipeline,
                   const Frames& frames, torch::Dtype dtype, EngineKind kind) {
  const auto engine = make_engine(load_policy(info, dtype, options.device), options.device, kind);
  std::vector<torch::Tensor> chunks;
  for (const Frames& some : batches_of(frames, options.batch_size)) {
    const TrainingBatch batch = pipeline.make_batch(some);
    chunks.push_back(engine->sample(
        {batch.observation, sampling_noise(batch.actions_bhd, some, options.seed), options.steps}));
  }
  return {torch::cat(chunks), engine->kind()};
}

/// One measure over all frames.
class Measure {
 public:
  Measure(std::string name, bool high_is_good, double mean_limit, double worst_limit)
      : name_(std::move(name)),
        high_is_good_(high_is_good),
        mean_limit_(mean_limit),
        worst_limit_(worst_limit) {}

  /// `values_n` float64 [frames].
  void set(const torch::Tensor& values_n) {
    mean_ = values_n.mean().item<double>();
    // A value that is not a number is the worst of all.
    const torch::Tensor bad_n =
        (high_is_good_ ? -values_n : values_n).nan_to_num(INFINITY, INFINITY, -INFINITY);
    worst_frame_ = bad_n.argmax().item<std::int64_t>();
    worst_ = values_n[worst_frame_].item<double>();
  }

  Json json(const Json& frame_names) const {
    return {{"name", name_},
            {"mean", mean_},
            {"mean_limit", mean_limit_},
            {"worst", worst_},
            {"worst_limit", worst_limit_},
            {"worst_frame", frame_names[static_cast<std::size_t>(worst_frame_)]}};
  }

  void add_failures(const Json& frame_names, Json& failures) const {
    const auto check = [&](const char* which, double value, double limit, const std::string& where) {
      if (high_is_good_ ? value >= limit : value <= limit) return;  // NaN fails
      failures.push_back(str(which, " ", name_, " is ", value, ", ", high_is_good_ ? "below" : "above", " ",
                             limit, " by ", std::abs(value - limit), where));
    };
    check("mean", mean_, mean_limit_, "");
    check("worst", worst_, worst_limit_,
          str(" (", frame_names[static_cast<std::size_t>(worst_frame_)].get<std::string>(), ")"));
  }

 private:
  std::string name_;
  bool high_is_good_;
  double mean_limit_, worst_limit_, mean_ = 0, worst_ = 0;
  std::int64_t worst_frame_ = 0;
};

/// Both [N, H, A]; one row per frame from here on.
std::vector<Measure> compare(const GateLimits& limits, const torch::Tensor& reference_nha,
                             const torch::Tensor& candidate_nha) {
  const torch::Tensor a = reference_nha.flatten(1).to(torch::kFloat64),
                      b = candidate_nha.flatten(1).to(torch::kFloat64);
  const torch::Tensor a_norm = a.norm(2, {1}).clamp_min(1e-12), b_norm = b.norm(2, {1}).clamp_min(1e-12);
  std::vector<Measure> measures{{"action cosine", true, limits.min_cosine_mean, limits.min_cosine_worst},
                                {"largest difference", false, limits.max_abs_mean, limits.max_abs_worst},
                                {"relative L2 difference", false, limits.max_l2_mean, limits.max_l2_worst}};
  measures[0].set((a * b).sum(1) / (a_norm * b_norm));
  measures[1].set((a - b).abs().amax(1));
  measures[2].set((a - b).norm(2, {1}) / a_norm);
  return measures;
}

/// The largest difference of each dim, in robot units.
std::vector<double> robot_differences(const Dataset& dataset, const SamplePipeline& pipeline,
                                      const Frames& frames, const torch::Tensor& reference_nhd,
                                      const torch::Tensor& candidate_nhd) {
  std::vector<double> worst(static_cast<std::size_t>(pipeline.spec().robot.action_dim), 0.0);
  for (std::size_t n = 0; n < frames.size(); ++n) {
    const std::vector<float> state = dataset.state(frames[n]);
    const auto row = static_cast<std::int64_t>(n);
    const RobotActions a = pipeline.to_robot(reference_nhd[row], state),
                       b = pipeline.to_robot(candidate_nhd[row], state);
    for (std::size_t h = 0; h < a.size(); ++h)
      for (std::size_t dim = 0; dim < worst.size(); ++dim) {
        const double difference = std::abs(double(a[h][dim]) - double(b[h][dim]));
        if (!(difference <= worst[dim])) worst[dim] = difference;
      }
  }
  return worst;
}

Json names_of(const Dataset& dataset, const Frames& frames) {
  Json names = Json::array();
  for (const Dataset::Sample& frame : frames) names.push_back(frame_name(dataset, frame));
  return names;
}

std::string number(const Json& value) {
  return value.is_number() ? fixed(value.get<double>(), 5) : "not finite";
}

}  // namespace

Json run_gate_json(const GateOptions& options) {
  check_options(options);
  const CheckpointInfo info =
      read_labelled_checkpoint({"", options.checkpoint}, options.horizon, options.demos.horizon).info;
  const Dataset dataset = open_data(options.demos.data);
  const Frames frames = choose_samples(dataset, options.demos, options.frames);
  const SamplePipeline pipeline = make_pipeline(dataset, info, options.demos.data);
  if (!options.quiet) log::info("sampling ", frames.size(), " chunks in float32, then on the faster path");
  const torch::Tensor reference_nhd =
      sample_all(options, info, pipeline, frames, torch::kFloat32, EngineKind::kEager).actions_nhd;
  const auto [candidate_nhd, engine] =
      sample_all(options, info, pipeline, frames, options.dtype, options.engine);
  if (engine == EngineKind::kEager && options.dtype == torch::kFloat32)
    throw Error(
        "the graph engine failed (see above), and float32 on the eager engine would be compared with itself");
  if (!reference_nhd.isfinite().all().item<bool>())
    throw CorruptError(str(options.checkpoint.string(), ": its actions are not finite in float32 either"));

  const std::int64_t dims = info.spec.robot.action_dim;
  const std::vector<Measure> measures =
      compare(options.limits, reference_nhd.narrow(2, 0, dims), candidate_nhd.narrow(2, 0, dims));
  const Json names = names_of(dataset, frames);
  Json report{{"passed", false},
              {"checkpoint", options.checkpoint.string()},
              {"device", options.device.str()},
              {"dtype", dtype_name(options.dtype)},
              {"engine", enum_name(engine)},
              {"frames", frames.size()},
              {"held_out", options.demos.held_out},
              {"euler_steps", options.steps},
              {"batch_size", options.batch_size},
              {"seed", options.seed},
              {"failures", Json::array()},
              {"measures", Json::array()}};
  for (const Measure& measure : measures) {
    report["measures"].push_back(measure.json(names));
    measure.add_failures(names, report["failures"]);
  }
  report["worst_per_dim_robot_units"] =
      robot_differences(dataset, pipeline, frames, reference_nhd, candidate_nhd);
  report["passed"] = report["failures"].empty();
  return report;
}

std::string gate_text(const Json& report) {
  std::vector<std::vector<std::string>> rows, dims;
  for (const Json& measure : report.at("measures"))
    rows.push_back({measure.at("name").get<std::string>(), number(measure.at("mean")),
                    number(measure.at("mean_limit")), number(measure.at("worst")),
                    number(measure.at("worst_limit")), measure.at("worst_frame").get<std::string>()});
  const Json& worst = report.at("worst_per_dim_robot_units");
  for (std::size_t dim = 0; dim < worst.size(); ++dim) dims.push_back({str(dim), number(worst[dim])});
  std::string text =
      str(report.at("dtype").get<std::string>(), ", engine ", report.at("engine").get<std::string>(),
          ", against float32 eager on ", report.at("frames").dump(), " frames\n\n",
          text_table({"measure", "mean", "limit", "worst", "limit", "worst frame"}, rows), "\n",
          text_table({"action dim", "worst difference (robot units)"}, dims), "\n");
  for (const Json& failure : report.at("failures")) text += str("FAILED: ", failure.get<std::string>(), "\n");
  return text + (report.at("passed").get<bool>() ? "passed\n" : "not passed: stay with float32 eager\n");
}

int run_gate(const GateOptions& options) {
  const Json report = run_gate_json(options);
  std::cout << gate_text(report);
  if (!options.json.empty()) write_json(options.json, report);
  return static_cast<int>(report.at("passed").get<bool>() ? ExitCode::kDone : ExitCode::kFailed);
}

}  // namespace shallowpi
