#include "distill/plan.h"

#include <algorithm>

#include "distill/activation_memory.h"
#include "distill/run_folder.h"
#include "model/tensor_names.h"
#include "shallowpi/base/cli.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/memory.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

// Measured on the CPU: code and thread stacks that are only touched once training computes, and what the
// allocator holds beside the activations because freed blocks do not fit the next ones.
constexpr std::uint64_t kComputeBytes = std::uint64_t{28} << 20;
constexpr double kFragmentation = 1.1;

// Which parts of the student have trained parameters.
struct TrainedParts {
  bool tower = false, prefix = false;
};

// Parameters by fate, and the memory of the student's weights and its optimiser.
TrainedParts count_student(const TrainingSetup& setup, TrainingPlan& plan) {
  Policy student(setup.policy, setup.dtype, torch::kMeta);  // sizes without memory
  const auto trained = trainable_groups(student, setup.config().optimizer.freeze);
  TrainedParts parts;
  // Of a checkpoint's weights, in bfloat16 but for what stays float32; and of the files' headers.
  std::uint64_t saved_bytes = 0, header_bytes = 0;
  constexpr std::uint64_t kHeaderEntryBytes = 150;  // a tensor's name, dtype, shape and offsets
  for (const ParameterGroup& group : student->parameter_groups()) {
    plan.weight_bytes += group.parameter.nbytes();
    saved_bytes += static_cast<std::uint64_t>(group.parameter.numel()) * (group.keep_float32 ? 4 : 2);
    header_bytes += kHeaderEntryBytes * group.parts.size();
    if (group.dead) plan.dead += group.parameter.numel();
    if (!group.dead && !group.parameter.requires_grad()) plan.frozen += group.parameter.numel();
  }
  const bool has_ema = setup.config().optimizer.ema_decay > 0;
  for (const ParameterGroup& group : trained) {
    const auto count = static_cast<std::uint64_t>(group.parameter.numel());
    plan.trained += group.parameter.numel();
    header_bytes += kHeaderEntryBytes * group.parts.size() * (has_ema ? 4 : 3);
    // Gradient, two moments, EMA; bfloat16 parameters also have master weights and their own gradient.
    plan.optimizer_bytes += count * 4 + count * (has_ema ? 12 : 8) / plan.devices;
    if (group.parameter.scalar_type() != torch::kFloat32) plan.optimizer_bytes += count * (4 + 2);
    const std::string& name = group.parts.front().name;
    parts.tower |= names::is_tower(name);
    parts.prefix |= name.starts_with(names::kPaligemma);
  }
  const std::uint64_t state_bytes = static_cast<std::uint64_t>(plan.trained) * (has_ema ? 16 : 12);
  plan.checkpoint_bytes =
      saved_bytes + state_bytes + header_bytes + std::filesystem::file_size(setup.tokenizer);
  plan.host_bytes += state_bytes;  // the copy that is being written
  return parts;
}

void count_teacher(const TrainingSetup& setup, const TrainedParts& trained, TrainingPlan& plan) {
  if (!setup.teaches()) return;
  plan.teacher_layers = setup.teacher->config.depth();
  // A frozen tower that is the teacher's own is in memory once.
  const bool shares_tower = !trained.tower && !setup.start && setup.dtype == setup.teacher_dtype;
  Policy teacher(setup.teacher->config, setup.teacher_dtype, torch::kMeta);
  for (const ParameterGroup& group : teacher->parameter_groups())
    if (!shares_tower || !names::is_tower(group.parts.front().name))
      plan.weight_bytes += group.parameter.nbytes();
}

/// Arithmetic, and what a step holds on the device, from passes of this shape.
void count_passes(const TrainingSetup& setup, const TrainedParts& parts, const PassShape& shape,
                  TrainingPlan& plan) {
  const DistillConfig& config = setup.config();
  ActivationSizes sizes;
  sizes.tower_trained = parts.tower;
  sizes.backbone_trained = parts.prefix;
  sizes.recompute = config.train.activation_checkpointing;
  sizes.time_per_action = setup.policy.kind == PolicyKind::kPi05 && setup.spec.rtc_training_max_delay > 0;
  sizes.bytes_per_value = static_cast<std::int64_t>(torch::elementSize(setup.dtype));
  // What is frozen is run as at inference.
  plan.activation_bytes = std::max(training_activation_bytes(setup.policy, shape, sizes),
                                   inference_activation_bytes(setup.policy, shape, sizes.bytes_per_value));

  const PassCost student = forward_flops(setup.policy, shape);
  const double micro_batches = static_cast<double>(config.train.batch_size / setup.micro_batch());
  // A backward pass is two forward passes, and one more to recompute.
  const double again = sizes.recompute ? 1 : 0;
  plan.flops =
      micro_batches * (student.tower * (parts.tower ? 3 + again : 1) +
                       student.backbone * (parts.prefix ? 3 + again : 1) + student.expert * (3 + again));
  if (plan.teacher_layers > 0) {
    const PassCost teacher = forward_flops(setup.teacher->config, shape);
    plan.flops += micro_batches * (teacher.tower + teacher.backbone + teacher.expert);
    plan.activation_bytes = std::max(
        plan.activation_bytes,
        inference_activation_bytes(setup.teacher->config, shape,
                                   static_cast<std::int64_t>(torch::elementSize(setup.teacher_dtype))));
  }
  plan.activation_bytes =
      static_cast<std::uint64_t>(static_cast<double>(plan.activation_bytes) * kFragmentation);
}

/// What lies in main memory.
void count_host(const TrainingSetup& setup, TrainingPlan& plan) {
  const DistillConfig& config = setup.config();
  const auto cameras = static_cast<std::int64_t>(setup.spec.image_keys.size());
  const std::int64_t image_values = 3 * setup.spec.image_size * setup.spec.image_size;
  const std::int64_t batches = std::max(config.data.prefetch, config.data.workers) + 2;
  const auto held_out = static_cast<std::int64_t>(setup.split.held_out.size());
  const std::int64_t evaluated =
      config.train.eval_every > 0 ? std::min(config.train.eval_frames, held_out) : 0;
  const std::int64_t samples = batches * config.train.batch_size + evaluated;
  plan.host_bytes += static_cast<std::uint64_t>(samples * cameras * image_values * 4);
}

}  // namespace

std::uint64_t TrainingPlan::peak_bytes() const {
  const std::uint64_t device = weight_bytes + optimizer_bytes + activation_bytes;
  return on_gpu ? device : devices * device + host_bytes + base_bytes;
}

TrainingPlan plan_training(const TrainingSetup& setup) {
  const DistillConfig& config = setup.config();
  TrainingPlan plan;
  plan.base_bytes = resident_bytes() + kComputeBytes;
  plan.devices = setup.devices.size();
  plan.on_gpu = setup.devices.front().is_cuda();
  plan.machine_bytes = total_memory(setup.devices.front());
  plan.free_bytes = free_memory(setup.devices.front());
  for (const torch::Device device : setup.devices) {
    plan.machine_bytes = std::min(plan.machine_bytes, total_memory(device));
    plan.free_bytes = std::min(plan.free_bytes, free_memory(device));
  }
  plan.free_disk_bytes = free_disk_bytes(config.output_dir);
  const TrainedParts parts = count_student(setup, plan);
  if (plan.trained == 0)
    throw UsageError("optimizer.freeze: freezes every parameter; there is nothing left to train");
  count_teacher(setup, parts, plan);

  const auto cameras = static_cast<std::int64_t>(setup.spec.image_keys.size());
  const TrainingBatch sample = setup.pipeline->make_batch({setup.split.train.front()});
  plan.prefix_tokens = cameras * setup.policy.vision.tokens() + sample.observation.tokens_bt.size(1);
  PassShape shape;
  shape.batch = setup.micro_batch();
  shape.images = shape.batch * cameras;
  shape.prefix = plan.prefix_tokens;
  shape.horizon = setup.spec.horizon;
  shape.draws = config.flow.draws;
  count_passes(setup, parts, shape, plan);
  count_host(setup, plan);
  plan.most_checkpoints = static_cast<std::uint64_t>(most_checkpoints(config.train));
  return plan;
}

std::string plan_text(const TrainingSetup& setup, const TrainingPlan& plan) {
  const TrainConfig& train = setup.config().train;
  const PolicySpec& spec = setup.spec;
  std::vector<std::vector<std::string>> rows;
  const auto row = [&](const std::string& what, const std::string& value) { rows.push_back({what, value}); };
  const auto count = [](std::int64_t n) { return human_count(static_cast<std::uint64_t>(n)); };
  row("student", str(enum_name(setup.policy.kind), ", ", setup.policy.depth(), " layers"));
  if (!setup.kept_layers.empty()) row("  teacher layers kept", join(setup.kept_layers, ", "));
  row("  parameters trained", count(plan.trained));
  row("  frozen", count(plan.frozen));
  row("  dead (no output depends on them)", count(plan.dead));
  row("teacher in the loop", plan.teacher_layers > 0 ? str(plan.teacher_layers, " layers") : "none");
  const std::size_t frames = setup.split.train.size();
  row("data", str(frames, " frames to train on, ", setup.split.held_out.size(), " held out"));
  row("  passes over them",
      fixed(static_cast<double>(train.steps * train.batch_size) / static_cast<double>(frames), 1));
  row("  cameras", join(spec.image_keys, ", "));
  const RobotSpec& robot = spec.robot;
  row("  robot", str(enum_name(robot.kind), ", ", robot.state_dim, " state dims, ", robot.action_dim,
                     " action dims", robot.delta_mask.empty() ? "" : ", relative actions"));
  row("  chunk", str(spec.horizon, " actions"));
  row("  prompt mode", str(enum_name(spec.prompt_mode), ", at most ", spec.max_token_len, " tokens"));
  row("  statistics", setup.statistics);
  row("  prefix tokens per sample", str(plan.prefix_tokens));
  row("device", str(setup.devices.front().str(), ", ", dtype_name(setup.dtype)));
  if (plan.devices > 1)
    row("  and others like it",
        str(plan.devices, " in all, each with ", setup.micro_batch(), " samples at a time"));
  const char* const of_each = plan.devices > 1 ? " of each device" : "";
  row("memory, peak", str(human_bytes(plan.peak_bytes()), !plan.on_gpu       ? ""
                                                          : plan.devices > 1 ? " on each GPU"
                                                                             : " on the GPU"));
  row("  weights", human_bytes(plan.weight_bytes) + of_each);
  row("  gradient, moments, EMA", human_bytes(plan.optimizer_bytes) + of_each);
  row("  activations", human_bytes(plan.activation_bytes) + of_each);
  row(plan.on_gpu ? "  on the host: batches, checkpoint copy" : "  batches, checkpoint copy",
      human_bytes(plan.host_bytes));
  row("arithmetic per step", fixed(plan.flops / 1e9, 1) + " GFLOP");
  if (plan.on_gpu)  // which sustains 100 TFLOP/s or a few times that
    row("  all steps at 100 TFLOP/s on each GPU",
        human_duration(plan.flops * static_cast<double>(train.steps) / static_cast<double>(plan.devices) /
                       1e14));
  row("checkpoint", human_bytes(plan.checkpoint_bytes));
  row("all checkpoints", str(human_bytes(plan.most_checkpoints * plan.checkpoint_bytes), ", up to ",
                             plan.most_checkpoints, " at a time"));
  row("disk left", human_bytes(plan.free_disk_bytes));
  return text_table({"plan", ""}, rows);
}

}  // namespace shallowpi
