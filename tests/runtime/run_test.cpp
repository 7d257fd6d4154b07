#include "shallowpi/runtime/run.h"

#include "parity_fixture.h"

namespace shallowpi {
namespace {

using testing::expect_error;
using testing::expect_tensor_near;
using testing::TempDir;

class Run : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    options_.checkpoint = dir_ / "policy";
    options_.input = dir_ / "in";
    options_.output = dir_ / "out";
    testing::write_parity_openpi(dir_ / "policy", GetParam());
    save_safetensors(options_.input, io_);
  }
  NamedTensors run() {
    run_policy_on_file(options_);
    return load_safetensors(options_.output);
  }

  TempDir dir_;
  NamedTensors io_ = testing::parity_io(GetParam());
  RunOptions options_;
};
INSTANTIATE_TEST_SUITE_P(Kinds, Run, ::testing::Values("pi0", "pi05"));

TEST_P(Run, EqualsTheReference) {
  const NamedTensors out = run();
  EXPECT_EQ(out.size(), 3u);
  expect_tensor_near(out.at("out.prefix_embeddings"), io_.at("out.prefix_embeddings"), 1e-5);
  expect_tensor_near(out.at("out.velocity"), io_.at("out.velocity"), 1e-5);
  expect_tensor_near(out.at("out.sampled_actions"), io_.at("out.sampled_actions"), 5e-5);
}

TEST_P(Run, DrawsNoiseByItsSeedAndSavesIt) {
  io_.erase("in.noise");
  io_.erase("in.actions");
  save_safetensors(options_.input, io_);
  expect_error<UsageError>([&] { run_policy_on_file(options_); },
                           "give --horizon");  // openpi folders do not say it
  options_.horizon = 7;
  const NamedTensors first = run();
  EXPECT_EQ(first.at("out.sampled_actions").sizes(), torch::IntArrayRef({3, 7, 32}));
  EXPECT_EQ(first.count("out.velocity"), 0u);
  expect_tensor_near(run().at("out.sampled_actions"), first.at("out.sampled_actions"), 0.0);
  options_.seed = 43;
  EXPECT_FALSE(torch::equal(run().at("in.noise"), first.at("in.noise")));

  io_["in.noise"] = first.at("in.noise");
  save_safetensors(options_.input, io_);
  options_.horizon.reset();
  expect_tensor_near(run().at("out.sampled_actions"), first.at("out.sampled_actions"), 0.0);
}

TEST_P(Run, WritesTheVelocityOfTheNoiseItDraws) {
  io_.erase("in.noise");
  save_safetensors(options_.input, io_);
  const NamedTensors drawn = run();
  io_["in.noise"] = drawn.at("in.noise");
  save_safetensors(options_.input, io_);
  expect_tensor_near(run().at("out.velocity"), drawn.at("out.velocity"), 0.0);

  io_.erase("in.noise");
  save_safetensors(options_.input, io_);
  options_.horizon = 4;
  expect_error<UsageError>([&] { run_policy_on_file(options_); }, "--horizon 4 contradicts in.actions",
                           "which has 10 steps");
}

TEST_P(Run, WarnsOfAMissingCamera) {
  io_.erase("in.image_1");
  io_.erase("in.image_mask_1");
  save_safetensors(options_.input, io_);
  ::testing::internal::CaptureStderr();
  run();
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("in.image_1 is missing, so the policy acts without its camera left_wrist_0_rgb"),
            std::string::npos)
      << log;
}

TEST_P(Run, RefusesMoreCamerasThanThePolicyHas) {
  for (int k = 0; k < 4; ++k) io_[str("in.image_", k)] = io_.at("in.image_0");
  save_safetensors(options_.input, io_);
  expect_error<UsageError>([&] { run_policy_on_file(options_); }, "in.image_3 is one camera too many",
                           "base_0_rgb, left_wrist_0_rgb, right_wrist_0_rgb");
}

TEST_P(Run, WritesNothingThatIsNotFinite) {
  NamedTensors weights = testing::parity_weights(GetParam());
  for (auto& [name, tensor] : weights)  // finite each, but not their product
    if (name.ends_with(".q_proj.weight") || name.ends_with(".k_proj.weight")) tensor.mul_(1e20);
  save_safetensors(dir_ / "policy/model.safetensors", weights);
  expect_error<CorruptError>([&] { run_policy_on_file(options_); }, "policy", "is not finite");
  EXPECT_FALSE(std::filesystem::exists(options_.output));
}

TEST_P(Run, RefusesContradictionsAndWritesNothing) {
  options_.horizon = 4;
  expect_error<UsageError>([&] { run_policy_on_file(options_); }, "--horizon 4", "which has 10 steps");
  options_.horizon.reset();
  options_.output = dir_ / "no/such/folder/out";
  expect_error<UsageError>([&] { run_policy_on_file(options_); }, "there is no folder");
  options_.output = options_.input;
  expect_error<UsageError>([&] { run_policy_on_file(options_); }, "is the --input");
  options_.output = dir_ / "out";
  options_.steps = 0;
  expect_error<UsageError>([&] { run_policy_on_file(options_); }, "num_steps is 0");
  EXPECT_FALSE(std::filesystem::exists(dir_ / "out"));
}

}  // namespace
}  // namespace shallowpi
