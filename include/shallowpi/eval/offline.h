// `shallowpi-eval offline`: open-loop measurements on demonstrations, or the losses of one tensor file.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "shallowpi/eval/demo_choice.h"
#include "shallowpi/eval/measure.h"

namespace shallowpi {

struct OfflineOptions {
  std::vector<std::string> checkpoints;  ///< folders, each optionally named: "LABEL=DIR"
  std::filesystem::path teacher;         ///< empty: none
  std::optional<std::int64_t> horizon;   ///< where the folders do not say it

  std::filesystem::path batch;  ///< a tensor file; or
  DemoChoice demos;
  std::int64_t frames = 0;  ///< measure this many, evenly spread; 0: all
  bool skipped = false;     ///< measure each student before training too: the teacher's layers it kept

  std::filesystem::path out;  ///< JSON; empty: none (with `batch`: stdout alone)
  /// Each frame's losses as JSON lines, CSV where it ends in .csv; empty: none.
  std::filesystem::path per_frame;
  std::filesystem::path
      plot;            ///< an HTML page of chunks, one after the other, over the demonstrations; empty: none
  bool quiet = false;  ///< no progress line

  torch::Dtype dtype = torch::kFloat32;
  MeasureOptions measure;
};

/// With `batch`: prints {"loss_task": ..., "loss_kd": ..., "loss_attn": ...} (the last two with a teacher;
/// one such object per label where several checkpoints are given). With `demos`: prints one table of the
/// teacher, each student before and after training, and "repeat last action". Throws UsageError where the
/// options contradict each other or do not fit the folders and the data.
void run_offline(const OfflineOptions& options);

}  // namespace shallowpi
