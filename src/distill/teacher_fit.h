// Whether teacher and student fit together: sizes, layers, and what the numbers between them mean.
#pragma once

#include <cstdint>
#include <vector>

#include "shallowpi/distill/setup.h"

namespace shallowpi {

/// setup.start goes on learning from setup.teacher: the teacher layers that its layers answer to. What it
/// says of itself counts only for the teacher that it has learnt from before (setup.teacher_fingerprint is
/// set where that was looked at). Throws UsageError where that is not known, or one cannot teach the other.
std::vector<std::int64_t> layers_of_teacher(TrainingSetup& setup);

/// Throws UsageError where a teacher without statistics would have to teach: it would be given other numbers
/// than it was trained with.
void require_teacher_stats(const TrainingSetup& setup);

/// What the student, with `stats`, sees and says must mean the same to its teacher: warns of differences.
/// Throws UsageError where the teacher would be asked with prompts that it does not understand.
void check_language(const TrainingSetup& setup, const NormStats& stats);

}  // namespace shallowpi
