// Whether teacher and student fit together: sizes, layers, and what the numbers between them mean.
#pragma once

#include <cstdint>
#include <vector>

#include "shallowpi/distill/setup.h"

namespace shallowpi {

/// For a run that has both a student.checkpoint and a teacher.checkpoint: which teacher layer each layer of
/// the student answers to. What the student's folder says of that counts only for the teacher that it has
/// learnt from before; where that was looked at, setup.teacher_fingerprint is set. Throws UsageError where
/// the layers are not known, or one cannot teach the other.
std::vector<std::int64_t> layers_of_teacher(TrainingSetup& setup);

/// Throws UsageError where a teacher without statistics would have to teach: it would be given other numbers
/// than it was trained with.
void require_teacher_stats(const TrainingSetup& setup);

/// What the student, by setup.spec and with `stats`, sees and says must mean the same to its teacher: warns
/// of differences. Throws UsageError where the teacher would be asked with prompts that it does not
/// understand.
void check_against_teacher(const TrainingSetup& setup, const NormStats& stats);

}  // namespace shallowpi
