// Small checkpoints with random weights, in the shapes that the tests need.
#pragma once

#include <map>
#include <string>

#include "shallowpi/base/json.h"
#include "shallowpi/base/norm_stats.h"
#include "shallowpi/base/safetensors.h"
#include "shallowpi/base/text.h"
#include "shallowpi/model/config.h"
#include "test_util.h"

namespace shallowpi::testing {

inline const std::string kEmbedName =
    "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight";
inline const std::string kHeadName = "paligemma_with_expert.paligemma.lm_head.weight";
inline const std::string kDeadHeadName = "paligemma_with_expert.gemma_expert.lm_head.weight";
inline const std::string kBackboneLayer = "paligemma_with_expert.paligemma.model.language_model.layers.";
inline const std::string kExpertLayer = "paligemma_with_expert.gemma_expert.model.layers.";

inline PolicyConfig small_config(PolicyKind kind = PolicyKind::kPi05, std::int64_t depth = 4) {
  PolicyConfig config;
  config.kind = kind;
  config.vision = {1, 16, 24, 16, 14, 28};
  config.backbone = {depth, 16, 24, 8, 1, 4};
  config.expert = {depth, 8, 12, 8, 1, 4};
  config.vocab = 40;
  return config;
}

/// Random weights under openpi's names: the tied pair as lm_head, the dead expert head included.
inline NamedTensors random_weights(const PolicyConfig& config, std::uint64_t seed = 1) {
  torch::Generator generator = torch::make_generator<torch::CPUGeneratorImpl>(seed);
  NamedTensors tensors;
  for (const auto& [name, tensor] : expected_tensors(config))
    tensors[name == kEmbedName ? kHeadName : name] =
        torch::randn(tensor.shape, generator, torch::kFloat32) * 0.2;
  return tensors;
}

inline NamedTensors renamed(const NamedTensors& tensors, const std::string& prefix) {
  NamedTensors result;
  for (const auto& [name, tensor] : tensors) result[prefix + name] = tensor;
  return result;
}

inline void write_weights_file(const std::filesystem::path& folder, const NamedTensors& tensors) {
  std::filesystem::create_directories(folder);
  save_safetensors(folder / "model.safetensors", tensors);
}

inline NormStats small_stats(std::size_t state = 8, std::size_t actions = 7) {
  const auto feature = [](std::size_t width, double shift) {
    FeatureStats stats;
    for (std::size_t i = 0; i < width; ++i) {
      stats.mean.push_back(shift + 0.1 * i);
      stats.std.push_back(0.5 + 0.01 * i);
      stats.q01.push_back(shift - 1 + 0.1 * i);
      stats.q99.push_back(shift + 1 + 0.2 * i);
    }
    return stats;
  };
  return {feature(state, 0.25), feature(actions, -0.5)};
}

/// A LeRobot folder's config.json in its plainest form.
inline Json lerobot_config(const std::string& type) {
  return {{"type", type},
          {"input_features",
           {{"observation.images.image", {{"type", "VISUAL"}, {"shape", {3, 28, 28}}}},
            {"observation.images.image2", {{"type", "VISUAL"}, {"shape", {3, 28, 28}}}},
            {"observation.images.empty_camera_0", {{"type", "VISUAL"}, {"shape", {3, 28, 28}}}},
            {"observation.state", {{"type", "STATE"}, {"shape", Json::array({8})}}}}},
          {"output_features", {{"action", {{"type", "ACTION"}, {"shape", Json::array({7})}}}}},
          {"chunk_size", 10},
          {"use_relative_actions", false},
          {"tokenizer_max_length", 64}};
}

inline NamedTensors lerobot_stats(const NormStats& stats) {
  NamedTensors tensors;
  const auto put = [&](const std::string& feature, const FeatureStats& values) {
    tensors[feature + ".mean"] = torch::tensor(values.mean, torch::kFloat64);
    tensors[feature + ".std"] = torch::tensor(values.std, torch::kFloat64);
    tensors[feature + ".q01"] = torch::tensor(values.q01, torch::kFloat64);
    tensors[feature + ".q99"] = torch::tensor(values.q99, torch::kFloat64);
  };
  put("observation.state", stats.state);
  put("action", stats.actions);
  return tensors;
}

}  // namespace shallowpi::testing
