#include "distill/teacher_fit.h"

#include <algorithm>
#include <string>

#include "shallowpi/base/error.h"
#include "shallowpi/base/log.h"
#include "shallowpi/base/norm_stats.h"
#include "shallowpi/base/text.h"
#include "shallowpi/model/checkpoint.h"

namespace shallowpi {
namespace {

// The teacher gets the student's inputs and says what its outputs should be.
void check_sizes(const PolicyConfig& student, const PolicyConfig& teacher, bool compares_attention) {
  if (student.kind != teacher.kind)
    throw UsageError(str("student.checkpoint is a ", enum_name(student.kind), " and teacher.checkpoint a ",
                         enum_name(teacher.kind), "; both must be of one kind"));
  std::vector<std::string> differences;
  const auto compare = [&](const char* what, std::int64_t ours, std::int64_t theirs) {
    if (ours != theirs) differences.push_back(str(what, " ", ours, " and ", theirs));
  };
  compare("action_dim", student.action_dim, teacher.action_dim);
  compare("vocab", student.vocab, teacher.vocab);
  compare("vision.image_size", student.vision.image_size, teacher.vision.image_size);
  if (compares_attention) compare("vision.patch", student.vision.patch, teacher.vision.patch);
  if (!differences.empty())
    throw UsageError(str("student.checkpoint and teacher.checkpoint differ in ", join(differences, ", "),
                         "; one cannot teach the other"));
}

/// Whether all of `some` are in `all`, in the same order.
bool are_in_order(const std::vector<std::string>& some, const std::vector<std::string>& all) {
  auto next = all.begin();
  for (const std::string& name : some) {
    next = std::find(next, all.end(), name);
    if (next == all.end()) return false;
    ++next;
  }
  return true;
}

void check_prompts(const TrainingSetup& setup) {
  const PolicySpec &student = setup.spec, &teacher = setup.teacher->spec;
  // Those of pi0 differ in underscores and spaces alone.
  if (student.prompt_mode == teacher.prompt_mode ||
      (is_pi0_prompt(student.prompt_mode) && is_pi0_prompt(teacher.prompt_mode)))
    return;
  // What an openpi folder does not say is a guess, which a setting corrects.
  if (setup.teacher->format == CheckpointFormat::kOpenpi) return;
  throw UsageError(str("policy.prompt_mode: ", enum_name(student.prompt_mode), ", but ",
                       setup.teacher->folder.string(), " says ", enum_name(teacher.prompt_mode),
                       ", and the teacher would not understand another; set ", enum_name(teacher.prompt_mode),
                       " (configs/distill_l6.yaml leaves all of policy.* to the teacher's folder), set "
                       "loss.kd and loss.attn to 0, or, where the folder is wrong, write it anew: "
                       "shallowpi-distill --init-only OUT teacher.checkpoint=DIR policy.prompt_mode=..."));
}

void warn_of_unused_cameras(const TrainingSetup& setup) {
  for (const std::string& camera : setup.teacher->spec.image_keys)
    if (std::ranges::count(setup.spec.image_keys, camera) == 0 &&
        setup.dataset->files_without(camera).empty())
      log::warning("camera ", camera,
                   " is in the demonstrations and the teacher was trained with it, but "
                   "policy.image_keys leaves it out: both will act without it");
}

void warn_of_differences(const TrainingSetup& setup, const NormStats& stats) {
  const PolicySpec &student = setup.spec, &teacher = setup.teacher->spec;
  if (student.control_hz > 0 && teacher.control_hz > 0 && student.control_hz != teacher.control_hz)
    log::warning("the demonstrations have ", student.control_hz,
                 " steps per second, the teacher learned from ", teacher.control_hz,
                 ": the student gets targets for another speed, unless one of the files says it wrongly");
  std::vector<std::string> differences;
  const auto compare = [&](bool same, const char* what) {
    if (!same) differences.emplace_back(what);
  };
  compare(student.prompt_mode == teacher.prompt_mode, "prompt mode");
  compare(student.norm_mode == teacher.norm_mode, "norm mode");
  compare(student.resize_mode == teacher.resize_mode, "resize mode");
  compare(student.robot.kind == teacher.robot.kind, "robot");
  compare(student.robot.delta_mask == teacher.robot.delta_mask, "relative action dims");
  compare(student.horizon == teacher.horizon, "horizon");
  compare(are_in_order(student.image_keys, teacher.image_keys), "cameras or their order");
  compare(!setup.teacher->stats || norm_stats_json(stats) == norm_stats_json(*setup.teacher->stats),
          "normalisation statistics");
  if (!differences.empty())
    log::warning("the student differs from its teacher ", setup.teacher->folder.string(),
                 " in: ", join(differences, ", "),
                 ". The teacher was not trained that way and would teach it something else; remove policy.* "
                 "and data.norm_stats, or set loss.kd and loss.attn to 0");
}

}  // namespace

std::vector<std::int64_t> layers_of_teacher(TrainingSetup& setup) {
  const CheckpointInfo &start = *setup.start, &teacher = *setup.teacher;
  const StudentConfig& student = setup.config().student;
  const std::int64_t depth = start.config.depth();
  if (student.layers != 0 && student.layers != depth)
    throw UsageError(
        str("student.layers is ", student.layers, ", but student.checkpoint has ", depth, " layers"));
  check_sizes(start.config, teacher.config, setup.config().loss.attn > 0);
  const std::vector<std::int64_t>& list = student.layer_list;
  std::vector<std::int64_t> known = start.kept_layers;
  if (!known.empty() && !start.teacher_fingerprint.empty()) {
    setup.teacher_fingerprint = weights_fingerprint(teacher);
    if (setup.teacher_fingerprint != start.teacher_fingerprint) {
      if (list.empty())
        throw UsageError(
            str("student.checkpoint has learnt from another teacher, whose layers [", join(known, ", "),
                "] it has; say which layers of teacher.checkpoint its own answer to, "
                "with student.layer_map=[...] (the same ones, if that teacher has only been trained on)"));
      known.clear();
    }
  }
  if (!list.empty() && !known.empty() && list != known)
    throw UsageError(str("student.layer_map is [", join(list, ", "),
                         "], but student.checkpoint says that its layers are the teacher's [",
                         join(known, ", "), "]; remove the key"));
  if (!list.empty() && static_cast<std::int64_t>(list.size()) != depth)
    throw UsageError(
        str("student.layer_map lists ", list.size(), " layers, but student.checkpoint has ", depth));
  const auto kept = !known.empty()  ? known
                    : !list.empty() ? list
                                    : layer_map(student.layer_map, depth, teacher.config.depth());
  check_layer_map(kept, teacher.config.depth());
  return kept;
}

void require_teacher_stats(const TrainingSetup& setup) {
  if (!setup.teaches() || setup.teacher->stats) return;
  throw UsageError(
      str(setup.teacher->folder.string(),
          " has no normalisation statistics, and it can only teach what it sees as it was trained to: ",
          how_to_add_stats(*setup.teacher), "; or name them (data.norm_stats)"));
}

void check_against_teacher(const TrainingSetup& setup, const NormStats& stats) {
  if (!setup.teacher) return;
  if (setup.teaches()) {
    check_prompts(setup);
    warn_of_unused_cameras(setup);
  }
  warn_of_differences(setup, stats);
}

}  // namespace shallowpi
