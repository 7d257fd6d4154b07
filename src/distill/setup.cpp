#include "shallowpi/distill/setup.h"

#include <algorithm>
#include <numeric>

#include "distill/teacher_fit.h"
#include "model/checkpoint_internal.h"
#include "shallowpi/base/cli.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/log.h"
#include "shallowpi/base/problems.h"
#include "shallowpi/base/text.h"
#include "shallowpi/data/normalize.h"
#include "shallowpi/data/stats.h"

namespace shallowpi {
namespace {

CheckpointInfo read_info(const std::string& folder, const ResolvedConfig& resolved) {
  CheckpointInfo info = read_checkpoint_info(folder);
  if (!info.horizon_known && resolved.is_set("policy.horizon"))
    info = read_checkpoint_info(folder, resolved.config.policy.horizon);
  if (!info.horizon_known) throw UsageError(str(unknown_horizon(info), ": set policy.horizon"));
  log_warnings(info);
  return info;
}

std::vector<std::int64_t> all_layers(std::int64_t depth) {
  std::vector<std::int64_t> layers(static_cast<std::size_t>(depth));
  std::iota(layers.begin(), layers.end(), 0);
  return layers;
}

void choose_architecture(TrainingSetup& setup) {
  const StudentConfig& student = setup.config().student;
  if (setup.start && setup.teacher) {
    setup.policy = setup.start->config;
    setup.kept_layers = layers_of_teacher(setup);
  } else if (setup.start) {
    setup.policy = setup.start->config;
    const auto kept = chosen_layers(student, setup.policy.depth());
    setup.kept_layers = setup.start->kept_layers;
    if (kept == all_layers(setup.policy.depth())) return;
    setup.start_layers = kept;
    setup.policy.set_depth(static_cast<std::int64_t>(kept.size()));
    setup.kept_layers.clear();
    for (const std::int64_t layer : kept)
      setup.kept_layers.push_back(setup.start->kept_layers.empty()
                                      ? layer
                                      : setup.start->kept_layers[static_cast<std::size_t>(layer)]);
  } else if (setup.teacher) {
    setup.policy = setup.teacher->config;
    setup.kept_layers = chosen_layers(student, setup.policy.depth());
    setup.policy.set_depth(static_cast<std::int64_t>(setup.kept_layers.size()));
  } else {
    setup.policy = student.architecture;
    if (student.layers > 0) setup.policy.set_depth(student.layers);
  }
}

void choose_spec(TrainingSetup& setup) {
  const CheckpointInfo* origin = setup.origin();
  setup.spec = student_spec(setup.resolved, origin ? origin->spec : setup.config().policy, setup.policy);
}

void choose_data(TrainingSetup& setup) {
  setup.dataset = std::make_shared<Dataset>(open_data(setup.config().data));
  setup.split = setup.dataset->split(setup.config().data.held_out_fraction, setup.config().seed);
}

/// A base checkpoint that goes on learning on another robot, or with actions of another kind: its statistics
/// are not this robot's. A student must keep its teacher's.
bool is_for_another_robot(const TrainingSetup& setup) {
  if (setup.teacher || !setup.start) return false;
  const RobotSpec &now = setup.spec.robot, &before = setup.start->spec.robot;
  // Of an openpi folder the mask is a guess, which a setting corrects.
  if (setup.start->format != CheckpointFormat::kOpenpi && now.delta_mask != before.delta_mask) return true;
  return setup.spec.asset_id != setup.start->spec.asset_id || now.kind != before.kind ||
         now.state_dim != before.state_dim || now.action_dim != before.action_dim;
}

struct ChosenStats {
  NormStats stats;
  StatsOrigin origin;
  std::string source;  // for people
};

ChosenStats choose_stats(const TrainingSetup& setup) {
  const DataConfig& data = setup.config().data;
  const CheckpointInfo* origin = setup.origin();
  std::optional<NormStats> known = given_stats(data);
  std::string source = data.norm_stats;
  StatsOrigin origin_of_stats = StatsOrigin::kData;
  if (!known && origin && data.norm_stats != kComputeStats && !is_for_another_robot(setup)) {
    known = origin->stats;
    source = origin->folder.string();
    origin_of_stats = StatsOrigin::kPolicy;
  }
  if (known && !data.hidden_state_dims.empty())
    throw UsageError(str("data.hidden_state_dims: hides dims in statistics that are computed, but those of ",
                         source, " are used; remove this key"));
  if (known) return {*known, origin_of_stats, source};
  if (data.norm_stats.empty()) require_teacher_stats(setup);
  log::info("computing normalisation statistics from ", setup.split.train.size(), " training frames");
  NormStats stats = compute_norm_stats(*setup.dataset, setup.split.train, setup.spec, data.min_norm_range);
  hide_dims(stats.state, data.hidden_state_dims);
  return {stats, StatsOrigin::kData, "computed from the data"};
}

/// A camera that a checkpoint brings may be missing in the data; one that the configuration names may not.
void check_cameras(const TrainingSetup& setup) {
  if (!setup.resolved.is_set("policy.image_keys")) return;
  const std::vector<std::string> cameras = setup.dataset->camera_names();
  for (const std::string& key : setup.config().policy.image_keys) {
    if (setup.dataset->files_without(key).size() < setup.dataset->sources().size()) continue;
    const std::string near = nearest(key, cameras);
    throw UsageError(str("policy.image_keys: the data has no camera ", key, ", only ", join(cameras, ", "),
                         near.empty() ? "; remove it" : str("; did you mean ", near, "?")));
  }
}

void check_state_noise(const TrainingSetup& setup) {
  const auto dims = static_cast<std::int64_t>(setup.config().data.state_noise.size());
  if (dims != 0 && dims != setup.spec.robot.state_dim)
    throw UsageError(str("data.state_noise has ", dims, " values, but the robot's state has ",
                         setup.spec.robot.state_dim, "; give one for each dim"));
}

/// Every device takes the same number of samples at a time.
void check_division(const TrainingSetup& setup) {
  const TrainConfig& train = setup.config().train;
  const std::int64_t parts = static_cast<std::int64_t>(setup.devices.size()) * train.accumulate;
  if (train.batch_size % parts != 0)
    throw UsageError(str("train.batch_size: ", train.batch_size, " cannot be divided among ",
                         setup.devices.size(), " devices in ", train.accumulate,
                         " pieces each (train.accumulate); make it a multiple of ", parts));
}

/// The longer side of the first camera's first image.
std::int64_t demo_image_size(const TrainingSetup& setup) {
  const std::string& camera = setup.spec.image_keys.front();
  const RobotObservation first = robot_observation(*setup.dataset, setup.split.train.front(), {camera});
  const Image& image = first.images.at(camera);
  return std::max(image.width, image.height);
}

/// The data's; where they do not say it, what the policy has learned so far on the same robot.
void choose_control_rate(TrainingSetup& setup) {
  const std::set<double> rates = setup.dataset->control_rates();
  if (rates.size() > 1)
    log::warning("the demonstrations have different steps per second (", join(rates, ", "),
                 "), and the policy learns them as if they were one speed");
  if (rates.size() > 1 || is_for_another_robot(setup)) setup.spec.control_hz = 0;
  if (rates.size() == 1) setup.spec.control_hz = *rates.begin();
}

/// How samples are made, and what the spec says of that.
void make_pipeline(TrainingSetup& setup) {
  const auto tokenizer = std::make_shared<const Tokenizer>(setup.tokenizer);
  const auto [stats, origin, source] = choose_stats(setup);
  setup.statistics = source;
  setup.pipeline = std::make_shared<const SamplePipeline>(*setup.dataset, setup.spec, stats, tokenizer,
                                                          setup.policy.vocab, origin);
  setup.spec = setup.pipeline->spec();
  setup.spec.demo_image_size = demo_image_size(setup);
  choose_control_rate(setup);
  check_against_teacher(setup, stats);
}

}  // namespace

Dataset open_data(const DataConfig& data) {
  return open_dataset(
      data.files, data.format,
      {.raw_alignment = data.alignment == LiberoAlignment::kRaw, .drop_noops = data.drop_noops});
}

std::optional<NormStats> given_stats(const DataConfig& data) {
  if (data.norm_stats.empty() || data.norm_stats == kComputeStats) return {};
  if (!std::filesystem::exists(data.norm_stats))
    throw UsageError(str("data.norm_stats: there is no file ", data.norm_stats));
  if (std::filesystem::is_directory(data.norm_stats))
    throw UsageError(str("data.norm_stats: ", data.norm_stats, " is a folder; name its norm_stats.json"));
  return read_norm_stats(data.norm_stats);
}

PolicySpec student_spec(const ResolvedConfig& resolved, PolicySpec spec, const PolicyConfig& sizes) {
  const std::int64_t side = resolved.config.policy.image_size;
  if (resolved.is_set("policy.image_size") && side != sizes.vision.image_size)
    throw UsageError(str("policy.image_size: ", side, " does not fit the vision tower, which takes ",
                         sizes.vision.image_size, "; remove this key"));
  apply_policy_overrides(resolved, spec);
  spec.image_size = sizes.vision.image_size;
  spec.action_width = sizes.action_dim;
  std::vector<std::string> problems = checkpoint::spec_problems(spec, sizes);
  const auto mask = static_cast<std::int64_t>(spec.robot.delta_mask.size());
  if (resolved.is_set("policy.robot.delta_mask") && mask > spec.robot.action_dim)
    problems.push_back(
        str("robot.delta_mask covers ", mask, " dims, but robot.action_dim is ", spec.robot.action_dim));
  if (is_pi0_prompt(spec.prompt_mode) != (sizes.kind == PolicyKind::kPi0))
    problems.push_back(str("prompt_mode ", enum_name(spec.prompt_mode), " makes a ", enum_name(sizes.kind),
                           " policy useless; remove policy.prompt_mode, or begin with a configuration for ",
                           enum_name(sizes.kind), " (configs/", enum_name(sizes.kind), "_libero_l6.yaml)"));
  if (!problems.empty()) throw UsageError(str("policy: ", join(problems, "; ")));
  return spec;
}

std::vector<std::int64_t> chosen_layers(const StudentConfig& student, std::int64_t depth) {
  if (!student.layer_list.empty()) {
    check_layer_map(student.layer_list, depth);
    return student.layer_list;
  }
  return student.layers == 0 ? all_layers(depth) : layer_map(student.layer_map, student.layers, depth);
}

TrainingSetup prepare_training(const ResolvedConfig& resolved) {
  TrainingSetup setup;
  setup.resolved = resolved;
  const DistillConfig& config = resolved.config;
  // Runs each step, whatever went wrong with earlier ones, as long as those it needs went well.
  Problems problems;
  problems.attempt([&] {
    setup.devices = parse_devices(config.device);
    setup.dtype = parse_dtype(config.dtype, setup.devices.front());
    setup.teacher_dtype = parse_dtype(config.teacher.dtype, setup.devices.front());
    check_division(setup);
  });
  bool has_policy = true;
  if (!config.teacher.checkpoint.empty())
    has_policy &= problems.attempt([&] { setup.teacher = read_info(config.teacher.checkpoint, resolved); });
  if (!config.student.checkpoint.empty())
    has_policy &= problems.attempt([&] { setup.start = read_info(config.student.checkpoint, resolved); });
  // Where the checkpoint cannot be read, that its tokenizer is missing too is no problem of its own.
  const bool knows_tokenizer = has_policy || !config.data.tokenizer.empty();
  has_policy = has_policy && problems.attempt([&] { choose_architecture(setup); });
  bool has_inputs = problems.attempt([&] { choose_data(setup); });
  has_inputs &= knows_tokenizer && problems.attempt([&] {
    const CheckpointInfo* origin = setup.origin();
    setup.tokenizer =
        find_tokenizer(config.data.tokenizer, origin ? origin->tokenizer : std::filesystem::path());
  });
  if (has_policy && has_inputs && problems.attempt([&] { choose_spec(setup); })) {
    bool fits = problems.attempt([&] { check_state_noise(setup); });
    fits &= problems.attempt([&] { check_cameras(setup); });
    if (fits)
      problems.attempt([&] { make_pipeline(setup); });
    else
      problems.attempt([&] { given_stats(config.data); });  // which may be wrong too
  }
  problems.throw_all("problems");
  return setup;
}

}  // namespace shallowpi
