#include "shallowpi/model/config.h"

#include <gtest/gtest.h>

#include "shallowpi/base/error.h"
#include "test_util.h"

namespace shallowpi {
namespace {

using testing::expect_error;

const std::string kBackboneLayer = "paligemma_with_expert.paligemma.model.language_model.layers.";
const std::string kExpertLayer = "paligemma_with_expert.gemma_expert.model.layers.";
constexpr std::int64_t kDeadHead = 263323648;  // the expert's lm_head, 257152 x 1024
constexpr std::int64_t kDeadBackbone =
    2 * 2048 * 2048 + 3 * 16384 * 2048 + 2 * 2048;  // last layer's q, o, MLP, norm; final norm

PolicyConfig full_size(PolicyKind kind, std::int64_t depth = 18) {
  PolicyConfig config;
  config.kind = kind;
  config.set_depth(depth);
  return config;
}

std::map<std::string, std::vector<std::int64_t>> shapes_of(const PolicyConfig& config) {
  std::map<std::string, std::vector<std::int64_t>> shapes;
  for (const auto& [name, tensor] : expected_tensors(config)) shapes[name] = tensor.shape;
  return shapes;
}

TEST(PolicyConfig, CountsTheParametersOfTheReleasedModels) {
  const ParameterCount pi0 = count_parameters(full_size(PolicyKind::kPi0));
  const ParameterCount pi05 = count_parameters(full_size(PolicyKind::kPi05));
  EXPECT_EQ(pi0.live + kDeadBackbone, 3238048528);
  EXPECT_EQ(pi05.live + kDeadBackbone, 3353433872);
  EXPECT_EQ(pi0.dead, kDeadBackbone + kDeadHead);
  EXPECT_EQ(pi0.live + pi0.dead, 3501372176);
  EXPECT_EQ(pi05.live + pi05.dead, 3616757520);
}

TEST(PolicyConfig, ListsAsManyTensorsAsAnOpenpiFile) {
  EXPECT_EQ(expected_tensors(full_size(PolicyKind::kPi0)).size(), 777u);
  EXPECT_EQ(expected_tensors(full_size(PolicyKind::kPi05)).size(), 812u);
}

TEST(PolicyConfig, KnowsWhatIsDeadAndWhatStaysFloat32) {
  const auto tensors = expected_tensors(full_size(PolicyKind::kPi05, 6));
  EXPECT_TRUE(tensors.at(kBackboneLayer + "5.self_attn.q_proj.weight").dead);
  EXPECT_TRUE(tensors.at(kBackboneLayer + "5.post_attention_layernorm.weight").dead);
  EXPECT_FALSE(tensors.at(kBackboneLayer + "5.self_attn.k_proj.weight").dead);
  EXPECT_FALSE(tensors.at(kBackboneLayer + "5.input_layernorm.weight").dead);
  EXPECT_FALSE(tensors.at(kBackboneLayer + "4.self_attn.q_proj.weight").dead);
  EXPECT_FALSE(tensors.at(kExpertLayer + "5.mlp.down_proj.weight").dead);
  EXPECT_TRUE(tensors.at(kExpertLayer + "0.input_layernorm.dense.bias").keep_float32);
  EXPECT_TRUE(tensors.at("time_mlp_in.weight").keep_float32);
  EXPECT_FALSE(tensors.at(kExpertLayer + "0.mlp.up_proj.weight").keep_float32);
  EXPECT_FALSE(
      tensors.at("paligemma_with_expert.paligemma.model.multi_modal_projector.linear.weight").keep_float32);
}

TEST(PolicyConfig, IsInferredFromShapes) {
  for (const PolicyKind kind : {PolicyKind::kPi0, PolicyKind::kPi05}) {
    PolicyConfig config;
    config.kind = kind;
    config.vision = {2, 64, 96, 16, 14, 56};
    config.backbone = {3, 64, 96, 8, 1, 8};
    config.expert = {3, 32, 48, 8, 1, 8};
    config.vocab = 300;
    config.action_dim = 24;
    const PolicyConfig inferred = infer_config(shapes_of(config));
    EXPECT_EQ(inferred.kind, kind);
    EXPECT_EQ(inferred.vision.image_size, 56);
    EXPECT_EQ(inferred.expert.head_dim, 8);
    EXPECT_EQ(shapes_of(inferred), shapes_of(config));
  }
}

TEST(PolicyConfig, TakesTheVocabularyFromTheTiedHead) {
  auto shapes = shapes_of(full_size(PolicyKind::kPi0));
  auto node = shapes.extract("paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight");
  node.key() = "paligemma_with_expert.paligemma.lm_head.weight";
  shapes.insert(std::move(node));
  EXPECT_EQ(infer_config(shapes).vocab, 257152);
}

TEST(PolicyConfig, RefusesContradictoryFiles) {
  const auto whole = shapes_of(full_size(PolicyKind::kPi05));
  const auto without = [&](const std::string& part) {
    auto shapes = whole;
    std::erase_if(shapes, [&](const auto& entry) { return entry.first.find(part) != std::string::npos; });
    return shapes;
  };
  auto shallow_expert = whole;
  for (int i = 12; i < 18; ++i)
    std::erase_if(shallow_expert,
                  [&](const auto& entry) { return entry.first.starts_with(str(kExpertLayer, i, ".")); });
  expect_error<CorruptError>([&] { infer_config(shallow_expert); }, "18 layers and the expert 12");
  expect_error<CorruptError>([&] { infer_config(without("language_model.layers.7.")); }, "lacks layer 7");
  expect_error<CorruptError>([&] { infer_config(without("gemma_expert.model.layers")); },
                             "expert has no layers");
  expect_error<CorruptError>([&] { infer_config(without("time_mlp")); }, "neither a pi0 nor a pi05");
  auto no_vocabulary = without("embed_tokens");
  std::erase_if(no_vocabulary, [](const auto& entry) { return entry.first.ends_with("lm_head.weight"); });
  expect_error<CorruptError>([&] { infer_config(no_vocabulary); }, "no tensor tells the vocabulary");
  auto both = whole;
  both["state_proj.weight"] = {1024, 32};
  expect_error<CorruptError>([&] { infer_config(both); }, "mixes two models");
  auto odd = whole;
  odd["paligemma_with_expert.paligemma.model.vision_tower.vision_model.embeddings.position_embedding."
      "weight"] = {250, 1152};
  expect_error<CorruptError>([&] { infer_config(odd); }, "250 position embeddings");
  auto unnumbered = whole;
  unnumbered[kExpertLayer + "0x.mlp.up_proj.weight"] = {1};
  expect_error<CorruptError>([&] { infer_config(unnumbered); }, "'0x' is not a layer number");
  expect_error<CorruptError>([&] { infer_config(whole, 7); }, "cannot be split into 7 heads");
  expect_error<CorruptError>([&] { infer_config(whole, 8, 7); }, "cannot be split into 7 heads");
}

TEST(PolicyConfig, IsNotMisledByOneDamagedTensor) {
  const PolicyConfig config = full_size(PolicyKind::kPi05);
  auto shapes = shapes_of(config);
  shapes[kExpertLayer + "0.self_attn.q_proj.weight"] = {7, 9};
  shapes[kBackboneLayer + "0.mlp.gate_proj.weight"] = {1};
  shapes.erase("action_in_proj.weight");
  shapes.erase(
      "paligemma_with_expert.paligemma.model.vision_tower.vision_model.embeddings.patch_embedding.weight");
  EXPECT_EQ(shapes_of(infer_config(shapes)), shapes_of(config));
}

TEST(PolicyConfig, NamesEveryProblemAtOnce) {
  PolicyConfig config;
  EXPECT_TRUE(config.problems().empty());
  config.expert.depth = 12;
  config.backbone.kv_heads = 2;
  config.vision.image_size = 225;
  const auto problems = config.problems();
  ASSERT_EQ(problems.size(), 3u) << join(problems, "; ");
}

}  // namespace
}  // namespace shallowpi
