// Exports: our checkpoints (or any that can be read) as folders that openpi or LeRobot loads strictly.
#include "model/export.h"

#include <algorithm>
#include <cmath>

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

const char* package(CheckpointFormat format) {
  return format == CheckpointFormat::kOpenpi ? "openpi" : "LeRobot";
}

/// What openpi adds to a standard deviation or to a range;
/// LeRobot's 1e-8 has no effect on any real statistic.
double epsilon(NormMode mode) {
  return mode == NormMode::kZScore || mode == NormMode::kQuantile ? 1e-6 : 0.0;
}

void check_heads(const PolicyConfig& config, const fs::path& folder) {
  if (has_released_heads(config)) return;
  const PolicyConfig released;
  throw UsageError(str("export: ", folder.string(), " has ", config.backbone.heads, " attention heads and ",
                       config.vision.heads, " in the vision tower; openpi and LeRobot always take ",
                       released.backbone.heads, " and ", released.vision.heads,
                       ", so there it would be another network"));
}

/// Both packages refuse a file without the expert's lm_head, which nothing reads:
/// zeros where the checkpoint has none.
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

bool has_released_depth(const PolicyConfig& config) {
  return config.depth() == PolicyConfig{}.depth();
}

bool has_released_heads(const PolicyConfig& config) {
  const PolicyConfig released;
  return config.backbone.heads == released.backbone.heads && config.expert.heads == released.expert.heads &&
         config.vision.heads == released.vision.heads;
}

std::vector<std::string> unreleased_sizes(const PolicyConfig& config, CheckpointFormat to) {
  const PolicyConfig released;
  std::vector<std::string> found;
  const auto compare = [&](const char* what, std::int64_t size, std::int64_t expected) {
    if (size != expected) found.push_back(str(what, " ", size, " (released: ", expected, ")"));
  };
  compare("backbone width", config.backbone.width, released.backbone.width);
  compare("backbone MLP", config.backbone.mlp, released.backbone.mlp);
  compare("expert width", config.expert.width, released.expert.width);
  compare("expert MLP", config.expert.mlp, released.expert.mlp);
  compare("head width", config.backbone.head_dim, released.backbone.head_dim);
  compare("vision depth", config.vision.depth, released.vision.depth);
  compare("vision width", config.vision.width, released.vision.width);
  compare("vision MLP", config.vision.mlp, released.vision.mlp);
  compare("patch size", config.vision.patch, released.vision.patch);
  if (to == CheckpointFormat::kOpenpi)  // LeRobot's config.json says it
    compare("image size", config.vision.image_size, released.vision.image_size);
  compare("vocabulary", config.vocab, released.vocab);
  return found;
}

std::string how_to_load(const PolicyConfig& config, CheckpointFormat to) {
  const std::string loads = str("load strictly, once ", package(to), " knows the depth:");
  const std::vector<std::string> sizes = unreleased_sizes(config, to);
  if (sizes.empty()) return "The weights " + loads;
  return str("**", package(to),
             " does not load this policy as it is.** Its code holds the released sizes; change there: ",
             join(sizes, ", "), ". Then the weights ", loads);
}

FeatureStats convert_stats(const FeatureStats& stats, NormMode from, NormMode to) {
  if (from == to) return stats;
  const auto& needed = uses_quantiles(from) ? stats.q99 : stats.std;
  if (needed.size() != stats.width())
    throw CorruptError(str("the statistics lack ", uses_quantiles(from) ? "q01 and q99" : "mean and std",
                           ", which ", enum_name(from), " needs; recompute them"));
  FeatureStats result = stats;
  auto& low = uses_quantiles(to) ? result.q01 : result.mean;
  auto& high = uses_quantiles(to) ? result.q99 : result.std;
  low.resize(stats.width());
  high.resize(stats.width());
  for (std::size_t i = 0; i < stats.width(); ++i) {
    // Every formula is (x - centre) / scale.
    double scale = uses_quantiles(from) ? (stats.q99[i] - stats.q01[i] + epsilon(from)) / 2
                                        : stats.std[i] + epsilon(from);
    const double centre = uses_quantiles(from) ? stats.q01[i] + scale : stats.mean[i];
    // A constant becomes 0 as a z-score, but -1 between equal quantiles: those need some width, which must
    // not vanish in float32.
    if (!uses_quantiles(from) && uses_quantiles(to))
      scale = std::max(scale, 1e-6 * std::max(1.0, std::abs(centre)));
    low[i] = uses_quantiles(to) ? centre - scale : centre;
    high[i] = uses_quantiles(to) ? std::max(centre + scale - epsilon(to), low[i])
                                 : std::max(scale - epsilon(to), 0.0);
  }
  return result;
}

std::vector<std::string> openpi_cameras(const std::vector<std::string>& cameras) {
  if (cameras.size() > kCanonicalCameras.size())
    throw UsageError(str("export: the policy sees ", cameras.size(), " cameras (", join(cameras, ", "),
                         "), openpi has only ", join(kCanonicalCameras, ", "),
                         "; narrow policy.image_keys with shallowpi-distill --init-only first"));
  auto slot = kCanonicalCameras.begin();
  for (const std::string& camera : cameras) {
    slot = std::find(slot, kCanonicalCameras.end(), camera);
    if (slot == kCanonicalCameras.end())
      return {kCanonicalCameras.begin(),
              kCanonicalCameras.begin() + static_cast<std::ptrdiff_t>(cameras.size())};
    ++slot;
  }
  return cameras;
}

std::string camera_mapping(const std::vector<std::string>& cameras) {
  const std::vector<std::string> slots = openpi_cameras(cameras);
  std::vector<std::string> pairs;
  for (std::size_t i = 0; slots != cameras && i < slots.size(); ++i)
    pairs.push_back(str(cameras[i], " as ", slots[i]));
  return join(pairs, ", ");
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
    log::warning(unknown_horizon(info), "; the export says ", info.spec.horizon,
                 ": give --horizon if that is wrong");
  log_warnings(info);
  verify_files(info, OptionalFiles::kUnchecked);
  checkpoint::check_heads(info.config, info.folder);
  if (const auto sizes = checkpoint::unreleased_sizes(info.config, to); !sizes.empty())
    log::warning(checkpoint::package(to), " does not load what is exported from ", info.folder.string(),
                 " until these sizes are changed in its code: ", join(sizes, ", "));
  const bool to_openpi = to == CheckpointFormat::kOpenpi;
  if (const std::string mapping = to_openpi ? checkpoint::camera_mapping(info.spec.image_keys) : "";
      !mapping.empty())
    log::warning("openpi has other cameras, or another order, than this policy: give it ", mapping);
  const SafetensorsFolder file(info.folder);
  const torch::Dtype store = checkpoint::stored_dtype(file);
  TensorPlan plan = checkpoint::copy_plan(file, info.config, {});
  checkpoint::add_dead_head(info.config, store, plan);
  publish_folder(out, [&](const fs::path& target) {
    if (!info.tokenizer.empty()) checkpoint::write_tokenizer(target, read_file(info.tokenizer));
    switch (to) {
      case CheckpointFormat::kOpenpi:
        checkpoint::write_openpi_side_files(target, info, store);
        write_safetensors(target / SafetensorsFolder::kFile, plan, checkpoint::tied_metadata());
        return;
      case CheckpointFormat::kLeRobot:
        checkpoint::write_lerobot_side_files(target, info, store);
        write_safetensors(target / SafetensorsFolder::kFile, checkpoint::to_lerobot(plan),
                          {{"format", "pt"}});
        return;
      case CheckpointFormat::kShallowPi:
        throw UsageError("export: the target is openpi or lerobot");
    }
  });
}

}  // namespace shallowpi
