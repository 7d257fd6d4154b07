// Checks across keys; what a single key may hold is in the table.
#include <algorithm>

#include "shallowpi/base/text.h"
#include "shallowpi/distill/config.h"

namespace shallowpi {
namespace {

class Checker {
 public:
  Checker(const ResolvedConfig& resolved, ConfigUse use)
      : resolved_(resolved), config_(resolved.config), use_(use) {}

  std::vector<ConfigProblem> run() {
    check_needs();
    if (use_ != ConfigUse::kAny) check_paths();
    check_student();
    check_scratch();
    check_policy();
    check_losses();
    check_training();
    return std::move(problems_);
  }

 private:
  template <typename... Parts>
  void require(bool holds, const std::string& key, const Parts&... message) {
    if (!holds) problems_.push_back({key, str(message...)});
  }

  bool is_scratch() const { return config_.teacher.checkpoint.empty() && config_.student.checkpoint.empty(); }

  void check_needs() {
    if (use_ == ConfigUse::kTrain) {
      require(!config_.output_dir.empty(), "output_dir", "is not set; name the folder of the run");
      require(!config_.data.files.empty(), "data.files", "is not set; name the demonstrations (HDF5)");
    }
    if (use_ == ConfigUse::kInitOnly) {
      require(!config_.teacher.checkpoint.empty(), "teacher.checkpoint",
              "is not set; --init-only takes the student's layers from a teacher");
      require(config_.student.checkpoint.empty(), "student.checkpoint",
              "is of no use with --init-only, which takes the teacher's layers; remove it");
    }
  }

  // Such a folder can be meant: then it is "./~name", and by its full name what a run's folder saves.
  void check_path(const std::string& key, const std::string& path) {
    require(!path.starts_with("~"), key, path, ": write the full path; ~ is not expanded here");
    require(path.find("${") == std::string::npos, key, path,
            ": write the full path; ${...} is not expanded here");
  }
  void check_paths() {
    check_path("output_dir", config_.output_dir);
    check_path("teacher.checkpoint", config_.teacher.checkpoint);
    check_path("student.checkpoint", config_.student.checkpoint);
    for (const DataFile& file : config_.data.files) check_path("data.files", file.path);
    check_path("data.norm_stats", config_.data.norm_stats);
    check_path("data.tokenizer", config_.data.tokenizer);
  }

  void check_student() {
    const StudentConfig& student = config_.student;
    const std::vector<std::int64_t>& list = student.layer_list;
    const auto count = static_cast<std::int64_t>(list.size());
    if (!list.empty()) {
      require(student.layers == 0 || student.layers == count, "student.layers", student.layers,
              " contradicts student.layer_map, which lists ", count, " layers; remove one of them");
      const bool is_sorted =
          std::adjacent_find(list.begin(), list.end(), std::greater_equal<>()) == list.end();
      require(list.front() >= 0 && is_sorted, "student.layer_map", "[", join(list, ", "),
              "] is not a rising list of layers from 0");
      require(!is_scratch(), "student.layer_map",
              "a list needs a teacher.checkpoint to take the layers from");
    }
    if (list.empty() && student.layer_map == LayerMapRule::kEndpoints)
      require(student.layers != 1, "student.layer_map",
              "endpoints keeps both ends and needs student.layers >= 2");
  }

  void check_scratch() {
    if (is_scratch() && use_ == ConfigUse::kTrain) {
      for (const std::string& problem : config_.student.architecture.problems())
        require(false, "student.architecture", problem);
      const std::int64_t depth = config_.student.architecture.depth();
      require(config_.student.layers <= depth, "student.layers", config_.student.layers,
              " is more than student.architecture.backbone.depth, ", depth);
      require(config_.policy.image_size == config_.student.architecture.vision.image_size,
              "policy.image_size", config_.policy.image_size,
              " is not student.architecture.vision.image_size, ",
              config_.student.architecture.vision.image_size, "; remove this key");
      require(!config_.policy.image_keys.empty(), "policy.image_keys",
              "is not set; without a teacher or checkpoint, name the cameras");
      const bool is_pi0 = config_.student.architecture.kind == PolicyKind::kPi0;
      require(is_pi0 == is_pi0_prompt(config_.policy.prompt_mode), "policy.prompt_mode",
              enum_name(config_.policy.prompt_mode), " makes a useless policy of student.architecture.kind ",
              enum_name(config_.student.architecture.kind), "; set ",
              is_pi0 ? "pi0_plain or lerobot_pi0" : "pi05_state, pi05_state_padded32 or pi05_no_state");
    }
    if (is_scratch()) return;
    for (const std::string& key : resolved_.set_keys)
      require(!key.starts_with("student.architecture."), key,
              "the sizes come from the checkpoint; remove this key, or the checkpoint to train from scratch");
  }

  void check_policy() {
    const PolicySpec& policy = config_.policy;
    const auto mask = static_cast<std::int64_t>(policy.robot.delta_mask.size());
    const std::int64_t relative = delta_reach(policy.robot);
    const bool knows_actions = is_scratch() || resolved_.is_set("policy.robot.action_dim");
    const bool knows_state = is_scratch() || resolved_.is_set("policy.robot.state_dim");
    require(!knows_actions || mask <= policy.robot.action_dim, "policy.robot.delta_mask", "covers ", mask,
            " dims, but policy.robot.action_dim is ", policy.robot.action_dim);
    require(!knows_state || relative <= policy.robot.state_dim, "policy.robot.delta_mask", "dim ",
            relative - 1, " is relative, but policy.robot.state_dim is only ", policy.robot.state_dim);
    std::vector<std::string> keys = policy.image_keys;
    std::sort(keys.begin(), keys.end());
    require(std::adjacent_find(keys.begin(), keys.end()) == keys.end(), "policy.image_keys",
            "names a camera twice");
    if (resolved_.is_set("policy.robot.kind") && policy.robot.kind == RobotKind::kAloha)
      require(policy.robot.state_dim == kAlohaDim && policy.robot.action_dim == kAlohaDim,
              "policy.robot.kind", "aloha has ", kAlohaDim, " state and ", kAlohaDim,
              " action dims; set policy.robot.state_dim and action_dim to ", kAlohaDim);
  }

  void check_losses() {
    const LossConfig& loss = config_.loss;
    if (config_.teacher.checkpoint.empty() && use_ == ConfigUse::kTrain) {
      require(loss.kd == 0, "loss.kd", "needs a teacher.checkpoint; set it, or this weight to 0");
      require(loss.attn == 0, "loss.attn", "needs a teacher.checkpoint; set it, or this weight to 0");
    }
    require(loss.task + loss.kd + loss.attn > 0, "loss", "all weights are 0: there is nothing to train");
  }

  void check_training() {
    const TrainConfig& train = config_.train;
    const OptimizerConfig& optimizer = config_.optimizer;
    require(train.batch_size % train.accumulate == 0, "train.batch_size", train.batch_size,
            " is not divisible by train.accumulate, ", train.accumulate);
    require(train.eval_every == 0 || config_.data.held_out_fraction > 0, "train.eval_every",
            "evaluates held-out episodes, but data.held_out_fraction is 0; set one of the two");
    require(optimizer.end_lr <= optimizer.peak_lr, "optimizer.end_lr", optimizer.end_lr,
            " is above peak_lr, ", optimizer.peak_lr);
    require(optimizer.warmup_steps <= optimizer.decay_steps, "optimizer.warmup_steps", optimizer.warmup_steps,
            " is more than decay_steps, ", optimizer.decay_steps);
    require(train.trace_step <= train.steps, "train.trace_step", train.trace_step, " is beyond train.steps, ",
            train.steps);
  }

  const ResolvedConfig& resolved_;
  const DistillConfig& config_;
  const ConfigUse use_;
  std::vector<ConfigProblem> problems_;
};

}  // namespace

std::vector<ConfigProblem> validate(const ResolvedConfig& resolved, ConfigUse use) {
  return Checker(resolved, use).run();
}

}  // namespace shallowpi
