// The per-frame numbers of `shallowpi-eval offline --per-frame`, one line per policy and frame.
#pragma once

#include <string>
#include <vector>

#include "shallowpi/eval/measure.h"

namespace shallowpi {

/// JSON lines, or CSV with a header row: policy, file, episode, step, loss_task, velocity_error, loss_kd,
/// velocity_error_teacher, loss_attn, action_error, action_error_robot.
/// What does not apply is null, in CSV empty.
std::string frame_file(const Dataset& dataset, const std::vector<PolicyReport>& reports, bool csv);

}  // namespace shallowpi
