#include "shallowpi/base/text.h"

#include "test_util.h"

namespace shallowpi {
namespace {

TEST(Text, StrConcatenates) {
  EXPECT_EQ(str("layer ", 3, " of ", 18, ": ", true, ' ', 0.5), "layer 3 of 18: true 0.5");
  EXPECT_EQ(join(std::vector<int>{1, 2, 3}, ", "), "1, 2, 3");
  EXPECT_EQ(join(std::vector<int>{}, ", "), "");
}

TEST(Text, SplitKeepsEmptyParts) {
  EXPECT_EQ(split("a,,b", ','), (std::vector<std::string>{"a", "", "b"}));
  EXPECT_EQ(split("", ','), std::vector<std::string>{""});
  EXPECT_EQ(split("a,", ','), (std::vector<std::string>{"a", ""}));
}

TEST(Text, ShortenedSaysHowManyMoreThereAre) {
  EXPECT_EQ(shortened({"a", "b"}, 2), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(shortened({"a", "b", "c"}, 1), (std::vector<std::string>{"a", "and 2 more"}));
}

TEST(Text, TrimTakesSpaceFromBothEnds) {
  EXPECT_EQ(trim(" \t a b\r\n"), "a b");
  EXPECT_EQ(trim("  "), "");
}

TEST(Text, NearestFindsTyposOnly) {
  const std::vector<std::string> keys = {"train.steps", "train.batch_size", "seed"};
  EXPECT_EQ(nearest("train.step", keys), "train.steps");
  EXPECT_EQ(nearest("sed", keys), "seed");
  EXPECT_EQ(nearest("sede", keys), "seed") << "swapped neighbours are one typo";
  EXPECT_EQ(nearest("optimizer", keys), "");
  EXPECT_EQ(nearest("seed", {}), "");
}

TEST(Text, InQuotesIsSafeForTerminals) {
  EXPECT_EQ(in_quotes("größe 機"), "\"größe 機\"");
  EXPECT_EQ(in_quotes("a\x1b[2J\n"), "\"a\\x1b[2J\\x0a\"");
  EXPECT_EQ(in_quotes("\xff\xc3"), "\"\\xff\\xc3\"");
  EXPECT_EQ(in_quotes("\xc2\x9b"), "\"\\xc2\\x9b\"");  // CSI as one code point
  EXPECT_EQ(in_quotes(std::string(200, 'a')), "\"" + std::string(100, 'a') + "...\"");
}

TEST(Text, InQuotesKnowsWhatIsNotUtf8) {
  EXPECT_EQ(in_quotes("\xe0\x80\x80"), "\"\\xe0\\x80\\x80\"");           // overlong
  EXPECT_EQ(in_quotes("\xed\xa0\x80"), "\"\\xed\\xa0\\x80\"");           // a surrogate
  EXPECT_EQ(in_quotes("\xf4\x90\x80\x80"), "\"\\xf4\\x90\\x80\\x80\"");  // beyond U+10FFFF
}

TEST(Text, KnowsUtf8) {
  for (const char* good : {"", "pick up", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\xA4\x96", "\xED\x9F\xBF"})
    EXPECT_TRUE(is_utf8(good)) << good;
  for (const char* bad : {"\x80", "\xC3", "\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xED\xA0\x80",
                          "\xF0\x80\x80\x80", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "a\xE2\x82"})
    EXPECT_FALSE(is_utf8(bad));
}

TEST(Text, HumanNumbers) {
  EXPECT_EQ(fixed(3.14159, 2), "3.14");
  EXPECT_EQ(significant(0.0123456), "0.0123");
  EXPECT_EQ(significant(123.4), "123");
  EXPECT_EQ(significant(1.5), "1.50");
  EXPECT_EQ(human_bytes(1023), "1023 B");
  EXPECT_EQ(human_bytes(1536), "1.5 KiB");
  EXPECT_EQ(human_bytes(std::uint64_t{1} << 30), "1.0 GiB");
  EXPECT_EQ(human_bytes((std::uint64_t{1} << 20) - 1), "1.0 MiB");
  EXPECT_EQ(human_count(999), "999");
  EXPECT_EQ(human_count(3353433872), "3.35 B");
  EXPECT_EQ(human_count(4400000), "4.40 M");
  EXPECT_EQ(human_count(999999), "1.00 M");
  EXPECT_EQ(human_duration(0.25), "0.2 s");
  EXPECT_EQ(human_duration(42.3), "42 s");
  EXPECT_EQ(human_duration(59.7), "1 min 00 s");
  EXPECT_EQ(human_duration(3725), "1 h 02 min");
  EXPECT_EQ(human_duration(90000), "1 d 01 h");
  EXPECT_EQ(human_duration(std::nan("")), "?");
  EXPECT_EQ(shape_text({3, 10, 32}), "[3, 10, 32]");
}

TEST(Text, TableAlignsNumbersRight) {
  EXPECT_EQ(text_table({"name", "layers"}, {{"teacher", "18"}, {"größe", "6"}, {"floor", "-"}}),
            "name     layers\n"
            "-------  ------\n"
            "teacher      18\n"
            "größe         6\n"
            "floor         -\n");
}

}  // namespace
}  // namespace shallowpi
