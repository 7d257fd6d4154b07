#include "eval/layer_study.h"

#include <iostream>

#include "shallowpi/base/cli.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"
#include "shallowpi/distill/setup.h"

namespace shallowpi {
namespace {

LabelledCheckpoint read_checked(const LayerStudyOptions& options) {
  const OfflineOptions& offline = options.offline;
  if (offline.checkpoints.size() != 1) throw UsageError("give one --checkpoint DIR");
  if (offline.demos.data.files.empty())
    throw UsageError("give --data FILE... (demonstrations), or --held-out CONFIG of a run");
  LabelledCheckpoint named = read_labelled_checkpoint(read_labelled_path(offline.checkpoints.front()),
                                                      offline.horizon, offline.demos.horizon);
  const std::int64_t depth = named.info.config.depth();
  if (options.keep < 1 || options.keep > depth)
    throw UsageError(
        str("--layers ", options.keep, ": ", named.label, " has ", depth, " layers; give 1 to ", depth));
  return named;
}

}  // namespace

LayerSubject::LayerSubject(const LayerStudyOptions& options)
    : options_(options),
      named_(read_checked(options)),
      dataset_(open_data(options.offline.demos.data)),
      samples_(choose_samples(dataset_, options.offline.demos, options.offline.frames)),
      pipeline_(make_pipeline(dataset_, named_.info, options.offline.demos.data)),
      policy_(load_policy(named_.info, options.offline.dtype, options.offline.measure.device)) {}

Json LayerSubject::circumstances() const {
  const OfflineOptions& offline = options_.offline;
  return {{"policy", named_.label},
          {"layers", named_.info.config.depth()},
          {"frames", samples_.size()},
          {"held_out", offline.demos.held_out},
          {"seed", offline.measure.seed},
          {"euler_steps", offline.measure.steps},
          {"dtype", dtype_name(offline.dtype)},
          {"device", offline.measure.device.str()},
          {"keep", options_.keep}};
}

void finish_study(const Json& report, const std::string& tables, const LayerStudyOptions& options) {
  std::cout << (options.json ? report.dump(2) + "\n" : tables);
  if (!options.offline.out.empty()) write_json(options.offline.out, report);
}

std::string layer_map_setting(const std::vector<std::int64_t>& kept) {
  return str("student.layer_map=[", join(kept, ","), "]");
}

}  // namespace shallowpi
