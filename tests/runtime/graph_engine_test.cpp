// The graph engine with a recorder that repeats the work itself: all of it but the capture runs on a CPU. The
// tests on a GPU, where there is one, capture for real.
#include "runtime/graph_engine.h"

#include <ATen/record_function.h>

#include "parity_fixture.h"
#include "shallowpi/runtime/bench.h"

namespace shallowpi {
namespace {

using testing::expect_error;
using testing::expect_tensor_near;
using torch::Tensor;

// The engines sum over different numbers of (masked) keys, so that the order of float32 sums differs.
// Actions reach 5.
constexpr double kRounding = 3e-5;

/// A recorder that counts its recordings.
Recorder repeating(int& recordings) {
  return [&recordings](const std::function<void()>& work) {
    ++recordings;
    return work;
  };
}

/// Random pixels, tokens and actions; samples lack cameras and have shorter prompts where `masked`.
EngineRequest random_request(const PolicyConfig& config, std::int64_t batch, std::int64_t cameras,
                             std::int64_t prompt, bool masked) {
  const std::int64_t side = config.vision.image_size;
  EngineRequest request;
  Observation& observation = request.observation;
  for (std::int64_t camera = 0; camera < cameras; ++camera) {
    observation.images_bcyx.push_back(torch::rand({batch, 3, side, side}) * 2 - 1);
    observation.image_masks_b.push_back(torch::ones({batch}, torch::kBool));
  }
  observation.tokens_bt = torch::randint(0, config.vocab, {batch, prompt}, torch::kInt64);
  observation.token_mask_bt = torch::ones({batch, prompt}, torch::kBool);
  observation.state_bd = torch::randn({batch, 32});
  for (std::int64_t b = 0; masked && b < batch; ++b) {
    observation.token_mask_bt[b].narrow(0, prompt - 1 - b, 1 + b).fill_(false);
    if (cameras > 0) observation.image_masks_b[b % cameras][b] = false;
  }
  request.noise_bhd = torch::randn({batch, 10, 32});
  request.steps = 3;
  return request;
}

double relative_gap(const Tensor& got, const Tensor& expected) {
  return ((got - expected).norm() / expected.norm()).item<double>();
}

class GraphEngineTest : public ::testing::TestWithParam<const char*> {
 protected:
  GraphEngineTest() { torch::manual_seed(7); }

  EngineRequest request(std::int64_t batch, std::int64_t cameras, std::int64_t prompt,
                        bool masked = false) const {
    return random_request(policy_->config(), batch, cameras, prompt, masked);
  }

  /// The first b + 1 actions of sample b are given.
  static void give_actions(EngineRequest& request) {
    request.given_bhd = torch::randn_like(request.noise_bhd);
    request.given_mask_bh =
        torch::zeros({request.noise_bhd.size(0), request.noise_bhd.size(1)}, torch::kBool);
    for (std::int64_t b = 0; b < request.noise_bhd.size(0); ++b)
      request.given_mask_bh[b].narrow(0, 0, b + 1).fill_(true);
  }

  Policy policy_ = testing::parity_policy(testing::parity_weights(GetParam()));
  std::unique_ptr<Engine> eager_ = make_engine(policy_, torch::kCPU, EngineKind::kEager);
  int recordings_ = 0;
  GraphEngine graph_{policy_, torch::kCPU, repeating(recordings_), 3};
};
INSTANTIATE_TEST_SUITE_P(Kinds, GraphEngineTest, ::testing::Values("pi0", "pi05"));

TEST_P(GraphEngineTest, EqualsTheReference) {
  const NamedTensors io = testing::parity_io(GetParam());
  const EngineRequest request{testing::parity_observation(io), io.at("in.noise")};
  expect_tensor_near(graph_.sample(request), io.at("out.sampled_actions"), 5e-5);
}

TEST_P(GraphEngineTest, EqualsTheEagerEngine) {
  int shapes = 0;
  for (const std::int64_t batch : {1, 3})
    for (const std::int64_t cameras : {0, 1, 3})
      for (const std::int64_t prompt : {20, 32, 45}) {
        if (prompt != 32) ++shapes;  // 20 and 32 share a bucket
        for (const bool masked : {false, true}) {
          SCOPED_TRACE(str("batch ", batch, ", cameras ", cameras, ", prompt ", prompt, ", masked ", masked));
          const EngineRequest asked = request(batch, cameras, prompt, masked);
          expect_tensor_near(graph_.sample(asked), eager_->sample(asked), kRounding);
        }
      }
  EXPECT_EQ(recordings_, shapes);
}

TEST_P(GraphEngineTest, HoldsGivenActions) {
  for (int repeat = 0; repeat < 2; ++repeat) {
    EngineRequest asked = request(2, 2, 20, true);
    const Tensor free = graph_.sample(asked);
    give_actions(asked);
    const Tensor got = graph_.sample(asked);
    expect_tensor_near(got, eager_->sample(asked), kRounding);
    EXPECT_TRUE(torch::equal(got[1].narrow(0, 0, 2), asked.given_bhd[1].narrow(0, 0, 2)));
    EXPECT_GT((got - free).abs().max().item<double>(), 1e-3);
  }
  EXPECT_EQ(recordings_, 2);
}

// Every input of a graph that is known already has to arrive: none may be the recording's.
TEST_P(GraphEngineTest, ReplaysWithEveryNewInput) {
  EngineRequest asked = request(2, 2, 30, true);
  Tensor before = graph_.sample(asked);
  const auto changed = [&](const char* what) {
    SCOPED_TRACE(what);
    const Tensor now = graph_.sample(asked);
    expect_tensor_near(now, eager_->sample(asked), kRounding);
    EXPECT_GT((now - before).abs().max().item<double>(), 100 * kRounding) << "it changed nothing";
    before = now;
  };
  asked.noise_bhd = torch::randn_like(asked.noise_bhd);
  changed("noise");
  asked.observation.images_bcyx[1] = torch::rand_like(asked.observation.images_bcyx[1]);
  changed("image");
  asked.observation.image_masks_b[0] = torch::ones({2}, torch::kBool);
  changed("image mask");
  asked.observation.tokens_bt = (asked.observation.tokens_bt + 1) % policy_->config().vocab;
  changed("tokens");
  asked.observation.token_mask_bt = torch::ones({2, 30}, torch::kBool);
  changed("token mask");
  if (GetParam() == std::string("pi0")) {
    asked.observation.state_bd = torch::randn({2, 32});
    changed("state");
  }
  EXPECT_EQ(recordings_, 1);
  asked.steps = 4;
  changed("steps");
  EXPECT_EQ(recordings_, 2);
}

TEST_P(GraphEngineTest, KeepsTheShapesThatWereUsedLast) {
  const auto ask = [&](std::int64_t cameras) {
    const EngineRequest asked = request(1, cameras, 8);
    expect_tensor_near(graph_.sample(asked), eager_->sample(asked), kRounding);
    return recordings_;
  };
  EXPECT_EQ(ask(1), 1);
  EXPECT_EQ(ask(2), 2);
  EXPECT_EQ(ask(3), 3);
  EXPECT_EQ(ask(1), 3);
  EXPECT_EQ(ask(0), 4);  // 2 cameras were used longest ago
  EXPECT_EQ(ask(1), 4);
  EXPECT_EQ(ask(3), 4);
  EXPECT_EQ(ask(2), 5);
}

TEST_P(GraphEngineTest, RefusesWhatDoesNotFit) {
  for (const bool known : {false, true}) {  // before and after this shape has been recorded
    const EngineRequest good = request(2, 1, 8);
    const auto refused = [&](const std::function<void(EngineRequest&)>& spoil, const char* reason) {
      EngineRequest bad = good;
      spoil(bad);
      expect_error<UsageError>([&] { graph_.sample(bad); }, reason);
    };
    refused([](EngineRequest& bad) { bad.noise_bhd = torch::randn({2, 10, 31}); }, "noise has shape");
    refused([](EngineRequest& bad) { bad.steps = 0; }, "num_steps is 0");
    refused(
        [](EngineRequest& bad) {
          bad.observation.images_bcyx[0] = torch::zeros({2, 3, 8, 8});
        },
        "camera 0");
    refused([](EngineRequest& bad) { bad.observation.image_masks_b.clear(); }, "image masks");
    refused(
        [](EngineRequest& bad) {
          bad.observation.tokens_bt = torch::full({2, 8}, 1 << 20);
        },
        "vocabulary");
    if (GetParam() == std::string("pi0"))
      refused([](EngineRequest& bad) { bad.observation.state_bd = Tensor(); }, "state is missing");
    EXPECT_EQ(recordings_, known ? 1 : 0);
    expect_tensor_near(graph_.sample(good), eager_->sample(good), kRounding);
  }
}

thread_local std::vector<std::string> operators;

std::unique_ptr<at::ObserverContext> note_operator(const at::RecordFunction& function) {
  operators.emplace_back(function.name());
  return nullptr;
}

/// Names of the operators that `work` runs, in order.
std::vector<std::string> operators_of(const std::function<void()>& work) {
  operators.clear();
  const auto handle = at::addThreadLocalCallback(
      at::RecordFunctionCallback(&note_operator).scopes({at::RecordScope::FUNCTION}));
  work();
  at::removeCallback(handle);
  return operators;
}

// A graph repeats the launches of its recording, whatever the inputs are by then: which operators run must
// not depend on them, and none may read a value back.
TEST_P(GraphEngineTest, TheRecordedWorkIsTheSameForAllInputs) {
  const torch::InferenceMode guard;
  const EngineRequest full = request(2, 2, 32), masked = request(2, 2, 32, true);
  StaticChunk chunk(policy_, torch::kCPU, shape_of(full), policy_->step_conditioning(full.steps));
  chunk.load(full);
  const auto first = operators_of([&] { chunk.run(); });
  chunk.load(masked);
  EXPECT_EQ(operators_of([&] { chunk.run(); }), first);
  EXPECT_GT(first.size(), 1000u);
  for (const char* reads :
       {"aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::is_nonzero", "aten::equal"})
    EXPECT_EQ(std::count(first.begin(), first.end(), reads), 0) << reads;
  // The eager engine does adapt, which this test would notice.
  EXPECT_NE(operators_of([&] { policy_->encode(full.observation); }),
            operators_of([&] { policy_->encode(masked.observation); }));
}

TEST_P(GraphEngineTest, IsRefusedOnACpu) {
  expect_error<UsageError>([&] { make_engine(policy_, torch::kCPU, EngineKind::kGraph); }, "--engine graph",
                           "needs a GPU", "--engine eager");
  const EngineRequest asked = request(1, 1, 8);
  EXPECT_TRUE(torch::equal(make_engine(policy_, torch::kCPU)->sample(asked), eager_->sample(asked)));
}

TEST_P(GraphEngineTest, CapturedOnAGpuEqualsEager) {
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no GPU";
  const torch::Device gpu(torch::kCUDA, 0);
  for (const torch::Dtype dtype : {torch::kFloat32, torch::kBFloat16}) {
    const Policy policy(policy_->config(), dtype, gpu);
    const auto weights = policy_->named_tensors();
    for (auto& [name, tensor] : policy->named_tensors()) tensor.copy_(weights.at(name));
    const auto graph = make_engine(policy, gpu, EngineKind::kGraph);
    const auto eager = make_engine(policy, gpu, EngineKind::kEager);
    // Of what both engines compute in another order. bfloat16 rounds at every layer, which single actions
    // show more than all of them together.
    const auto expect_near = [&](const Tensor& got, const Tensor& expected, double float32_gap) {
      if (dtype == torch::kFloat32) return expect_tensor_near(got, expected, float32_gap);
      EXPECT_LT(relative_gap(got, expected), 0.03);
    };
    for (const std::int64_t batch : {1, 3})
      for (const std::int64_t prompt : {20, 32, 45})
        for (const bool given : {false, true})
          for (int repeat = 0; repeat < 2; ++repeat) {
            EngineRequest asked = request(batch, 2, prompt, repeat == 1);
            if (given) give_actions(asked);
            const Tensor got = graph->sample(asked);
            expect_near(got, eager->sample(asked), 1e-4);
            EXPECT_TRUE(torch::equal(graph->sample(asked), got)) << "a replay differs";
            expect_near(got, eager_->sample(asked), 1e-3);
          }
  }
}

// The sizes of the released policies, on which kernels and products depend. The rounding of bfloat16 moves a
// chunk of such a policy by 1 to 2 % of its norm, a missing camera or token by 15 %.
TEST_P(GraphEngineTest, CapturedAtFullSizeEqualsEager) {
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no GPU";
  const torch::Device gpu(torch::kCUDA, 0);
  PolicyConfig config;
  config.kind = parse_enum<PolicyKind>(GetParam(), "kind");
  const Policy policy = random_policy(config, torch::kBFloat16, gpu, 7);
  for (const ParameterGroup& group : policy->parameter_groups()) {
    const torch::NoGradGuard no_grad;
    torch::Tensor weight = group.parameter;
    if (weight.dim() > 1) weight.mul_(0.7);  // else 18 layers of random weights amplify the rounding to 9 %
  }
  const auto graph = make_engine(policy, gpu, EngineKind::kGraph);
  const auto eager = make_engine(policy, gpu, EngineKind::kEager);
  for (const bool masked : {false, true}) {
    EngineRequest asked = random_request(config, 1, 2, 48, masked);
    asked.noise_bhd = torch::randn({1, 50, 32});
    asked.steps = kEulerSteps;
    const Tensor got = graph->sample(asked);
    EXPECT_LT(relative_gap(got, eager->sample(asked)), 0.05);
    EXPECT_TRUE(torch::equal(graph->sample(asked), got)) << "a replay differs";
  }
}

}  // namespace
}  // namespace shallowpi
