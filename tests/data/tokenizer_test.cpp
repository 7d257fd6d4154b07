#include "shallowpi/data/tokenizer.h"

#include <c10/util/Logging.h>

#include <cstdlib>
#include <map>
#include <optional>
#include <thread>

#include "data/fake_episodes.h"
#include "shallowpi/base/json.h"
#include "shallowpi/data/random.h"
#include "test_util.h"

namespace shallowpi::testing {
namespace {

namespace fs = std::filesystem;

TEST(Tokenizer, FollowsPaliGemmasConventions) {
  const Tokenizer tokenizer(small_tokenizer());
  EXPECT_EQ(tokenizer.bos(), 2);
  EXPECT_EQ(tokenizer.vocab_size(), 512);
  EXPECT_EQ(tokenizer.encode("\n").size(), 1u);
  EXPECT_EQ(tokenizer.path(), small_tokenizer());
}

TEST(Tokenizer, LeavesLibTorchsFlagsAlone) {
  const Tokenizer tokenizer(small_tokenizer());
  EXPECT_FALSE(FLAGS_caffe2_use_fatal_for_enforce) << "LibTorch aborts where memory runs out";
}

TEST(Tokenizer, EqualsPythonsSentencePiece) {
  const Tokenizer tokenizer(small_tokenizer());
  const Json golden = read_json(test_data("tokenizer/golden.json"));
  ASSERT_GT(golden["texts"].size(), 5u);
  for (const Json& entry : golden["texts"])
    EXPECT_EQ(tokenizer.encode(entry["text"]), entry["ids"].get<std::vector<std::int64_t>>())
        << entry["text"];
}

TEST(Tokenizer, EncodesFromSeveralThreads) {
  const Tokenizer tokenizer(small_tokenizer());
  const std::string text = "Task: pick up the milk, State: 1 2 3;\nAction: ";
  const std::vector<std::int64_t> expected = tokenizer.encode(text);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int repeat = 0; repeat < 200; ++repeat) wrong += tokenizer.encode(text) != expected;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

// Protobuf by hand: a field of bytes, of at most 127.
std::string proto_field(int number, const std::string& bytes) {
  return std::string{static_cast<char>(number << 3 | 2), static_cast<char>(bytes.size())} + bytes;
}

TEST(Tokenizer, RefusesModelsThatTheLibraryDoesNotSurvive) {
  const TempDir dir;
  const std::string model = read_file(small_tokenizer());
  const auto refused = [&](const std::string& more, const std::string& part) {
    write_text(dir / "bad.model", model + more);
    expect_error<CorruptError>([&] { Tokenizer(dir / "bad.model"); }, "bad.model", part);
  };
  const std::string user_defined("\x18\x04", 2);
  refused(proto_field(3, proto_field(2, std::string("\x04\0\0\0\xff\xff\xff\xff!\0", 10))),
          "table of normalisation rules");
  refused(proto_field(1, proto_field(1, std::string("a\0b", 3)) + user_defined), "NUL byte");
  std::string nested;
  for (int length = 1; length <= 65; ++length)
    nested += proto_field(1, proto_field(1, std::string(length, '~')) + user_defined);
  refused(nested, "user-defined pieces begin alike");
  refused(std::string("\x0b", 1), "it is cut");
  refused(std::string(11, '\xff'), "it is cut");
  refused(proto_field(1, std::string("\x0a\x05", 2)), "a part of it is cut");
}

TEST(Tokenizer, RefusesWhatIsNotAModel) {
  const TempDir dir;
  expect_error<UsageError>([&] { Tokenizer(dir / "none.model"); }, "none.model", "no such file");
  expect_error<UsageError>([&] { Tokenizer(dir.path()); }, "no such file");
  const std::string model = read_file(small_tokenizer());
  const std::map<std::string, std::string> contents{{"empty", ""},
                                                    {"text", "not a model"},
                                                    {"json", "{\"a\": 1}"},
                                                    {"cut", model.substr(0, model.size() / 2)}};
  for (const auto& [name, bytes] : contents) {
    write_text(dir / name, bytes);
    expect_error<CorruptError>([&] { Tokenizer(dir / name); }, name, "not a SentencePiece model");
  }
}

// Whatever a damaged file holds, it is refused or it encodes; ids stay within the vocabulary.
TEST(Tokenizer, SurvivesDamagedModels) {
  const TempDir dir;
  const std::string model = read_file(small_tokenizer());
  Random random({2024});
  int refused = 0, loaded = 0;
  for (int round = 0; round < 300; ++round) {
    std::string damaged = model;
    for (std::uint64_t edits = 1 + random.below(3); edits > 0; --edits) {
      // Half of the edits hit the trainer and normaliser settings at the end.
      const std::size_t at =
          random.below(2) == 0 ? random.below(damaged.size()) : damaged.size() - 1 - random.below(200);
      if (random.below(2) == 0)
        damaged[at] = static_cast<char>(random.below(256));
      else
        damaged.erase(at, 1 + random.below(3));
    }
    write_text(dir / "damaged.model", damaged);
    try {
      const Tokenizer tokenizer(dir / "damaged.model");
      for (std::int64_t id : tokenizer.encode("Task: pick up\n the 12 \xe6\x97\xa5")) {
        EXPECT_GE(id, 0);
        EXPECT_LT(id, tokenizer.vocab_size());
      }
      ++loaded;
    } catch (const CorruptError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 20);
  EXPECT_GT(loaded, 20);
}

// Sets environment variables for one test.
class FindTokenizer : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "OPENPI_DATA_HOME"}) {
      const char* value = std::getenv(name);
      saved_[name] = value == nullptr ? std::nullopt : std::optional<std::string>(value);
      ::unsetenv(name);
    }
    set("HOME", dir_ / "home");
  }
  void TearDown() override {
    for (const auto& [name, value] : saved_)
      value ? ::setenv(name.c_str(), value->c_str(), 1) : ::unsetenv(name.c_str());
  }
  void set(const char* name, const fs::path& value) { ::setenv(name, value.c_str(), 1); }
  fs::path touch(const std::string& name) {
    write_text(dir_ / name, "x");
    return dir_ / name;
  }

  TempDir dir_;

 private:
  std::map<std::string, std::optional<std::string>> saved_;
};

TEST_F(FindTokenizer, TakesTheFirstThatExists) {
  expect_error<UsageError>([&] { find_tokenizer("", dir_ / "checkpoint"); }, "no tokenizer found",
                           "https://storage.googleapis.com/big_vision/paligemma_tokenizer.model",
                           (dir_ / "home/.cache/openpi/big_vision/paligemma_tokenizer.model").string(),
                           "gsutil");
  const std::string snapshots = "models--google--paligemma-3b-pt-224/snapshots/";
  const fs::path hub = touch("home/.cache/huggingface/hub/" + snapshots + "35e4f4/tokenizer.model");
  EXPECT_EQ(find_tokenizer("", ""), hub);
  const fs::path openpi = touch("home/.cache/openpi/big_vision/paligemma_tokenizer.model");
  EXPECT_EQ(find_tokenizer("", ""), openpi);
  const fs::path own = touch("checkpoint/tokenizer.model");
  EXPECT_EQ(find_tokenizer("", dir_ / "checkpoint"), own);
  EXPECT_EQ(find_tokenizer("", own), own);
  const fs::path named = touch("named.model");
  EXPECT_EQ(find_tokenizer(named.string(), own), named);
}

TEST_F(FindTokenizer, HonoursTheCachesVariables) {
  const std::string snapshots = "models--google--paligemma-3b-pt-224/snapshots/";
  const fs::path hub = touch("hf/hub/" + snapshots + "b/tokenizer.model");
  set("HF_HOME", dir_ / "hf");
  EXPECT_EQ(find_tokenizer("", ""), hub);
  const fs::path hub_cache = touch("hub_cache/" + snapshots + "a/tokenizer.model");
  set("HF_HUB_CACHE", dir_ / "hub_cache");
  EXPECT_EQ(find_tokenizer("", ""), hub_cache);
  const fs::path openpi = touch("openpi/big_vision/paligemma_tokenizer.model");
  set("OPENPI_DATA_HOME", dir_ / "openpi");
  EXPECT_EQ(find_tokenizer("", ""), openpi);
}

TEST_F(FindTokenizer, NeverReplacesANamedFile) {
  touch("checkpoint/tokenizer.model");
  expect_error<UsageError>([&] { find_tokenizer((dir_ / "typo.model").string(), dir_ / "checkpoint"); },
                           "typo.model", "no such file");
}

}  // namespace
}  // namespace shallowpi::testing
