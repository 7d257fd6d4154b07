// Open-loop measurements of a policy on demonstrations, with fixed noise and flow times: every number is a
// function of the frame, the policy and the seed, not of the batch size.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "shallowpi/base/json.h"
#include "shallowpi/data/pipeline.h"
#include "shallowpi/model/policy.h"

namespace shallowpi {

/// A policy under measurement.
struct MeasuredPolicy {
  std::string label;
  Policy policy{nullptr};
  std::vector<std::int64_t> kept_layers;  ///< teacher layers of a student; empty: those of the same number
};

struct MeasureOptions {
  std::int64_t steps = kEulerSteps;
  double noise_scale = 1;                ///< times the noise that sampling starts from
  std::int64_t draws = 4;                ///< flow draws (noise, t) per frame
  std::int64_t batch_size = 8;           ///< frames per forward pass
  std::int64_t latency_repetitions = 5;  ///< 0: latency is not measured
  bool keep_chunks = false;              ///< in the reports of frames
  std::uint64_t seed = 42;
  torch::Device device = torch::kCPU;
  std::function<void(std::int64_t done, std::int64_t total)> progress;  ///< may be empty
};

/// The numbers of one frame, each a mean over flow draws, action steps and dims.
struct FrameReport {
  Dataset::Sample sample;
  double loss_task = 0;       ///< squared velocity error against the demonstration, all padded dims
  double velocity_error = 0;  ///< the same over the robot's real dims
  /// Squared velocity difference to the teacher: all dims, real dims.
  std::optional<double> loss_kd, velocity_error_teacher;
  std::optional<double> loss_attn;  ///< KL(teacher || student) of the middle layer's attention
  double action_error = 0;          ///< mean absolute error of the sampled chunk, normalised, real dims
  double action_error_robot = 0;    ///< the same in the robot's units
  RobotActions chunk;               ///< what was sampled, [H][A], robot units; empty unless keep_chunks
};

/// Means over all frames, and what the policy costs.
struct PolicyReport {
  std::string label;
  std::int64_t layers = 0, parameters = 0;  ///< live parameters
  std::uint64_t weight_bytes = 0;           ///< of the live parameters as they are held
  std::optional<double> loss_task, velocity_error, loss_kd, velocity_error_teacher, loss_attn;
  std::optional<double> action_error, action_error_robot;
  std::vector<double> action_error_robot_per_dim;
  /// From one observation to one chunk, encode included: median and minimum.
  std::optional<double> latency_ms, latency_min_ms;
  std::vector<FrameReport> frames;
  Json json() const;  ///< without `frames`
};

/// The distillation losses of one batch at given draws.
struct BatchLosses {
  double loss_task = 0;
  std::optional<double> loss_kd, loss_attn;
};

/// L_task, and with a teacher L_kd and L_attn (student layer floor(L / 2) against the teacher layer it was
/// copied from) at x_t = t noise + (1 - t) actions, over all dims, padding included. Throws UsageError where
/// the student's depth differs from the teacher's and nothing says which layers it kept, or it kept layers
/// that the teacher does not have; CorruptError where outputs are not finite.
BatchLosses batch_losses(MeasuredPolicy& student, Policy* teacher, const Observation& observation,
                         const torch::Tensor& actions_bhd, const torch::Tensor& noise_bhd,
                         const torch::Tensor& time_b);

/// Measures on `samples` in batches of `pipeline`, which must be made of `dataset`; `teacher` may be null.
/// Throws UsageError where there is no sample, or draws, steps or batch size are not positive, CorruptError
/// where the policy's outputs are not finite.
PolicyReport measure_policy(MeasuredPolicy& subject, Policy* teacher, const Dataset& dataset,
                            const SamplePipeline& pipeline, const std::vector<Dataset::Sample>& samples,
                            const MeasureOptions& options);

/// The floor "repeat last action": every step of the chunk is the action executed just before the frame.
/// Frames at the start of an episode, which have none, are left out.
PolicyReport repeat_last_action(const Dataset& dataset, const SamplePipeline& pipeline,
                                const std::vector<Dataset::Sample>& samples);

/// Rows = reports; "-" where a number does not apply.
std::string comparison_table(const std::vector<PolicyReport>& reports);

}  // namespace shallowpi
