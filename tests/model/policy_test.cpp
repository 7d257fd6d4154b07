#include "shallowpi/model/policy.h"

#include "parity_fixture.h"

namespace shallowpi {
namespace {

using namespace shallowpi::testing;
using torch::Tensor;

PolicyConfig tiny_config(PolicyKind kind, std::int64_t depth = 3) {
  PolicyConfig config;
  config.kind = kind;
  config.vision = {.depth = 1, .width = 16, .mlp = 24, .heads = 2, .patch = 4, .image_size = 8};
  config.backbone = {.depth = depth, .width = 16, .mlp = 24, .heads = 2, .kv_heads = 1, .head_dim = 8};
  config.expert = {.depth = depth, .width = 12, .mlp = 20, .heads = 2, .kv_heads = 1, .head_dim = 8};
  config.vocab = 50;
  return config;
}

Policy tiny_policy(PolicyKind kind = PolicyKind::kPi05, torch::Dtype dtype = torch::kFloat32) {
  Policy policy(tiny_config(kind), dtype);
  policy->initialize(3);
  torch::NoGradGuard no_grad;
  // Zero adaRMS layers hide the time and half of the expert.
  auto generator = at::detail::createCPUGenerator(4);
  for (auto& [name, tensor] : policy->named_tensors()) {
    if (name.find(".dense.") != std::string::npos) tensor.normal_(0, 0.3, generator);
  }
  return policy;
}

/// Three samples: everything; without camera 1 and with a short prompt; without camera 0.
Observation tiny_observation() {
  torch::manual_seed(5);
  Observation o;
  for (int c = 0; c < 2; ++c) o.images_bcyx.push_back(torch::rand({3, 3, 8, 8}) * 2 - 1);
  o.image_masks_b = {torch::tensor({true, true, false}), torch::tensor({true, false, true})};
  o.tokens_bt = torch::randint(3, 50, {3, 5}, torch::kInt64);
  o.token_mask_bt = torch::arange(5) < torch::tensor({5, 2, 4}).unsqueeze(1);
  o.tokens_bt.masked_fill_(o.token_mask_bt.logical_not(), 0);
  o.state_bd = torch::randn({3, 32});
  return o;
}

Observation sample_of(const Observation& o, std::int64_t i) {
  Observation one;
  for (std::size_t c = 0; c < o.images_bcyx.size(); ++c) {
    if (!o.image_masks_b[c][i].item<bool>()) continue;
    one.images_bcyx.push_back(o.images_bcyx[c].narrow(0, i, 1));
    one.image_masks_b.push_back(o.image_masks_b[c].narrow(0, i, 1));
  }
  const auto tokens = o.token_mask_bt[i].sum().item<std::int64_t>();
  one.tokens_bt = o.tokens_bt.narrow(0, i, 1).narrow(1, 0, tokens);
  one.token_mask_bt = o.token_mask_bt.narrow(0, i, 1).narrow(1, 0, tokens);
  one.state_bd = o.state_bd.narrow(0, i, 1);
  return one;
}

class EveryKind : public ::testing::TestWithParam<PolicyKind> {};
INSTANTIATE_TEST_SUITE_P(Kinds, EveryKind, ::testing::Values(PolicyKind::kPi0, PolicyKind::kPi05),
                         [](const auto& info) { return std::string(enum_name(info.param)); });

TEST_P(EveryKind, HoldsExactlyTheExpectedTensors) {
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    Policy policy(tiny_config(GetParam()), dtype);
    std::map<std::string, ExpectedTensor> expected = expected_tensors(policy->config());
    expected.erase("paligemma_with_expert.gemma_expert.lm_head.weight");  // dead, and no module holds it
    const auto tensors = policy->named_tensors(), live = policy->named_tensors(/*with_dead=*/false);
    EXPECT_EQ(tensors.size(), expected.size());
    for (const auto& [name, tensor] : expected) {
      ASSERT_EQ(tensors.count(name), 1) << name;
      EXPECT_EQ(tensors.at(name).sizes().vec(), tensor.shape) << name;
      EXPECT_EQ(tensors.at(name).scalar_type(), tensor.keep_float32 ? torch::kFloat32 : dtype) << name;
      EXPECT_EQ(live.count(name), tensor.dead ? 0 : 1) << name;
    }
  }
}

TEST_P(EveryKind, NamedTensorsAliasTheParameters) {
  Policy policy = tiny_policy(GetParam());
  std::int64_t elements = 0;
  for (const ParameterGroup& group : policy->parameter_groups()) {
    EXPECT_TRUE(group.parameter.is_leaf());
    EXPECT_EQ(group.parameter.requires_grad(), !group.dead) << group.parts[0].name;
    for (const auto& [name, part] : split_parts(group, group.parameter)) {
      EXPECT_TRUE(part.is_alias_of(group.parameter)) << name;
      EXPECT_TRUE(part.is_contiguous()) << name;
      elements += part.numel();
    }
  }
  std::int64_t registered = 0;
  for (const Tensor& parameter : policy->parameters()) registered += parameter.numel();
  EXPECT_EQ(elements, registered);
}

TEST_P(EveryKind, EachSampleIsIndependentOfItsBatch) {
  Policy policy = tiny_policy(GetParam());
  const Observation batch = tiny_observation();
  const Tensor x_t = torch::randn({3, 4, 32}), t = torch::tensor({0.2, 0.9, 0.5});
  for (const bool training : {false, true}) {
    torch::AutoGradMode mode(training);
    const PrefixCache cache = policy->encode(batch);
    EXPECT_EQ(cache.mask_bp.size(1), 13);  // 2 cameras of 4 tokens, 5 prompt tokens
    const Tensor v = policy->velocity(cache, batch.state_bd, x_t, t);
    for (std::int64_t i = 0; i < 3; ++i) {
      const Observation one = sample_of(batch, i);
      const Tensor alone =
          policy->velocity(policy->encode(one), one.state_bd, x_t.narrow(0, i, 1), t.narrow(0, i, 1));
      EXPECT_TRUE(tensor_near(v.narrow(0, i, 1), alone, 1e-5)) << "sample " << i;
    }
  }
}

TEST_P(EveryKind, PaddedRowsOfTheCacheAreZero) {
  Policy policy = tiny_policy(GetParam());
  torch::NoGradGuard no_grad;
  const PrefixCache cache = policy->encode(tiny_observation());
  EXPECT_TRUE(torch::equal(cache.lengths_b, torch::tensor({13, 6, 8}, torch::kInt64)));
  const Tensor padded = cache.mask_bp.logical_not();
  for (std::size_t layer = 0; layer < cache.keys_bpk.size(); ++layer) {
    EXPECT_EQ(cache.keys_bpk[layer].index({padded}).abs().max().item<double>(), 0);
    EXPECT_EQ(cache.values_bpk[layer].index({padded}).abs().max().item<double>(), 0);
    EXPECT_GT(cache.keys_bpk[layer].index({cache.mask_bp}).abs().min().item<double>(), 0);
  }
}

TEST_P(EveryKind, WhatIsMaskedIsNeverRead) {
  Policy policy = tiny_policy(GetParam());
  Observation observation = tiny_observation();
  const Tensor noise = torch::randn({3, 4, 32});
  const Tensor expected = policy->sample_actions(observation, noise);
  observation.images_bcyx[0] = observation.images_bcyx[0].clone();
  observation.images_bcyx[0][2].fill_(NAN);
  observation.tokens_bt[1][4] = 1000000;  // far outside the vocabulary, but padding
  EXPECT_TRUE(tensor_near(policy->sample_actions(observation, noise), expected, 0));
}

TEST_P(EveryKind, DrawsShareOneCacheRow) {
  Policy policy = tiny_policy(GetParam());
  const Observation observation = tiny_observation();
  const Tensor x_t = torch::randn({6, 4, 32}), t = torch::rand({6}) + 0.001;
  for (const bool training : {false, true}) {
    torch::AutoGradMode mode(training);
    const PrefixCache cache = policy->encode(observation);
    AttentionTap both{.layer = 1};
    const Tensor v = policy->velocity(cache, observation.state_bd, x_t, t, &both);
    for (std::int64_t r = 0; r < 2; ++r) {
      const Tensor rows = torch::arange(r, 6, 2);
      AttentionTap tap{.layer = 1};
      const Tensor one = policy->velocity(cache, observation.state_bd, x_t.index_select(0, rows),
                                          t.index_select(0, rows), &tap);
      EXPECT_TRUE(tensor_near(v.index_select(0, rows), one, 1e-5));
      EXPECT_TRUE(tensor_near(both.action_queries_bnhk.index_select(0, rows), tap.action_queries_bnhk, 1e-5));
    }
  }
}

TEST_P(EveryKind, GivenActionsAreAtTimeZero) {
  Policy policy = tiny_policy(GetParam());
  const Observation observation = tiny_observation();
  const Tensor x_t = torch::randn({3, 4, 32}), t = torch::tensor({0.2, 0.9, 0.5});
  const PrefixCache cache = policy->encode(observation);
  const auto velocity = [&](const Tensor& time, const Tensor& given) {
    return policy->velocity(cache, observation.state_bd, x_t, time, nullptr, given);
  };
  const Tensor none = torch::zeros({3, 4}, torch::kBool), plain = velocity(t, {});
  EXPECT_TRUE(tensor_near(velocity(t, none), plain, 1e-5));
  EXPECT_TRUE(tensor_near(velocity(t, none.logical_not()), velocity(torch::zeros({3}), {}), 1e-5));
  Tensor first = none.clone();
  first[1][0] = true;
  const Tensor some = velocity(t, first);
  EXPECT_TRUE(tensor_near(some[0], plain[0], 1e-5));
  EXPECT_FALSE(tensor_near(some[1][3], plain[1][3], 1e-4)) << "the others know of it";
}

TEST_P(EveryKind, SamplingTakesExactlyTheEulerSteps) {
  Policy policy = tiny_policy(GetParam());
  torch::NoGradGuard no_grad;
  const Observation observation = tiny_observation();
  const PrefixCache cache = policy->encode(observation);
  for (const std::int64_t steps : {1, 3, 7}) {
    Tensor x = torch::randn({3, 4, 32});
    const Tensor sampled = policy->sample_actions(observation, x, steps);
    for (std::int64_t k = 0; k < steps; ++k) {
      const double t = 1 - static_cast<double>(k) / static_cast<double>(steps);
      x = x -
          policy->velocity(cache, observation.state_bd, x, torch::full({3}, t)) / static_cast<double>(steps);
    }
    EXPECT_TRUE(tensor_near(sampled, x, 1e-5)) << steps;
  }
}

TEST_P(EveryKind, SeveralSamplesShareOneEncoding) {
  Policy policy = tiny_policy(GetParam());
  const Observation observation = tiny_observation();
  const Tensor noise = torch::randn({6, 4, 32});
  const Tensor both = policy->sample_actions(observation, noise);
  const Tensor second = torch::arange(1, 6, 2);
  const Tensor alone = policy->sample_actions(observation, noise.index_select(0, second));
  EXPECT_TRUE(tensor_near(both.index_select(0, second), alone, 1e-5));
}

TEST(Policy, TokensOfAnEqualTowerCanBeShared) {
  Policy teacher = tiny_policy(), student = tiny_policy();
  const Observation observation = tiny_observation();
  const Tensor tokens = teacher->embed_images(observation);
  EXPECT_EQ(tokens.sizes().vec(), (std::vector<std::int64_t>{4, 4, 16}));  // 4 of 6 images exist
  const PrefixCache shared = student->encode(observation, nullptr, tokens),
                    own = student->encode(observation);
  for (std::size_t layer = 0; layer < own.keys_bpk.size(); ++layer) {
    EXPECT_TRUE(torch::equal(shared.keys_bpk[layer], own.keys_bpk[layer]));
  }
}

TEST(Policy, RunsWithoutAnyCameraAndWithoutAnyPrompt) {
  Policy policy = tiny_policy();
  Observation blind = tiny_observation();
  for (Tensor& mask : blind.image_masks_b) mask = torch::zeros({3}, torch::kBool);
  Observation none = tiny_observation();
  none.images_bcyx.clear();
  none.image_masks_b.clear();
  const Tensor noise = torch::randn({3, 4, 32});
  EXPECT_TRUE(tensor_near(policy->sample_actions(blind, noise), policy->sample_actions(none, noise), 0));
  Observation mute = tiny_observation();
  mute.token_mask_bt = torch::zeros({3, 5}, torch::kBool);
  EXPECT_TRUE(policy->sample_actions(mute, noise).isfinite().all().item<bool>());
}

TEST(Policy, TapsTheLastBackboneLayersQueries) {
  Policy policy = tiny_policy();
  AttentionTap tap{.layer = 2, .backbone_queries = true};
  policy->encode(tiny_observation(), &tap);
  EXPECT_EQ(tap.prefix_queries_bnpk.sizes().vec(), (std::vector<std::int64_t>{3, 2, 13, 8}));
}

TEST(Policy, OneLayerIsEnough) {
  Policy policy(tiny_config(PolicyKind::kPi05, 1));
  policy->initialize(1);
  const Tensor actions = policy->sample_actions(tiny_observation(), torch::randn({3, 4, 32}));
  EXPECT_TRUE(actions.isfinite().all().item<bool>());
}

TEST(Policy, InitializesReproduciblyAndSanely) {
  Policy first(tiny_config(PolicyKind::kPi05)), again(tiny_config(PolicyKind::kPi05));
  first->initialize(8);
  again->initialize(8);
  const auto a = first->named_tensors(), b = again->named_tensors();
  for (const auto& [name, tensor] : a) EXPECT_TRUE(torch::equal(tensor, b.at(name))) << name;
  EXPECT_EQ(a.at("paligemma_with_expert.gemma_expert.model.norm.dense.weight").abs().max().item<double>(), 0);
  EXPECT_NEAR(a.at("time_mlp_in.weight").std().item<double>(), 1 / std::sqrt(12.0), 0.1);
  again->initialize(9);
  EXPECT_FALSE(torch::equal(a.at("time_mlp_in.weight"), again->named_tensors().at("time_mlp_in.weight")));
}

TEST(Policy, RefusesBadInputByName) {
  Policy policy = tiny_policy();
  const Tensor noise = torch::randn({3, 4, 32});
  const auto refused = [&](const std::string& part, const std::function<void(Observation&)>& spoil) {
    Observation observation = tiny_observation();
    spoil(observation);
    expect_error<UsageError>([&] { policy->encode(observation); }, part);
  };
  refused("[3, 3, 9, 9]", [](Observation& o) { o.images_bcyx[1] = torch::zeros({3, 3, 9, 9}); });
  refused("sample 2", [](Observation& o) {
    o.image_masks_b[1] = torch::zeros({3}, torch::kBool);
    o.token_mask_bt[2].fill_(false);
  });
  refused("token id 50", [](Observation& o) { o.tokens_bt[0][0] = 50; });
  refused("image masks", [](Observation& o) { o.image_masks_b.pop_back(); });
  refused("camera 0", [](Observation& o) { o.image_masks_b[0] = torch::ones({2}, torch::kBool); });
  refused("tokens and mask", [](Observation& o) { o.token_mask_bt = torch::ones({3, 4}, torch::kBool); });
  expect_error<UsageError>([&] { policy->sample_actions(tiny_observation(), noise, 0); }, "0 steps");

  expect_error<UsageError>([&] { policy->sample_actions(tiny_observation(), noise.narrow(2, 0, 7)); },
                           "[3, 4, 7]");
  expect_error<UsageError>(
      [&] {
        policy->sample_actions(tiny_observation(), torch::randn({2, 4, 32}));
      },
      "batch of 3");
  Policy needs_state = tiny_policy(PolicyKind::kPi0);
  Observation stateless = tiny_observation();
  stateless.state_bd = Tensor();
  expect_error<UsageError>([&] { needs_state->sample_actions(stateless, noise); }, "needs a state");

  PolicyConfig impossible = tiny_config(PolicyKind::kPi05);
  impossible.expert.depth = 2;
  expect_error<UsageError>([&] { Policy{impossible}; }, "layers");
  Policy deeper(tiny_config(PolicyKind::kPi05, 4));
  const PrefixCache cache = deeper->encode(tiny_observation());
  expect_error<UsageError>([&] { policy->velocity(cache, {}, noise, torch::rand({3})); }, "another policy");
}

}  // namespace
}  // namespace shallowpi
