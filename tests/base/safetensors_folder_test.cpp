#include "shallowpi/base/safetensors.h"
#include "test_util.h"

namespace shallowpi {
namespace {

using testing::expect_error;
using testing::TempDir;
using testing::write_text;

constexpr const char* kIndex = "model.safetensors.index.json";

/// Two shards and an index with this weight map.
void write_shards(const TempDir& folder, const std::string& weight_map) {
  write_safetensors(folder / "one.safetensors", {{"a", torch::arange(3)}, {"b", torch::arange(4)}});
  write_safetensors(folder / "two.safetensors", {{"c", torch::arange(5)}});
  write_text(folder / kIndex, R"({"metadata": {"total_size": 96}, "weight_map": )" + weight_map + "}");
}

void expect_refused(const std::string& weight_map, const std::string& reason) {
  const TempDir folder;
  write_shards(folder, weight_map);
  expect_error<CorruptError>([&] { SafetensorsFolder(folder.path()); }, folder.path().string(), reason);
}

TEST(SafetensorsFolder, ReadsOneFile) {
  const TempDir folder;
  write_safetensors(folder / "model.safetensors", {{"a", torch::arange(3)}});
  write_text(folder / kIndex, "not read where the single file exists");
  const SafetensorsFolder weights(folder.path());
  EXPECT_EQ(weights.files().size(), 1u);
  EXPECT_TRUE(torch::equal(weights.read("a"), torch::arange(3)));
}

TEST(SafetensorsFolder, ReadsShards) {
  const TempDir folder;
  write_shards(folder, R"({"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"})");
  const SafetensorsFolder weights(folder.path());
  EXPECT_EQ(weights.files().size(), 2u);
  EXPECT_EQ(weights.tensors().size(), 3u);
  EXPECT_TRUE(weights.contains("c"));
  EXPECT_TRUE(torch::equal(weights.read("b"), torch::arange(4)));
  torch::Tensor to = torch::zeros({5});
  weights.read_into("c", to);
  EXPECT_TRUE(torch::equal(to, torch::arange(5, torch::kFloat32)));
  expect_error<UsageError>([&] { weights.read("zz"); }, folder.path().string(), "no tensor \"zz\"");
}

TEST(SafetensorsFolder, RefusesBadIndexes) {
  expect_refused(R"({"a": "one.safetensors", "c": "two.safetensors"})", "does not say that tensor \"b\"");
  expect_refused(R"({"a": "two.safetensors", "b": "one.safetensors", "c": "two.safetensors"})",
                 "does not say that tensor \"a\" is in one.safetensors");
  expect_refused(R"({"a": "one.safetensors", "b": "one.safetensors", "d": "one.safetensors"})",
                 "says that tensor \"d\" is in");
  expect_refused(R"({"a": "three.safetensors"})", "which is missing");
  expect_refused(R"({"a": "../one.safetensors"})", "not a plain file name");
  expect_refused(R"({"a": "/etc/passwd"})", "not a plain file name");
  expect_refused(R"({"a": ".."})", "not a plain file name");
  expect_refused(R"({"a": ""})", "not a plain file name");
  expect_refused(R"({"a": "one.safetensors\u0000x"})", "not a plain file name");
  expect_refused(R"({"a": 1})", "must be a string");
  expect_refused("{}", "at least one tensor");
  expect_refused("[]", "at least one tensor");
  expect_refused(R"({"a": "one.safetensors", "a": "two.safetensors"})", "duplicate key");
}

TEST(SafetensorsFolder, RefusesTensorsInTwoShards) {
  const TempDir folder;
  write_shards(folder, R"({"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"})");
  write_safetensors(folder / "two.safetensors", {{"a", torch::arange(3)}, {"c", torch::arange(5)}});
  expect_error<CorruptError>([&] { SafetensorsFolder(folder.path()); }, "two.safetensors", "\"a\"",
                             "earlier shard");
}

TEST(SafetensorsFolder, FolderWithoutWeightsIsTheUsersFault) {
  const TempDir folder;
  expect_error<UsageError>([&] { SafetensorsFolder(folder.path()); }, folder.path().string(),
                           "holds neither");
  expect_error<UsageError>([&] { SafetensorsFolder(folder / "missing"); }, "missing");
}

}  // namespace
}  // namespace shallowpi
