#include "shallowpi/data/pipeline.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "data/augment.h"
#include "data/policy_sample.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/log.h"
#include "shallowpi/data/normalize.h"
#include "shallowpi/data/random.h"

namespace shallowpi {
namespace {

constexpr std::uint64_t kStateStream = 1000;  // beside the cameras' numbers

bool is_wrist(const std::string& camera) {
  return camera.find("wrist") != std::string::npos;
}

constexpr const char* kHowToName =
    "convert the data into another folder, where cameras have the policy's names "
    "(scripts/convert_lerobot.py "
    "--camera KEY=NAME), or, where no policy is given, set policy.image_keys";

// The spec with image_keys narrowed to the cameras that the data has.
PolicySpec fit_to_data(const Dataset& dataset, PolicySpec spec) {
  check_fits(dataset, spec);
  const std::vector<std::string> available = dataset.camera_names();
  if (spec.image_keys.empty()) {
    spec.image_keys = available;
    if (available.size() > 1)
      std::erase(spec.image_keys, "cam_low");  // openpi does not use ALOHA's low camera
  }
  std::vector<std::string> used, missing;
  for (const std::string& key : spec.image_keys) {
    const auto lacking = dataset.files_without(key);
    (lacking.empty() ? used : missing).push_back(key);
    if (!lacking.empty() && lacking.size() < dataset.sources().size())
      throw UsageError(str("the policy's camera ", key, " is missing in ", lacking.size(), " of ",
                           dataset.sources().size(), " files, the first of them ",
                           lacking.front()->path().string(),
                           "; leave these files out, or the camera out of policy.image_keys"));
  }
  if (used.empty())
    throw UsageError(str("none of the policy's cameras (", join(spec.image_keys, ", "),
                         ") is in the data, which has ", join(available, ", "), "; ", kHowToName));
  if (!missing.empty()) {
    std::vector<std::string> spare;
    for (const std::string& camera : available)
      if (camera != "cam_low" && std::ranges::count(used, camera) == 0) spare.push_back(camera);
    log::warning(
        "the data has no camera ", join(missing, ", "), "; the policy runs without it, on ", join(used, ", "),
        spare.empty()
            ? ""
            : str(". Nothing reads the data's ", join(spare, ", "), ": if that is it, ", kHowToName));
  }
  spec.image_keys = std::move(used);
  return spec;
}

// A policy may have been trained with a dim that never changed; data where it does would explode.
void check_constant_dims(const Dataset& dataset, PolicySpec spec, const NormStats& stats) {
  constexpr float kExplodes = 1e3f;
  const auto state_dims = dims_without_range(stats.state, spec.norm_mode);
  const auto action_dims = dims_without_range(stats.actions, spec.norm_mode);
  if (state_dims.empty() && action_dims.empty()) return;
  // Each action is the first of a chunk: but relative ones differ from chunk to chunk, and frames that repeat
  // begin none.
  if (spec.robot.delta_mask.empty() && !repeats_images(dataset)) spec.horizon = 1;
  for (const Dataset::Sample& sample : dataset.split(0, 0).train) {
    const auto check = [&](const FeatureStats& of, const std::vector<std::size_t>& dims, const char* what,
                           const std::vector<float>& values) {
      std::vector<float> normalized = values;
      normalize(of, spec.norm_mode, normalized);
      for (const std::size_t dim : dims) {
        if (std::abs(normalized[dim]) <= kExplodes) continue;
        const EpisodeFile& file = dataset.file(sample);
        throw UsageError(str(file.path().string(), ": ", file.episodes()[sample.episode].name, " step ",
                             sample.step, ": ", what, " dim ", dim, " is ", values[dim],
                             ", but in the policy's statistics it never changes, so it would be ",
                             normalized[dim], " for the network; leave this file out"));
      }
    };
    const PolicySample raw = policy_sample(dataset, sample, spec);
    check(stats.state, state_dims, "state", raw.state);
    for (const std::vector<float>& action : raw.actions) check(stats.actions, action_dims, "action", action);
  }
}

// Where the values of one dim lie, normalised.
struct DimRange {
  float low = INFINITY, high = -INFINITY;
  std::int64_t values = 0, outside = 0;

  void add(float value, float limit) {
    low = std::min(low, value);
    high = std::max(high, value);
    ++values;
    outside += !(std::abs(value) <= limit);
  }
};

// A policy may leave a feature as it is: then it may lie anywhere.
bool is_identity(const FeatureStats& stats, std::size_t dim) {
  return stats.mean[dim] == 0 && stats.std[dim] == 1 &&
         (stats.q01.empty() || (stats.q01[dim] == -1 && stats.q99[dim] == 1));
}

// Statistics of another robot, of other units or of absolute instead of relative actions spoil everything,
// and nothing else would show it.
void warn_of_other_statistics(const Dataset& dataset, const PolicySpec& spec, const NormStats& stats) {
  constexpr std::int64_t kFrames = 512;
  constexpr double kTooMany =
      0.25;  // of computed ones 2 % are outside of quantiles, and 4 % of 5 sigma at most
  const float limit = uses_quantiles(spec.norm_mode) ? 1.5f : 5.0f;
  std::vector<DimRange> state(static_cast<std::size_t>(spec.robot.state_dim)),
      actions(static_cast<std::size_t>(spec.robot.action_dim));
  const auto add = [&](const FeatureStats& of, std::vector<float> values, std::vector<DimRange>& ranges) {
    normalize(of, spec.norm_mode, values);
    for (std::size_t dim = 0; dim < ranges.size(); ++dim) ranges[dim].add(values[dim], limit);
  };
  for (const Dataset::Sample& sample : spread_samples(dataset.split(0, 0).train, kFrames)) {
    const PolicySample raw = policy_sample(dataset, sample, spec);
    add(stats.state, raw.state, state);
    for (const std::vector<float>& action : raw.actions) add(stats.actions, action, actions);
  }
  std::vector<std::string> foreign;
  for (const auto& [name, of, ranges] :
       {std::tuple{"state", &stats.state, &state}, {"action", &stats.actions, &actions}})
    for (std::size_t dim = 0; dim < ranges->size(); ++dim)
      if (const DimRange& range = (*ranges)[dim];
          !is_identity(*of, dim) &&
          static_cast<double>(range.outside) > kTooMany * static_cast<double>(range.values))
        foreign.push_back(
            str(name, " dim ", dim, " lies at ", fixed(range.low, 1), " to ", fixed(range.high, 1)));
  if (!foreign.empty())
    log::warning(
        "normalised, the data is far from the usual -1 to 1: ", join(foreign, ", "),
        ". These statistics seem to be of other data: another robot, other units, or relative actions "
        "instead of absolute ones");
}

bool lacks_prompt(const EpisodeInfo& episode) {
  const std::vector<std::string>& texts = episode.step_prompts;
  return texts.empty() ? is_blank(episode.prompt) : std::ranges::any_of(texts, is_blank);
}

void add_noise(const Augmentation& augmentation, std::int64_t position, std::vector<float>& state) {
  Random random({augmentation.seed, static_cast<std::uint64_t>(position), kStateStream});
  for (std::size_t dim = 0; dim < augmentation.state_noise.size(); ++dim)
    state.at(dim) += static_cast<float>(augmentation.state_noise[dim] * random.normal());
}

}  // namespace

RobotObservation robot_observation(const Dataset& dataset, const Dataset::Sample& sample,
                                   const std::vector<std::string>& cameras) {
  const EpisodeFile& file = dataset.file(sample);
  const std::vector<std::string>& names = file.camera_names();
  std::vector<std::size_t> indices;
  for (std::size_t i = 0; i < names.size(); ++i)
    if (std::find(cameras.begin(), cameras.end(), names[i]) != cameras.end()) indices.push_back(i);
  std::vector<Image> images = file.frame(sample.episode, sample.step, indices);
  RobotObservation observation;
  for (std::size_t i = 0; i < indices.size(); ++i)
    observation.images[names[indices[i]]] = std::move(images[i]);
  observation.state = dataset.state(sample);
  observation.prompt = file.episodes()[sample.episode].prompt_at(sample.step);
  return observation;
}

bool repeats_images(const Dataset& dataset) {
  return std::any_of(dataset.sources().begin(), dataset.sources().end(), [](const Dataset::Source& source) {
    const auto& episodes = source.file->episodes();
    return std::any_of(episodes.begin(), episodes.end(),
                       [](const auto& episode) { return !episode.repeats.empty(); });
  });
}

SamplePipeline::SamplePipeline(const Dataset& dataset, PolicySpec spec, NormStats stats,
                               std::shared_ptr<const Tokenizer> tokenizer, std::int64_t vocab,
                               StatsOrigin origin)
    : dataset_(&dataset),
      transform_(fit_to_data(dataset, std::move(spec)), std::move(stats), std::move(tokenizer), vocab) {
  if (origin == StatsOrigin::kPolicy) {
    check_constant_dims(dataset, this->spec(), this->stats());
  } else {
    check_ranges(this->stats().state, this->spec().norm_mode, "state");
    check_ranges(this->stats().actions, this->spec().norm_mode, "actions");
  }
  warn_of_other_statistics(dataset, this->spec(), this->stats());
  for (const Dataset::Source& source : dataset.sources()) {
    for (const EpisodeInfo& episode : source.file->episodes())
      if (lacks_prompt(episode) && is_blank(this->spec().default_prompt))
        throw UsageError(str(source.file->path().string(), ": ", episode.name,
                             episode.step_prompts.empty() ? " has" : " has steps that have",
                             " no instruction; set policy.default_prompt"));
  }
}

// As in PolicyTransform::prepare, tensors are filled through their pointers.
TrainingBatch SamplePipeline::make_batch(const std::vector<Dataset::Sample>& samples,
                                         const std::optional<Augmentation>& augmentation) const {
  if (samples.empty()) throw UsageError("a batch needs at least one sample");
  const auto batch_size = static_cast<std::int64_t>(samples.size());
  TrainingBatch batch;
  std::vector<std::vector<float>> states(
      samples.size());  // as the policy sees them: relative actions start there
  batch.observation = transform_.prepare(batch_size, [&](std::int64_t position) {
    RobotObservation observation = robot_observation(*dataset_, samples[position], spec().image_keys);
    if (augmentation) add_noise(*augmentation, position, observation.state);
    states[position] = observation.state;
    return observation;
  });
  const std::int64_t width = spec().action_width;
  batch.actions_bhd = torch::empty({batch_size, spec().horizon, width}, torch::kFloat32);
  float* action_row = batch.actions_bhd.data_ptr<float>();
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const RobotActions actions =
        policy_actions(spec(), stats().actions, dataset_->chunk(samples[i], spec().horizon), states[i]);
    for (const std::vector<float>& action : actions) {
      write_padded(action, action_row, width);
      action_row += width;
    }
  }
  if (augmentation && augmentation->images) augment_images(augmentation->seed, batch.observation);
  return batch;
}

void SamplePipeline::augment_images(std::uint64_t seed, Observation& observation) const {
  for (std::size_t camera = 0; camera < observation.images_bcyx.size(); ++camera) {
    const torch::Tensor& images_bcyx = observation.images_bcyx[camera];
    const std::int64_t size = images_bcyx.size(3), pixels = images_bcyx.size(1) * size * size;
    for (std::int64_t position = 0; position < images_bcyx.size(0); ++position) {
      Random random({seed, static_cast<std::uint64_t>(position), camera});
      augment(images_bcyx.data_ptr<float>() + position * pixels, size, is_wrist(spec().image_keys[camera]),
              random);
    }
  }
}

}  // namespace shallowpi
