// The sizes of a pi0 / pi0.5 network, and the one list of tensors that follows from them.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "shallowpi/base/enum_names.h"

namespace shallowpi {

enum class PolicyKind { kPi0, kPi05 };
template <>
inline constexpr auto kEnumNames<PolicyKind> = std::to_array<EnumName<PolicyKind>>({
    {PolicyKind::kPi0, "pi0"},
    {PolicyKind::kPi05, "pi05"},
});

/// Periods of the sinusoidal embedding of t (openpi's create_sinusoidal_pos_embedding).
inline constexpr double kMinPeriod = 4e-3, kMaxPeriod = 4.0;

/// One Gemma stack. Backbone and expert must agree in depth, heads, kv_heads and head_dim.
struct GemmaConfig {
  std::int64_t depth = 18, width = 2048, mlp = 16384, heads = 8, kv_heads = 1, head_dim = 256;
};

struct VisionConfig {
  std::int64_t depth = 27, width = 1152, mlp = 4304, heads = 16, patch = 14, image_size = 224;
  std::int64_t tokens() const { return (image_size / patch) * (image_size / patch); }
};

struct PolicyConfig {
  PolicyKind kind = PolicyKind::kPi05;
  VisionConfig vision;
  GemmaConfig backbone;
  GemmaConfig expert{18, 1024, 4096, 8, 1, 256};
  std::int64_t vocab = 257152;
  std::int64_t action_dim = 32;  ///< padded state and action width

  std::int64_t depth() const { return backbone.depth; }
  /// Sets the layers of both stacks.
  void set_depth(std::int64_t depth) { backbone.depth = expert.depth = depth; }
  /// All that is wrong with the sizes, one sentence each; empty where they are valid.
  std::vector<std::string> problems() const;
};

/// What one tensor of a checkpoint is.
struct ExpectedTensor {
  std::vector<std::int64_t> shape;
  bool keep_float32 = false;  ///< stays fp32 in a bf16 model: norms, adaRMS dense, embeddings of patches and
                              ///< positions, projections
  bool dead = false;  ///< in the file, but no output depends on it: not trained, copied from the teacher
  std::int64_t size() const;  ///< elements
};

/// Every tensor of an openpi file with these sizes, by openpi's name.
/// The tied pair appears once, as `embed_tokens`.
std::map<std::string, ExpectedTensor> expected_tensors(const PolicyConfig& config);

/// Live parameters (what a forward pass reads) and dead ones.
struct ParameterCount {
  std::int64_t live = 0, dead = 0;
};
ParameterCount count_parameters(const PolicyConfig& config);

/// Sizes from tensor names (openpi's, without `model.`) and shapes; these do not tell the numbers of heads,
/// which are the released policies' unless given. Throws CorruptError that names what is missing or
/// contradictory (for instance 18 and 12 layers in the two stacks).
PolicyConfig infer_config(const std::map<std::string, std::vector<std::int64_t>>& shapes,
                          std::int64_t heads = GemmaConfig{}.heads,
                          std::int64_t vision_heads = VisionConfig{}.heads);

}  // namespace shallowpi
