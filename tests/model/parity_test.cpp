// Every output against LeRobot 0.6.1's own modules (tests/data/parity).
#include "parity_fixture.h"

namespace shallowpi {
namespace {

using namespace shallowpi::testing;
using torch::Tensor;

class Parity : public ::testing::TestWithParam<std::string> {
 protected:
  NamedTensors weights = parity_weights(GetParam());
  NamedTensors io = parity_io(GetParam());
  Observation observation = parity_observation(io);

  Tensor x_t() const {
    const Tensor t = io.at("in.time").view({-1, 1, 1});
    return t * io.at("in.noise") + (1 - t) * io.at("in.actions");
  }
  std::vector<std::int64_t> student_layers(int layers) const {
    const Tensor kept = io.at(str("out.student", layers, "_layers"));
    return {kept.data_ptr<std::int64_t>(), kept.data_ptr<std::int64_t>() + kept.numel()};
  }
};

TEST_P(Parity, PrefixEmbeddings) {
  Policy policy = parity_policy(weights);
  EXPECT_TRUE(tensor_near(policy->full_prefix_embeddings(observation), io.at("out.prefix_embeddings"), 1e-5));
}

TEST_P(Parity, Velocity) {
  Policy policy = parity_policy(weights);
  for (const bool training : {false, true}) {
    torch::AutoGradMode mode(training);
    const Tensor v =
        policy->velocity(policy->encode(observation), observation.state_bd, x_t(), io.at("in.time"));
    EXPECT_TRUE(tensor_near(v, io.at("out.velocity"), 1e-5));
    EXPECT_TRUE(
        tensor_near((v - (io.at("in.noise") - io.at("in.actions"))).square(), io.at("out.loss"), 1e-4));
  }
}

TEST_P(Parity, SampledActions) {
  Policy policy = parity_policy(weights);
  EXPECT_TRUE(tensor_near(policy->sample_actions(observation, io.at("in.noise")),
                          io.at("out.sampled_actions"), 5e-5));
}

TEST_P(Parity, Students) {
  for (const int layers : {9, 6, 4}) {
    Policy student = parity_policy(weights, student_layers(layers));
    torch::NoGradGuard no_grad;
    const Tensor v =
        student->velocity(student->encode(observation), observation.state_bd, x_t(), io.at("in.time"));
    const std::string out = str("out.student", layers, "_");
    EXPECT_TRUE(tensor_near(v, io.at(out + "velocity"), 1e-5)) << layers;
    EXPECT_TRUE(tensor_near(student->sample_actions(observation, io.at("in.noise")),
                            io.at(out + "sampled_actions"), 5e-5))
        << layers;
  }
}

TEST_P(Parity, Bfloat16) {
  Policy policy = parity_policy(weights, {}, torch::kBFloat16);
  torch::NoGradGuard no_grad;
  const Tensor v =
      policy->velocity(policy->encode(observation), observation.state_bd, x_t(), io.at("in.time"));
  ASSERT_EQ(v.scalar_type(), torch::kFloat32);
  const Tensor& expected = io.at("out.velocity");
  const double gap = (v - expected).norm().item<double>() / expected.norm().item<double>();
  EXPECT_LT(gap, 2e-2);
  EXPECT_GT(gap, 0) << "was anything computed in bfloat16?";
}

INSTANTIATE_TEST_SUITE_P(Kinds, Parity, ::testing::Values("pi0", "pi05"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace shallowpi
