// Every gradient against the one of LeRobot's joint training forward,
// which differentiates prefix and suffix at once.
#include <cstdlib>

#include "parity_fixture.h"

namespace shallowpi {
namespace {

using namespace shallowpi::testing;
using torch::Tensor;

constexpr double kTolerance = 1e-5;  // of a tensor's largest gradient
// The reference was computed with AVX2. With AVX-512, MKL adds in another order, which in one element of one
// tensor makes a larger difference than the tolerance. Read by MKL when it is first used.
[[maybe_unused]] const int kSameOrder = ::setenv("MKL_ENABLE_INSTRUCTIONS", "AVX2", /*overwrite=*/1);

struct Case {
  std::string kind;
  bool recompute = false;
  bool frozen = false;  ///< vision tower, projector and token embeddings
  std::int64_t draws = 1;
};

std::string case_name(const ::testing::TestParamInfo<Case>& info) {
  const Case& c = info.param;
  return str(c.kind, c.recompute ? "_recomputed" : "", c.frozen ? "_frozen" : "", "_R", c.draws);
}

bool is_frozen_part(const std::string& name) {
  return name.find("vision_tower") != std::string::npos ||
         name.find("multi_modal_projector") != std::string::npos ||
         name.find("embed_tokens") != std::string::npos;
}

/// Gradients by openpi's names, of the parameters that have one.
NamedTensors named_gradients(Policy& policy) {
  NamedTensors result;
  for (const ParameterGroup& group : policy->parameter_groups()) {
    if (group.parameter.grad().defined()) result.merge(split_parts(group, group.parameter.grad()));
  }
  return result;
}

void freeze_inputs(Policy& policy) {
  for (const ParameterGroup& group : policy->parameter_groups()) {
    if (is_frozen_part(group.parts[0].name)) Tensor(group.parameter).set_requires_grad(false);
  }
}

/// The mean squared error over all elements; with several draws, all of them equal.
Tensor loss_of(Policy& policy, const NamedTensors& io, std::int64_t draws) {
  const Observation observation = parity_observation(io);
  const auto repeat = [draws](const Tensor& tensor) { return tensor.repeat_interleave(draws, 0); };
  const Tensor t = repeat(io.at("in.time")), noise = repeat(io.at("in.noise")),
               actions = repeat(io.at("in.actions"));
  const Tensor share = t.view({-1, 1, 1});
  const Tensor v = policy->velocity(policy->encode(observation), observation.state_bd,
                                    share * noise + (1 - share) * actions, t);
  return (v - (noise - actions)).square().mean();
}

class Gradients : public ::testing::TestWithParam<Case> {};

TEST_P(Gradients, EqualTheReference) {
  const Case& c = GetParam();
  const NamedTensors io = parity_io(c.kind);
  PolicyOptions options;
  options.activation_checkpointing = c.recompute;
  Policy policy = parity_policy(parity_weights(c.kind), {}, torch::kFloat32, options);
  if (c.frozen) freeze_inputs(policy);
  loss_of(policy, io, c.draws).backward();

  const NamedTensors gradients = named_gradients(policy);
  std::size_t compared = 0;
  for (const auto& [key, expected] : io) {
    if (!key.starts_with("grad.") && !key.starts_with("grad_norm.")) continue;
    std::string name = key.substr(key.find('.') + 1);
    if (name == kParityLmHead) name = kParityEmbedTokens;
    if (c.frozen && is_frozen_part(name)) {
      EXPECT_EQ(gradients.count(name), 0) << name;
      continue;
    }
    ++compared;
    ASSERT_EQ(gradients.count(name), 1) << name << " has no gradient";
    if (name.ends_with("k_proj.bias")) continue;  // SigLIP's: the true gradient is zero, the rest is rounding
    const Tensor got = key.starts_with("grad.") ? gradients.at(name) : gradients.at(name).norm();
    EXPECT_TRUE(tensor_near(got, expected, kTolerance * expected.abs().max().item<double>())) << name;
  }
  // Nothing has a gradient that the reference does not have.
  EXPECT_EQ(gradients.size(), compared);
  EXPECT_GT(compared, 300);
}

std::vector<Case> cases() {
  std::vector<Case> result;
  for (const char* kind : {"pi0", "pi05"}) {
    for (const bool recompute : {false, true}) {
      for (const bool frozen : {false, true}) {
        for (const std::int64_t draws : {1, 4}) result.push_back({kind, recompute, frozen, draws});
      }
    }
  }
  return result;
}

INSTANTIATE_TEST_SUITE_P(All, Gradients, ::testing::ValuesIn(cases()), case_name);

/// The attention loss reads queries and keys inside a recomputed layer.
TEST(TapGradients, AreEqualWithAndWithoutRecomputing) {
  const NamedTensors io = parity_io("pi05"), weights = parity_weights("pi05");
  const Observation observation = parity_observation(io);
  NamedTensors found[2];
  for (const bool recompute : {false, true}) {
    PolicyOptions options;
    options.activation_checkpointing = recompute;
    Policy policy = parity_policy(weights, {0, 6, 12}, torch::kFloat32, options);
    freeze_inputs(policy);
    AttentionTap tap{.layer = 1, .backbone_queries = true};
    const Tensor noise = io.at("in.noise");
    const Tensor given = torch::arange(noise.size(1)).expand(noise.sizes().slice(0, 2)) < 2;
    const Tensor v = policy->velocity(policy->encode(observation, &tap), observation.state_bd, noise,
                                      io.at("in.time"), &tap, given);
    const Tensor loss = v.square().sum() + tap.action_queries_bnhk.square().sum() +
                        tap.prefix_queries_bnpk.square().sum() + tap.prefix_keys_bpk.square().sum();
    loss.backward();
    found[recompute] = named_gradients(policy);
  }
  ASSERT_EQ(found[0].size(), found[1].size());
  for (const auto& [name, gradient] : found[0]) {
    EXPECT_TRUE(tensor_near(found[1].at(name), gradient, 1e-6 * gradient.abs().max().item<double>())) << name;
  }
}

}  // namespace
}  // namespace shallowpi
