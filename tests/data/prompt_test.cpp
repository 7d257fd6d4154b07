#include <cmath>
#include <limits>

#include "data/fake_episodes.h"
#include "shallowpi/base/json.h"
#include "shallowpi/data/tokenizer.h"
#include "test_util.h"

namespace shallowpi::testing {
namespace {

TEST(StateBin, EqualsNumpysDigitize) {
  const Json golden = read_json(test_data("tokenizer/golden.json"))["state_bins_512ths"];
  int numerator = golden["first"];
  ASSERT_GT(golden["bins"].size(), 1000u);
  for (const Json& bin : golden["bins"]) {
    EXPECT_EQ(state_bin(numerator / 512.0), bin.get<std::int64_t>()) << numerator << "/512";
    ++numerator;
  }
}

TEST(StateBin, Edges) {
  EXPECT_EQ(state_bin(-1.0), 0);
  EXPECT_EQ(state_bin(std::nextafter(-1.0, -2.0)), -1);
  EXPECT_EQ(state_bin(-1e300), -1);
  EXPECT_EQ(state_bin(0.0), 128);
  EXPECT_EQ(state_bin(-1e-20), 127);  // adding 1 first would round it into the next bin
  EXPECT_EQ(state_bin(std::nextafter(1.0, 0.0)), 255);
  EXPECT_EQ(state_bin(1.0), 255);
  EXPECT_EQ(state_bin(std::numeric_limits<double>::infinity()), 255);
}

TEST(Prompt, EqualsPythonInAllModes) {
  const Tokenizer tokenizer(small_tokenizer());
  const Json golden = read_json(test_data("tokenizer/golden.json"));
  ASSERT_EQ(golden["prompts"].size(), 40u);
  for (const Json& entry : golden["prompts"]) {
    PolicySpec spec;
    spec.prompt_mode = parse_enum<PromptMode>(entry["mode"].get<std::string>(), "mode");
    EXPECT_EQ(encode_prompt(tokenizer, spec, entry["text"], entry["state"].get<std::vector<float>>()),
              entry["ids"].get<std::vector<std::int64_t>>())
        << entry["mode"] << entry["text"];
  }
}

TEST(Prompt, TheTextItself) {
  const Tokenizer tokenizer(small_tokenizer());
  PolicySpec spec;
  const auto with_bos = [&](const std::string& text) {
    std::vector<std::int64_t> ids = tokenizer.encode(text);
    ids.insert(ids.begin(), tokenizer.bos());
    return ids;
  };
  spec.prompt_mode = PromptMode::kPi05State;
  EXPECT_EQ(encode_prompt(tokenizer, spec, " open_the\ndrawer ", {0.0f, -2.0f, 2.0f}),
            with_bos("Task: open the drawer, State: 128 -1 255;\nAction: "));
  spec.prompt_mode = PromptMode::kPi05StatePadded32;
  std::string padded = "Task: open the drawer, State: 192";
  for (int i = 1; i < 32; ++i) padded += " 128";
  EXPECT_EQ(encode_prompt(tokenizer, spec, "open the drawer", {0.5f}), with_bos(padded + ";\nAction: "));
  spec.prompt_mode = PromptMode::kPi0Plain;
  EXPECT_EQ(encode_prompt(tokenizer, spec, "Open the drawer", {0.5f}), with_bos("Open the drawer\n"));
  EXPECT_EQ(prompt_parts(spec, " open_the\ndrawer ", {0.5f}),
            (std::vector<std::string>{"open the drawer", "\n"}));
}

TEST(Prompt, IsStrippedAsPythonDoes) {
  PolicySpec spec;
  spec.prompt_mode = PromptMode::kPi05NoState;
  for (const char* text :
       {"fold it", " \t\r\nfold it\x1c ", "\u3000fold it\u00a0\u2028", "\u2003fold it\u200a"})
    EXPECT_EQ(prompt_parts(spec, text, {}).front(), "fold it") << text;
  EXPECT_EQ(prompt_parts(spec, "\u200bfold it", {}).front(), "\u200bfold it") << "no space in Python";
  EXPECT_EQ(prompt_parts(spec, "\u3000 ", {}).front(), "");
}

}  // namespace
}  // namespace shallowpi::testing
