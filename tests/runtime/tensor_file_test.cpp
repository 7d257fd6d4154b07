#include "shallowpi/runtime/tensor_file.h"

#include "parity_fixture.h"
#include "shallowpi/base/safetensors.h"

namespace shallowpi {
namespace {

using testing::expect_error;
using testing::TempDir;

/// The sizes of the policies in tests/data/parity, as far as inputs depend on them.
PolicyConfig parity_config(PolicyKind kind) {
  PolicyConfig config;
  config.kind = kind;
  config.vision.image_size = 56;
  config.vocab = 256;
  return config;
}

class TensorFile : public ::testing::Test {
 protected:
  NamedTensors io_ = testing::parity_io("pi05");
  TempDir dir_;

  PolicyInputs read(PolicyKind kind = PolicyKind::kPi05) {
    const auto path = dir_ / "in.safetensors";
    save_safetensors(path, io_);
    return read_policy_inputs(path, parity_config(kind));
  }
};

TEST_F(TensorFile, ReadsEveryInput) {
  const PolicyInputs inputs = read(PolicyKind::kPi0);
  ASSERT_EQ(inputs.observation.images_bcyx.size(), 2u);
  EXPECT_TRUE(torch::equal(inputs.observation.images_bcyx[1], io_["in.image_1"]));
  EXPECT_TRUE(torch::equal(inputs.observation.image_masks_b[0], io_["in.image_mask_0"]));
  EXPECT_EQ(inputs.observation.tokens_bt.scalar_type(), torch::kInt64);  // the file holds int32
  EXPECT_TRUE(torch::equal(inputs.observation.tokens_bt, io_["in.tokens"].to(torch::kInt64)));
  EXPECT_TRUE(torch::equal(inputs.observation.token_mask_bt, io_["in.token_mask"]));
  EXPECT_TRUE(torch::equal(inputs.observation.state_bd, io_["in.state"]));
  EXPECT_TRUE(torch::equal(inputs.actions_bhd, io_["in.actions"]));
  EXPECT_TRUE(torch::equal(inputs.noise_bhd, io_["in.noise"]));
  EXPECT_TRUE(torch::equal(inputs.time_b, io_["in.time"]));
}

TEST_F(TensorFile, TakesOtherDtypesAndLeavesOutWhatIsOptional) {
  io_["in.tokens"] = io_["in.tokens"].to(torch::kInt64);
  io_["in.token_mask"] = io_["in.token_mask"].to(torch::kUInt8);
  io_["in.image_0"] = io_["in.image_0"].to(torch::kFloat64);
  for (const char* name : {"in.state", "in.actions", "in.noise", "in.time", "in.image_mask_1"})
    io_.erase(name);
  const PolicyInputs inputs = read();
  EXPECT_EQ(inputs.observation.images_bcyx[0].scalar_type(), torch::kFloat32);
  EXPECT_EQ(inputs.observation.token_mask_bt.scalar_type(), torch::kBool);
  EXPECT_TRUE(inputs.observation.image_masks_b[1].all().item<bool>());
  EXPECT_EQ(inputs.observation.state_bd.abs().sum().item<float>(), 0.0f);
  EXPECT_EQ(inputs.observation.state_bd.size(0), 3);
  EXPECT_FALSE(inputs.actions_bhd.defined() || inputs.noise_bhd.defined() || inputs.time_b.defined());
}

TEST_F(TensorFile, ListsAllProblemsAtOnce) {
  io_["in.image_0"] = torch::zeros({3, 3, 48, 56});
  io_["in.image_mask_1"] = torch::ones({2}, torch::kBool);
  io_["in.state"] = torch::zeros({3, 8});
  io_["in.actions"] = torch::full({3, 10, 32}, NAN);
  io_["in.noise"] = torch::zeros({3, 12, 32});
  io_["in.time"] = torch::zeros({3}, torch::kInt64);
  expect_error<UsageError>(
      [&] { read(); }, "in.safetensors", "in.image_0 is [3, 3, 48, 56], expected [3, 3, 56, 56]",
      "in.image_mask_1 is [2], expected [3]", "in.state is [3, 8], expected [3, 32]",
      "in.actions holds values that are not finite", "in.noise is [3, 12, 32], expected [3, 10, 32]",
      "in.time is Long, expected a float");
}

TEST_F(TensorFile, RefusesWhatItWouldOtherwisePassOver) {
  io_["in.nois"] = io_.extract("in.noise").mapped();
  io_["in.time"] = torch::full({3}, 1.5);
  expect_error<UsageError>([&] { read(); }, "\"in.nois\" is no input; did you mean in.noise?",
                           "in.time holds values outside [0, 1]");
}

TEST_F(TensorFile, ChecksPromptsAgainstTheVocabulary) {
  io_["in.tokens"] = io_["in.tokens"].clone();
  io_["in.tokens"][0][0] = 256;
  io_["in.token_mask"] = io_["in.token_mask"].clone();
  io_["in.token_mask"][2][0] = false;
  expect_error<UsageError>([&] { read(); }, "to 256, but the vocabulary is 0 to 255",
                           "real tokens must come first");
}

TEST_F(TensorFile, NamesWhatIsMissing) {
  io_.erase("in.tokens");
  io_.erase("in.state");
  for (const char* name : {"in.image_0", "in.image_1"}) io_.erase(name);
  expect_error<UsageError>([&] { read(PolicyKind::kPi0); }, "in.tokens [*, *] is missing",
                           "in.image_0 is missing", "in.state [*, 32] is missing");
}

TEST_F(TensorFile, RefusesOtherFiles) {
  testing::write_text(dir_ / "text", "this is not a tensor file, but long enough to have a header");
  expect_error<CorruptError>([&] { read_policy_inputs(dir_ / "text", parity_config(PolicyKind::kPi05)); },
                             "text");
}

}  // namespace
}  // namespace shallowpi
