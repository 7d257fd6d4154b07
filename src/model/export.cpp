// Exports: our checkpoints (or any that can be read) as folders that openpi or LeRobot loads strictly.
#include "model/checkpoint_internal.h"
#include "model/tensor_names.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/log.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace fs = std::filesystem;
namespace checkpoint {
namespace {

bool uses_mean(NormMode mode) {
  return mode == NormMode::kZScore || mode == NormMode::kLeRobotMeanStd;
}

/// What openpi adds to a standard deviation or to a range; LeRobot's 1e-8 has no effect on any real
/// statistic.
double epsilon(NormMode mode) {
  return mode == NormMode::kZScore || mode == NormMode::kQuantile ? 1e-6 : 0.0;
}

/// Both packages refuse a file without the expert's lm_head, which nothing reads: zeros where the checkpoint
/// has none.
void add_dead_head(const PolicyConfig& config, torch::Dtype dtype, TensorPlan& plan) {
  const auto shape = expected_tensors(config).at(names::kExpertHead).shape;
  plan.try_emplace(names::kExpertHead,
                   PlannedTensor{dtype, shape, [shape, dtype] { return torch::zeros(shape, dtype); }});
}

/// LeRobot builds its backbone untied, so its files hold both of the tied pair; every name has its prefix.
TensorPlan to_lerobot(const TensorPlan& openpi) {
  TensorPlan plan;
  for (const auto& [name, tensor] : openpi) plan["model." + name] = tensor;
  plan["model." + names::kEmbedTokens] = openpi.at(names::kTiedHead);
  return plan;
}

}  // namespace

FeatureStats convert_stats(const FeatureStats& stats, NormMode from, NormMode to) {
  if (from == to) return stats;
  FeatureStats result = stats;
  auto& low = uses_mean(to) ? result.mean : result.q01;
  auto& high = uses_mean(to) ? result.std : result.q99;
  low.resize(stats.width());
  high.resize(stats.width());
  for (std::size_t i = 0; i < stats.width(); ++i) {
    // Every formula is (x - centre) / scale.
    const double scale = uses_mean(from) ? stats.std[i] + epsilon(from)
                                         : (stats.q99.at(i) - stats.q01.at(i) + epsilon(from)) / 2;
    const double centre = uses_mean(from) ? stats.mean[i] : stats.q01.at(i) + scale;
    low[i] = uses_mean(to) ? centre : centre - scale;
    high[i] = uses_mean(to) ? std::max(scale - epsilon(to), 0.0) : centre + scale - epsilon(to);
  }
  return result;
}

std::string fill_template(std::string text, const std::vector<std::pair<std::string, std::string>>& values) {
  for (const auto& [key, value] : values)
    for (std::size_t at = 0; (at = text.find(key, at)) != std::string::npos; at += value.size())
      text.replace(at, key.size(), value);
  return text;
}

}  // namespace checkpoint

void export_checkpoint(const fs::path& folder, CheckpointFormat to, const fs::path& out,
                       std::optional<std::int64_t> horizon) {
  const CheckpointInfo info = read_checkpoint_info(folder, horizon);
  if (!info.horizon_known)
    log::warning(info.folder.string(), " does not say how many action steps a chunk has; the export says ",
                 info.spec.horizon, ": give --horizon if that is wrong");
  if (info.format == CheckpointFormat::kShallowPi && fs::exists(info.folder / "manifest.json"))
    verify_manifest(info.folder);
  const SafetensorsFolder file(info.folder);
  const torch::Dtype store = checkpoint::stored_dtype(file);
  TensorPlan plan = checkpoint::copy_plan(file, info.config, {});
  checkpoint::add_dead_head(info.config, store, plan);
  publish_folder(out, [&](const fs::path& target) {
    checkpoint::copy_tokenizer(target, info.tokenizer);
    switch (to) {
      case CheckpointFormat::kOpenpi:
        checkpoint::write_openpi_side_files(target, info, store);
        write_safetensors(target / checkpoint::kWeights, plan, checkpoint::tied_metadata());
        return;
      case CheckpointFormat::kLeRobot:
        checkpoint::write_lerobot_side_files(target, info, store);
        write_safetensors(target / checkpoint::kWeights, checkpoint::to_lerobot(plan), {{"format", "pt"}});
        return;
      case CheckpointFormat::kShallowPi:
        throw UsageError("export: the target is openpi or lerobot");
    }
  });
}

}  // namespace shallowpi
