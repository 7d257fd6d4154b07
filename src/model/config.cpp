#include "shallowpi/model/config.h"

#include <cmath>
#include <functional>
#include <numeric>
#include <optional>
#include <set>

#include "model/tensor_names.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

using Shape = std::vector<std::int64_t>;
using Shapes = std::map<std::string, Shape>;

// Larger sizes than any policy has, small enough that no product of two overflows.
constexpr std::int64_t kMaxSize = 1 << 24;
constexpr std::int64_t kMaxDepth = 1000;
constexpr std::int64_t kMaxHeads = 1024;
constexpr std::int64_t kMaxSide = 65536;  // of an image, and a head's width
constexpr std::int64_t kMaxPatch = 4096;

/// Collects expected tensors under a prefix.
class TensorList {
 public:
  void add(const std::string& name, Shape shape, bool keep_float32 = false, bool dead = false) {
    tensors_[name] = {std::move(shape), keep_float32, dead};
  }
  void add_linear(const std::string& prefix, std::int64_t out, std::int64_t in, bool keep_float32 = false) {
    add(prefix + "weight", {out, in}, keep_float32);
    add(prefix + "bias", {out}, keep_float32);
  }
  /// A norm of a Gemma stack: a weight, or (adaRMS) a linear layer from the time
  /// embedding to scale, shift and gate.
  void add_norm(const std::string& prefix, std::int64_t width, bool adaptive, bool dead = false) {
    if (adaptive)
      add_linear(prefix + "dense.", 3 * width, width, true);
    else
      add(prefix + "weight", {width}, true, dead);
  }
  std::map<std::string, ExpectedTensor> take() { return std::move(tensors_); }

 private:
  std::map<std::string, ExpectedTensor> tensors_;
};

void add_vision(TensorList& list, const VisionConfig& vision, std::int64_t out_width) {
  const std::int64_t width = vision.width;
  list.add(names::kVision + "embeddings.patch_embedding.weight", {width, 3, vision.patch, vision.patch},
           true);
  list.add(names::kVision + "embeddings.patch_embedding.bias", {width}, true);
  list.add(names::kVision + "embeddings.position_embedding.weight", {vision.tokens(), width}, true);
  for (std::int64_t i = 0; i < vision.depth; ++i) {
    const std::string layer = str(names::kVisionLayers, i, ".");
    for (const char* norm : {"layer_norm1.", "layer_norm2."})
      for (const char* part : {"weight", "bias"}) list.add(layer + norm + part, {width});
    for (const char* projection : {"q_proj.", "k_proj.", "v_proj.", "out_proj."})
      list.add_linear(layer + "self_attn." + projection, width, width);
    list.add_linear(layer + "mlp.fc1.", vision.mlp, width);
    list.add_linear(layer + "mlp.fc2.", width, vision.mlp);
  }
  for (const char* part : {"weight", "bias"}) list.add(names::kVision + "post_layernorm." + part, {width});
  list.add_linear(names::kProjector, out_width, width);
}

/// `last_is_dead`: nothing reads what the last layer computes from its keys and
/// values on (the backbone's case).
void add_gemma(TensorList& list, const std::string& prefix, const GemmaConfig& gemma, bool adaptive,
               bool last_is_dead) {
  const std::int64_t inner = gemma.heads * gemma.head_dim, kv = gemma.kv_heads * gemma.head_dim;
  for (std::int64_t i = 0; i < gemma.depth; ++i) {
    const std::string layer = str(prefix, "layers.", i, ".");
    const bool dead = last_is_dead && i + 1 == gemma.depth;
    list.add(layer + "self_attn.q_proj.weight", {inner, gemma.width}, false, dead);
    list.add(layer + "self_attn.k_proj.weight", {kv, gemma.width});
    list.add(layer + "self_attn.v_proj.weight", {kv, gemma.width});
    list.add(layer + "self_attn.o_proj.weight", {gemma.width, inner}, false, dead);
    list.add(layer + "mlp.gate_proj.weight", {gemma.mlp, gemma.width}, false, dead);
    list.add(layer + "mlp.up_proj.weight", {gemma.mlp, gemma.width}, false, dead);
    list.add(layer + "mlp.down_proj.weight", {gemma.width, gemma.mlp}, false, dead);
    list.add_norm(layer + "input_layernorm.", gemma.width, adaptive);
    list.add_norm(layer + "post_attention_layernorm.", gemma.width, adaptive, dead);
  }
  list.add_norm(prefix + "norm.", gemma.width, adaptive, last_is_dead);
}

/// Highest layer number + 1 among the names under `prefix`. Throws where numbers are missing or not numbers.
std::int64_t count_layers(const Shapes& shapes, const std::string& prefix, std::string_view what) {
  std::set<std::int64_t> layers;
  for (auto it = shapes.lower_bound(prefix); it != shapes.end() && it->first.starts_with(prefix); ++it) {
    const std::string digits =
        it->first.substr(prefix.size(), it->first.find('.', prefix.size()) - prefix.size());
    const bool is_number = !digits.empty() && digits.size() <= 4 &&
                           digits.find_first_not_of("0123456789") == std::string::npos &&
                           (digits == "0" || digits[0] != '0');
    if (!is_number) throw CorruptError(str("tensor '", it->first, "': '", digits, "' is not a layer number"));
    layers.insert(std::stoll(digits));
  }
  if (layers.empty())
    throw CorruptError(str("the ", what, " has no layers (no tensor named ", prefix, "0...)"));
  const std::int64_t depth = *layers.rbegin() + 1;
  std::vector<std::int64_t> gaps;
  for (std::int64_t i = 0; i < depth && gaps.size() < 10; ++i)
    if (!layers.count(i)) gaps.push_back(i);
  if (!gaps.empty())
    throw CorruptError(str("the ", what, " has a layer ", depth - 1, " but lacks layer ", join(gaps, ", "),
                           ": layers must be numbered from 0 without gaps"));
  return depth;
}

/// One size as the tensors tell it: most of them must agree, so that one damaged tensor is reported as such
/// and does not make all others look wrong.
class SizeVote {
 public:
  explicit SizeVote(const Shapes& shapes) : shapes_(shapes) {}
  /// `name`, where it exists with `rank` dimensions, says that the size is its `dim`-th.
  SizeVote& ask(const std::string& name, std::size_t rank, std::size_t dim) {
    const auto it = shapes_.find(name);
    if (it != shapes_.end() && it->second.size() == rank) ++votes_[it->second[dim]];
    return *this;
  }
  std::optional<std::int64_t> result() const {
    std::optional<std::int64_t> winner;
    for (const auto& [size, count] : votes_)
      if (!winner || count > votes_.at(*winner)) winner = size;
    return winner;
  }
  std::int64_t result(const std::string& what) const {
    if (const auto winner = result()) return *winner;
    throw CorruptError(
        str("no tensor tells ", what, ": those that would are missing or have another number of dimensions"));
  }

 private:
  const Shapes& shapes_;
  std::map<std::int64_t, int> votes_;
};

std::int64_t divide(std::int64_t size, std::int64_t heads, const std::string& what) {
  if (heads < 1 || size % heads != 0)
    throw CorruptError(str(what, " of ", size, " cannot be split into ", heads, " heads"));
  return size / heads;
}

GemmaConfig infer_gemma(const Shapes& shapes, const std::string& prefix, std::int64_t heads,
                        const std::string& what) {
  GemmaConfig gemma;
  gemma.depth = count_layers(shapes, prefix + "layers.", what);
  SizeVote width(shapes), inner(shapes), kv(shapes), mlp(shapes);
  for (std::int64_t i = 0; i < gemma.depth; ++i) {
    const std::string layer = str(prefix, "layers.", i, ".");
    for (const char* name : {"q_proj", "k_proj", "v_proj"})
      width.ask(layer + "self_attn." + name + ".weight", 2, 1);
    inner.ask(layer + "self_attn.q_proj.weight", 2, 0).ask(layer + "self_attn.o_proj.weight", 2, 1);
    kv.ask(layer + "self_attn.k_proj.weight", 2, 0).ask(layer + "self_attn.v_proj.weight", 2, 0);
    mlp.ask(layer + "mlp.gate_proj.weight", 2, 0).ask(layer + "mlp.up_proj.weight", 2, 0);
    mlp.ask(layer + "mlp.down_proj.weight", 2, 1);
  }
  gemma.width = width.result(str("the ", what, "'s width"));
  gemma.heads = heads;
  gemma.head_dim =
      divide(inner.result(str("the ", what, "'s query width")), heads, str("the ", what, "'s query width"));
  gemma.kv_heads = gemma.head_dim > 0 ? kv.result(str("the ", what, "'s key width")) / gemma.head_dim : 0;
  gemma.mlp = mlp.result(str("the ", what, "'s MLP size"));
  return gemma;
}

VisionConfig infer_vision(const Shapes& shapes, std::int64_t heads) {
  VisionConfig vision;
  vision.depth = count_layers(shapes, names::kVisionLayers, "vision tower");
  vision.heads = heads;
  SizeVote width(shapes), mlp(shapes);
  for (std::int64_t i = 0; i < vision.depth; ++i) {
    const std::string layer = str(names::kVisionLayers, i, ".");
    width.ask(layer + "layer_norm1.weight", 1, 0).ask(layer + "self_attn.q_proj.weight", 2, 1);
    mlp.ask(layer + "mlp.fc1.weight", 2, 0)
        .ask(layer + "mlp.fc2.weight", 2, 1)
        .ask(layer + "mlp.fc1.bias", 1, 0);
  }
  vision.width = width.result("the vision tower's width");
  vision.mlp = mlp.result("the vision tower's MLP size");
  SizeVote patch(shapes), tokens(shapes);
  patch.ask(names::kVision + "embeddings.patch_embedding.weight", 4, 2);
  tokens.ask(names::kVision + "embeddings.position_embedding.weight", 2, 0);
  // Where these are missing, the released models' sizes let the comparison with the file list them.
  vision.patch = patch.result().value_or(vision.patch);
  const std::int64_t count = tokens.result().value_or(vision.tokens());
  if (count < 1 || count > kMaxSize || vision.patch < 1 || vision.patch > kMaxPatch)
    throw CorruptError(str("the vision tower has ", count, " position embeddings and patches of ",
                           vision.patch, " pixels; no policy has such sizes"));
  const auto side = static_cast<std::int64_t>(std::llround(std::sqrt(static_cast<double>(count))));
  if (side * side != count)
    throw CorruptError(
        str("the vision tower has ", count, " position embeddings, which is not a square number"));
  vision.image_size = side * vision.patch;
  return vision;
}

PolicyKind infer_kind(const Shapes& shapes) {
  const auto has = [&](const std::string& prefix) {
    const auto it = shapes.lower_bound(prefix);
    return it != shapes.end() && it->first.starts_with(prefix);
  };
  const bool pi05 = has("time_mlp_"), pi0 = has("state_proj.") || has("action_time_mlp_");
  if (pi05 && pi0)
    throw CorruptError(
        "both time_mlp_* (pi05) and state_proj or action_time_mlp_* (pi0) are there: the file mixes two "
        "models");
  if (!pi05 && !pi0) {
    std::vector<std::string> first;
    for (const auto& [name, shape] : shapes) {
      if (first.size() == 3) break;
      first.push_back(name);
    }
    throw CorruptError(
        str("neither a pi0 nor a pi05 policy: of ", shapes.size(),
            " tensors none is named state_proj.* or time_mlp_* (the first are: ", join(first, ", "), ")"));
  }
  return pi05 ? PolicyKind::kPi05 : PolicyKind::kPi0;
}

void check_range(std::vector<std::string>& problems, const std::string& what, std::int64_t value,
                 std::int64_t max) {
  if (value < 1 || value > max) problems.push_back(str(what, " is ", value, ", expected 1 to ", max));
}

void check_gemma(const GemmaConfig& gemma, const std::string& what, std::vector<std::string>& problems) {
  check_range(problems, what + " depth", gemma.depth, kMaxDepth);
  check_range(problems, what + " width", gemma.width, kMaxSize);
  check_range(problems, what + " MLP size", gemma.mlp, kMaxSize);
  check_range(problems, what + " head count", gemma.heads, kMaxHeads);
  check_range(problems, what + " head width", gemma.head_dim, kMaxSide);
  if (gemma.head_dim % 2 != 0)
    problems.push_back(str(what, " head width ", gemma.head_dim, " is odd: rotary embedding needs pairs"));
  if (gemma.kv_heads != 1)
    problems.push_back(str(what, " has ", gemma.kv_heads, " key-value heads; pi0 and pi05 have 1"));
}

void check_vision(const VisionConfig& vision, std::vector<std::string>& problems) {
  check_range(problems, "vision depth", vision.depth, kMaxDepth);
  check_range(problems, "vision width", vision.width, kMaxSize);
  check_range(problems, "vision MLP size", vision.mlp, kMaxSize);
  check_range(problems, "vision head count", vision.heads, kMaxHeads);
  check_range(problems, "vision patch size", vision.patch, kMaxPatch);
  check_range(problems, "vision image size", vision.image_size, kMaxSide);
  if (vision.heads > 0 && vision.width % vision.heads != 0)
    problems.push_back(str("vision width ", vision.width, " cannot be split into ", vision.heads, " heads"));
  if (vision.patch > 0 && vision.image_size % vision.patch != 0)
    problems.push_back(
        str("image size ", vision.image_size, " is not a multiple of the patch size ", vision.patch));
}

}  // namespace

std::vector<std::string> PolicyConfig::problems() const {
  std::vector<std::string> found;
  check_vision(vision, found);
  check_gemma(backbone, "backbone", found);
  check_gemma(expert, "expert", found);
  const auto equal = [&](std::int64_t a, std::int64_t b, const char* what) {
    if (a != b)
      found.push_back(str("the backbone has ", a, " ", what, " and the expert ", b, "; they must be equal"));
  };
  equal(backbone.depth, expert.depth, "layers");
  equal(backbone.heads, expert.heads, "query heads");
  equal(backbone.head_dim, expert.head_dim, "channels per head");
  if (expert.width % 2 != 0)
    found.push_back(
        str("expert width ", expert.width, " is odd: the time embedding needs pairs of sine and cosine"));
  check_range(found, "vocabulary", vocab, kMaxSize);
  check_range(found, "action width", action_dim, 4096);
  return found;
}

std::int64_t ExpectedTensor::size() const {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

std::map<std::string, ExpectedTensor> expected_tensors(const PolicyConfig& config) {
  const bool adaptive = config.kind == PolicyKind::kPi05;
  const std::int64_t width = config.expert.width;
  TensorList list;
  add_vision(list, config.vision, config.backbone.width);
  list.add(names::kEmbedTokens, {config.vocab, config.backbone.width});
  add_gemma(list, names::kBackbone, config.backbone, false, true);
  add_gemma(list, names::kExpert, config.expert, adaptive, false);
  list.add(names::kExpertHead, {config.vocab, width}, false, true);
  list.add_linear("action_in_proj.", width, config.action_dim, true);
  list.add_linear("action_out_proj.", config.action_dim, width, true);
  if (adaptive) {
    list.add_linear("time_mlp_in.", width, width, true);
    list.add_linear("time_mlp_out.", width, width, true);
  } else {
    list.add_linear("state_proj.", width, config.action_dim, true);
    list.add_linear("action_time_mlp_in.", width, 2 * width, true);
    list.add_linear("action_time_mlp_out.", width, width, true);
  }
  return list.take();
}

ParameterCount count_parameters(const PolicyConfig& config) {
  ParameterCount count;
  for (const auto& [name, tensor] : expected_tensors(config))
    (tensor.dead ? count.dead : count.live) += tensor.size();
  return count;
}

PolicyConfig infer_config(const std::map<std::string, std::vector<std::int64_t>>& shapes, std::int64_t heads,
                          std::int64_t vision_heads) {
  PolicyConfig config;
  config.kind = infer_kind(shapes);
  config.vision = infer_vision(shapes, vision_heads);
  config.backbone = infer_gemma(shapes, names::kBackbone, heads, "backbone");
  config.expert = infer_gemma(shapes, names::kExpert, heads, "expert");
  SizeVote vocab(shapes), actions(shapes);
  vocab.ask(names::kEmbedTokens, 2, 0).ask(names::kTiedHead, 2, 0);
  if (!vocab.result()) vocab.ask(names::kExpertHead, 2, 0);  // dead: asked where both are missing
  config.vocab = vocab.result("the vocabulary");
  actions.ask("action_in_proj.weight", 2, 1)
      .ask("action_out_proj.weight", 2, 0)
      .ask("action_out_proj.bias", 1, 0);
  config.action_dim = actions.result("the action width");
  const std::vector<std::string> problems = config.problems();
  if (!problems.empty()) throw CorruptError(str("sizes that no policy has: ", join(problems, "; ")));
  return config;
}

}  // namespace shallowpi
