#include "distill/run_inputs.h"

#include <cstdint>
#include <vector>

#include "base/json_differences.h"
#include "model/checkpoint_internal.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/json.h"
#include "shallowpi/base/manifest.h"
#include "shallowpi/base/norm_stats.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

std::string teacher_fingerprint(const TrainingSetup& setup) {
  if (!setup.teacher) return setup.start ? setup.start->teacher_fingerprint : "";
  return setup.teacher_fingerprint.empty() ? weights_fingerprint(*setup.teacher) : setup.teacher_fingerprint;
}

std::string digest_of(const std::vector<std::vector<float>>& rows) {
  std::string bytes;
  for (const std::vector<float>& row : rows)
    bytes.append(reinterpret_cast<const char*>(row.data()), row.size() * sizeof(float));
  return sha256(bytes);
}

/// All but the images, which are too many.
std::string digest_of_demonstrations(const TrainingSetup& setup) {
  std::string facts = str(setup.split.train.size(), norm_stats_json(setup.pipeline->stats()));
  for (const Dataset::Source& source : setup.dataset->sources()) {
    facts += "\n" + join(source.file->camera_names(), " ");
    std::int64_t index = 0;
    for (const EpisodeInfo& episode : source.file->episodes()) {
      facts += str("\n", episode.length, " ", episode.prompt, "\n", join(episode.step_prompts, "\n"),
                   digest_of(source.file->states(index)), digest_of(source.file->actions(index)));
      ++index;
    }
  }
  return sha256(facts);
}

}  // namespace

RunInputs read_run_inputs(const TrainingSetup& setup) {
  const DistillConfig& config = setup.config();
  RunInputs inputs;
  CheckpointContents& contents = inputs.contents;
  contents.config = setup.policy;
  contents.spec = setup.spec;
  contents.stats = setup.pipeline->stats();
  contents.tokenizer = read_file(setup.tokenizer);
  contents.kept_layers = setup.kept_layers;
  contents.teacher_fingerprint = teacher_fingerprint(setup);
  contents.card = str(
      "Trained with shallowpi-distill; `training_state/config.yaml` repeats the run. The weights are ",
      config.optimizer.ema_decay > 0 ? "the moving average (EMA) over the run." : "those of the last step.",
      "\n");
  inputs.demonstrations = digest_of_demonstrations(setup);
  // What is frozen is taken from there anew when a run goes on.
  if (setup.start && !config.optimizer.freeze.empty()) inputs.start = weights_fingerprint(*setup.start);
  return inputs;
}

void check_same_inputs(const StartPoint& start, const TrainingSetup& setup, const RunInputs& inputs) {
  const DistillConfig& config = setup.config();
  const std::filesystem::path& folder = start.checkpoint;
  const std::string name = folder.string();
  if (read_checkpoint_info(folder).teacher_fingerprint != inputs.contents.teacher_fingerprint)
    throw UsageError(str(name, " had another teacher than ",
                         setup.teacher ? config.teacher.checkpoint : config.student.checkpoint,
                         " is or had; set it back"));
  // What the configuration does not set comes from the teacher's or the start's folder, which may have
  // changed.
  Json before = read_json(folder / checkpoint::kOwnConfig),
       now = parse_json(checkpoint::own_config_json(inputs.contents), checkpoint::kOwnConfig);
  for (const char* of_the_data : {"control_hz", "demo_image_size"})  // earlier checkpoints do not say these
    if (!before.contains(of_the_data)) now.erase(of_the_data);
  const std::vector<std::string> differences = json_differences(before, now);
  if (!differences.empty())
    throw UsageError(str(name, " was trained with another policy's settings; set these back in ",
                         setup.origin() ? setup.origin()->folder.string() : "the configuration", ":\n  ",
                         join(differences, "\n  "),
                         "\nor start from its weights in another output_dir with student.checkpoint=", name));
  if (read_file(folder / checkpoint::kTokenizer) != inputs.contents.tokenizer)
    throw UsageError(str(setup.tokenizer.string(), " is another tokenizer than that of ", name,
                         "; set data.tokenizer back"));
  if (!start.state.start.empty() && start.state.start != inputs.start)
    throw UsageError(str(config.student.checkpoint, " has other weights than when ", name,
                         " began with it; set student.checkpoint back"));
  if (!start.state.demonstrations.empty() && start.state.demonstrations != inputs.demonstrations)
    throw UsageError(str("data: these are not the demonstrations, or not the statistics, that ", name,
                         " was trained with; set them back, or start from its weights in another output_dir "
                         "with student.checkpoint=",
                         name));
}

}  // namespace shallowpi
