#include "shallowpi/runtime/engine.h"

#include "parity_fixture.h"

namespace shallowpi {
namespace {

using testing::expect_error;
using testing::expect_tensor_near;
using torch::Tensor;

class EngineTest : public ::testing::TestWithParam<const char*> {
 protected:
  NamedTensors io_ = testing::parity_io(GetParam());
  Observation observation_ = testing::parity_observation(io_);
  Policy policy_ = testing::parity_policy(testing::parity_weights(GetParam()));
  std::unique_ptr<Engine> engine_ = make_engine(policy_, torch::kCPU);
};
INSTANTIATE_TEST_SUITE_P(Kinds, EngineTest, ::testing::Values("pi0", "pi05"));

TEST_P(EngineTest, EqualsTheReferenceAndRepeats) {
  const EngineRequest request{observation_, io_.at("in.noise")};
  const Tensor first = engine_->sample(request);
  expect_tensor_near(first, io_.at("out.sampled_actions"), 5e-5);
  StageTimes times;
  EXPECT_TRUE(torch::equal(engine_->sample(request, &times), first));
  EXPECT_GT(times.vision_ms, 0);
  EXPECT_GT(times.prefix_ms, 0);
  EXPECT_EQ(times.step_ms.size(), 10u);
  EXPECT_EQ(engine_->kind(), EngineKind::kEager) << "what auto is on a CPU";
}

TEST_P(EngineTest, TakesAnyNumberOfSteps) {
  for (const std::int64_t steps : {1, 3, 4, 3}) {
    const Tensor got = engine_->sample({observation_, io_.at("in.noise"), steps});
    expect_tensor_near(got, policy_->sample_actions(observation_, io_.at("in.noise"), steps), 1e-6);
  }
  expect_error<UsageError>([&] { engine_->sample({observation_, io_.at("in.noise"), 0}); }, "num_steps is 0");
  expect_error<UsageError>([&] { engine_->sample({observation_, io_.at("in.noise"), 1001}); }, "1..1000");
}

// Real-time chunking in its trained form, written out: given actions are at flow time 0.
TEST_P(EngineTest, HoldsGivenActions) {
  const Tensor noise = io_.at("in.noise"), given = io_.at("in.actions");
  Tensor mask = torch::zeros({noise.size(0), noise.size(1)}, torch::kBool);
  mask[0].narrow(0, 0, 3).fill_(true);
  mask[2].narrow(0, 0, 1).fill_(true);
  torch::NoGradGuard no_grad;
  const PrefixCache cache = policy_->encode(observation_);
  Tensor x = torch::where(mask.unsqueeze(2), given, noise);
  constexpr int kSteps = 4;
  for (int k = 0; k < kSteps; ++k) {
    const Tensor t = torch::full({noise.size(0)}, 1.0 - k / double{kSteps});
    x = x - policy_->velocity(cache, observation_.state_bd, x, t, nullptr, mask) / kSteps;
    x = torch::where(mask.unsqueeze(2), given, x);
  }
  const Tensor got = engine_->sample({observation_, noise, kSteps, given, mask});
  expect_tensor_near(got, x, 1e-5);
  EXPECT_TRUE(torch::equal(got[0].narrow(0, 0, 3), given[0].narrow(0, 0, 3)));
  const Tensor free = engine_->sample({observation_, noise, kSteps});
  EXPECT_GT((got - free)[0].narrow(0, 3, 7).abs().max().item<double>(), 1e-4) << "the prefix had no effect";
  expect_tensor_near(got[1], free[1], 1e-6);  // no action of this row is given
}

}  // namespace
}  // namespace shallowpi
