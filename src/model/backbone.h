// The Gemma backbone: turns prefix tokens into the keys and values that the action expert attends to.
#pragma once

#include <string>
#include <vector>

#include "model/ops.h"
#include "model/parameters.h"
#include "shallowpi/model/policy.h"

namespace shallowpi {

/// What all backbone layers share for one batch.
struct PrefixContext {
  Rotation rotation;    ///< of positions 0 .. P-1
  bool fused = false;   ///< whether fused::attention does it, which needs no masks
  Tensor lengths_b;     ///< int64, and the masks that they give; undefined where all samples have P tokens
  Tensor key_mask_b1p;  ///< additive
  Tensor row_mask_bp1;  ///< 1 for valid tokens, else 0
};

struct BackboneLayer {
  Tensor input_norm;
  Tensor qkv;  ///< in the last layer only k and v
  Tensor q;    ///< the last layer's, dead
  Tensor o, post_norm, gate_up, down;
  std::int64_t heads = 0;
  bool is_last = false;

  BackboneLayer(ParameterStore& store, const GemmaConfig& config, std::int64_t index);
  struct Output {
    Heads heads;    ///< queries undefined in the last layer, unless `with_queries`
    Residual next;  ///< undefined in the last layer
  };
  Output forward(const Residual& stream, const PrefixContext& context, bool with_queries) const;
  TensorList parameters() const { return {input_norm, qkv, q, o, post_norm, gate_up, down}; }

 private:
  Heads project_heads(const Tensor& normalized, const PrefixContext& context, bool with_queries) const;
};

class Backbone {
 public:
  Backbone(ParameterStore& store, const GemmaConfig& config);

  /// Token embeddings times sqrt(W): ids [...] -> [..., W].
  Tensor embed(const Tensor& ids) const;
  /// Fills keys and values of `cache` (whose mask is set) from the prefix embeddings [B, P, W], and the tap.
  void encode(Tensor x, PrefixCache& cache, AttentionTap* tap, bool recompute) const;

 private:
  GemmaConfig config_;
  Tensor embed_tokens_;
  std::vector<BackboneLayer> layers_;
};

}  // namespace shallowpi
