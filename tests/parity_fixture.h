// The numerical reference in tests/data/parity (see its README), and the checkpoint folders it stands for.
#pragma once

#include <filesystem>
#include <string>

#include "shallowpi/base/observation.h"
#include "shallowpi/base/safetensors.h"
#include "shallowpi/model/config.h"
#include "shallowpi/model/policy.h"
#include "test_util.h"

namespace shallowpi::testing {

inline const std::string kParityLmHead = "paligemma_with_expert.paligemma.lm_head.weight";
inline const std::string kParityEmbedTokens =
    "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight";

/// All tensors of the openpi file of `kind` ("pi0" or "pi05"), the tied pair as lm_head.
inline NamedTensors parity_weights(const std::string& kind) {
  NamedTensors weights = load_safetensors(test_data("parity/shared.safetensors"));
  weights.merge(load_safetensors(test_data("parity/" + kind + "/weights.safetensors")));
  return weights;
}

inline NamedTensors parity_io(const std::string& kind) {
  return load_safetensors(test_data("parity/" + kind + "/io.safetensors"));
}

/// An openpi folder: model.safetensors alone.
inline void write_parity_openpi(const std::filesystem::path& folder, const std::string& kind) {
  std::filesystem::create_directories(folder);
  save_safetensors(folder / "model.safetensors", parity_weights(kind));
}

/// A LeRobot folder: every name with `model.` in front, and LeRobot's config.json.
inline void write_parity_lerobot(const std::filesystem::path& folder, const std::string& kind) {
  std::filesystem::create_directories(folder);
  NamedTensors prefixed;
  for (const auto& [name, tensor] : parity_weights(kind)) prefixed["model." + name] = tensor;
  save_safetensors(folder / "model.safetensors", prefixed, {{"format", "pt"}});
  std::filesystem::copy_file(test_data("parity/" + kind + "/lerobot_config.json"), folder / "config.json");
}

inline Observation parity_observation(const NamedTensors& io) {
  Observation observation;
  for (int c = 0; io.count(str("in.image_", c)) != 0; ++c) {
    observation.images_bcyx.push_back(io.at(str("in.image_", c)));
    observation.image_masks_b.push_back(io.at(str("in.image_mask_", c)));
  }
  observation.tokens_bt = io.at("in.tokens").to(torch::kInt64);
  observation.token_mask_bt = io.at("in.token_mask");
  observation.state_bd = io.at("in.state");
  return observation;
}

/// The policy with these weights; `kept` picks the layers of a student (empty: all).
inline Policy parity_policy(const NamedTensors& weights, std::vector<std::int64_t> kept = {},
                            torch::Dtype dtype = torch::kFloat32, PolicyOptions options = {}) {
  std::map<std::string, std::vector<std::int64_t>> shapes;
  for (const auto& [name, tensor] : weights) shapes[name] = tensor.sizes().vec();
  PolicyConfig config = infer_config(shapes);
  if (kept.empty()) {
    for (std::int64_t i = 0; i < config.depth(); ++i) kept.push_back(i);
  }
  config.set_depth(static_cast<std::int64_t>(kept.size()));
  Policy policy(config, dtype, torch::kCPU, options);
  for (auto& [name, tensor] : policy->named_tensors()) {
    std::string source = name == kParityEmbedTokens ? kParityLmHead : name;
    for (const std::string stack : {"language_model.layers.", "gemma_expert.model.layers."}) {
      const std::size_t at = name.find(stack);
      if (at == std::string::npos) continue;
      const std::size_t begin = at + stack.size(), end = name.find('.', begin);
      const auto layer = static_cast<std::size_t>(std::stol(name.substr(begin, end - begin)));
      source = str(name.substr(0, begin), kept.at(layer), name.substr(end));
    }
    tensor.copy_(weights.at(source));
  }
  return policy;
}

}  // namespace shallowpi::testing
