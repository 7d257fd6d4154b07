#include "eval/offline_inputs.h"

#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

/// The last part of a path, also of "runs/x/".
std::string own_name(const std::filesystem::path& folder) {
  const std::filesystem::path normal = std::filesystem::absolute(folder).lexically_normal();
  return (normal.has_filename() ? normal : normal.parent_path()).filename().string();
}

}  // namespace

Named read_named(const std::string& text, const OfflineOptions& options) {
  const std::size_t equals = text.find('=');
  const bool labelled = equals != std::string::npos && text.find('/') > equals;
  const std::filesystem::path folder = labelled ? text.substr(equals + 1) : text;
  return {labelled ? text.substr(0, equals) : own_name(folder),
          read_checkpoint_info(folder, options.horizon)};
}

Dataset open_data(const DataConfig& data) {
  std::vector<std::pair<std::string, double>> patterns;
  for (const DataFile& file : data.files) patterns.emplace_back(file.path, file.weight);
  const LiberoOptions libero{.raw_alignment = data.alignment == LiberoAlignment::kRaw,
                             .drop_noops = data.drop_noops};
  return open_dataset(patterns, std::string(enum_name(data.format)), libero);
}

SamplePipeline make_pipeline(const Dataset& dataset, const Named& named, const DataConfig& data) {
  const CheckpointInfo& info = named.info;
  if (!info.horizon_known)
    throw UsageError(
        str(info.folder.string(), " does not say how many steps an action chunk has: give --horizon H"));
  std::optional<NormStats> stats = info.stats;
  if (!data.norm_stats.empty()) stats = read_norm_stats(data.norm_stats);
  if (!stats)
    throw UsageError(
        str(info.folder.string(), " has no normalisation statistics: give data.norm_stats=FILE"));
  const auto tokenizer = std::make_shared<Tokenizer>(find_tokenizer(data.tokenizer, info.tokenizer));
  return SamplePipeline(dataset, info.spec, *stats, tokenizer, info.config.vocab);
}

std::vector<Dataset::Sample> choose_samples(const Dataset& dataset, const OfflineOptions& options) {
  const double fraction = options.held_out ? options.data.held_out_fraction : 0.0;
  if (options.held_out && fraction <= 0)
    throw UsageError("--held-out: that run holds nothing out (data.held_out_fraction is 0)");
  const Dataset::Split split = dataset.split(fraction, options.split_seed);
  const auto& samples = options.held_out ? split.held_out : split.train;
  if (samples.empty()) throw UsageError("the files hold no frame to measure on");
  return spread_samples(samples, options.frames);
}

}  // namespace shallowpi
