// openpi's tensor names, in the one place that spells them.
#pragma once

#include <string>
#include <string_view>

namespace shallowpi::names {

inline const std::string kPaligemma = "paligemma_with_expert.paligemma.";
inline const std::string kVision = kPaligemma + "model.vision_tower.vision_model.";
inline const std::string kVisionLayers = kVision + "encoder.layers.";
inline const std::string kProjector = kPaligemma + "model.multi_modal_projector.linear.";
inline const std::string kBackbone = kPaligemma + "model.language_model.";
inline const std::string kBackboneLayers = kBackbone + "layers.";
inline const std::string kEmbedTokens = kBackbone + "embed_tokens.weight";
inline const std::string kTiedHead = kPaligemma + "lm_head.weight";  ///< embed_tokens' twin
inline const std::string kExpert = "paligemma_with_expert.gemma_expert.model.";
inline const std::string kExpertLayers = kExpert + "layers.";
inline const std::string kExpertHead = "paligemma_with_expert.gemma_expert.lm_head.weight";  ///< dead

/// Whether a tensor is the vision tower's or its projector's.
inline bool is_tower(std::string_view name) {
  return name.starts_with(kVision) || name.starts_with(kProjector);
}

}  // namespace shallowpi::names
