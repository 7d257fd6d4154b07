#include "shallowpi/base/yaml.h"

#include <gtest/gtest.h>

#include "shallowpi/base/text.h"
#include "test_util.h"

namespace shallowpi {
namespace {

std::string problems_of(const std::string& text) {
  std::vector<std::string> lines;
  for (const YamlProblem& problem : parse_yaml(text).problems)
    lines.push_back(str(problem.line, ": ", problem.message));
  return join(lines, "\n");
}

YamlNode scalar(const std::string& text) {
  return parse_yaml(text).root;
}

TEST(Yaml, ReadsMapsListsAndScalarsWithTheirLines) {
  YamlDocument document = parse_yaml("a: 1\nb:\n  c: [x, 'y']\n  d:\n");
  ASSERT_TRUE(document.problems.empty());
  EXPECT_EQ(document.root.keys, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(document.root.key_lines, (std::vector<int>{1, 2}));
  const YamlNode& b = document.root.children[1];
  EXPECT_EQ(b.children[0].kind, YamlNode::Kind::kList);
  EXPECT_FALSE(b.children[0].children[0].quoted);
  EXPECT_TRUE(b.children[0].children[1].quoted);
  EXPECT_EQ(b.children[1].kind, YamlNode::Kind::kNull);
}

TEST(Yaml, RefusesWhatYamlCppAcceptsSilently) {
  EXPECT_EQ(problems_of("a: 1\nb: 2\na: 3\n"), "3: duplicate key 'a', first on line 1");
  EXPECT_EQ(problems_of("a: {b: 1, b: 2}\n"), "1: duplicate key 'b', first on line 1");
  EXPECT_EQ(problems_of("a: &x 1\n"), "1: anchors (&x) are not supported; remove it");
  EXPECT_EQ(problems_of("a: &x 1\nb: *x\n"),
            "1: anchors (&x) are not supported; remove it\n2: aliases (*name) are not supported; write the "
            "value out");
  EXPECT_EQ(problems_of("a: !!python/object 1\n"),
            "1: tags (tag:yaml.org,2002:python/object) are not supported; remove it");
  EXPECT_EQ(problems_of("a:\n\tb: 1\n"), "2: a tab in the indentation; use spaces");
  EXPECT_EQ(problems_of("a: 1\n---\nb: 2\n"), "3: a second document (---); one is read");
  EXPECT_EQ(problems_of("? [x, y]\n: 1\n"), "1: a key must be a word");
  EXPECT_EQ(problems_of(std::string("a: 1\n\0", 6)), "2: a NUL byte: this is not a text file");
}

TEST(Yaml, SyntaxErrorsNameTheLine) {
  EXPECT_EQ(problems_of("a: 1\nb: [1, 2\nc: 3\n").rfind("not valid YAML") != std::string::npos, true);
  EXPECT_EQ(problems_of("a: 1\nb: ]\n").substr(0, 18), "2: not valid YAML:");
}

TEST(Yaml, BoundsDepthAndSize) {
  EXPECT_EQ(problems_of(std::string(16, '[') + std::string(16, ']')), "");
  EXPECT_EQ(problems_of(std::string(17, '[') + std::string(17, ']')),
            "1: not valid YAML: nested deeper than 16 levels");
  EXPECT_NE(problems_of(std::string(500000, '[')).find("nested deeper"), std::string::npos);
  EXPECT_EQ(problems_of("a: " + std::string(kMaxYamlBytes, 'x')),
            "1: larger than 1.0 MiB; is this the right file?");
}

TEST(Yaml, AnAliasBombIsRefusedWithoutExpandingIt) {
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 30; ++i) {
    bomb += str("a", i, ": &a", i, " [");
    for (int k = 0; k < 9; ++k) bomb += str(k ? ", " : "", "*a", i - 1);
    bomb += "]\n";
  }
  EXPECT_EQ(parse_yaml(bomb).problems.size(), 30u + 29u * 9u);
}

TEST(Yaml, NumbersAreStrict) {
  EXPECT_EQ(yaml_integer(scalar("-12")), -12);
  EXPECT_EQ(yaml_number(scalar("1e-4")), 1e-4);
  EXPECT_EQ(yaml_number(scalar("3")), 3.0);
  EXPECT_TRUE(yaml_bool(scalar("true")));
  for (const char* bad :
       {"1.5", "1e4", "0x10", "abc", "'12'", "99999999999999999999", "[1]", "{a: 1}", "~", "1 2"})
    EXPECT_THROW(yaml_integer(scalar(bad)), UsageError) << bad;
  for (const char* bad : {"0x10", "abc", "'1'", "1,5", "1e999"})
    EXPECT_THROW(yaml_number(scalar(bad)), UsageError) << bad;
  for (const char* bad : {"nan", ".nan", "inf", "-inf", ".inf", "-.Inf"})
    testing::expect_error<UsageError>([&] { yaml_number(scalar(bad)); }, "is not finite");
  for (const char* bad : {"yes", "1", "True", "'true'"})
    EXPECT_THROW(yaml_bool(scalar(bad)), UsageError) << bad;
  testing::expect_error<UsageError>([] { yaml_integer(scalar("'12'")); },
                                    "the quoted text '12' is not a whole number");
  testing::expect_error<UsageError>([] { yaml_integer(scalar("-9223372036854775809")); },
                                    "is out of range; it must be >= -9223372036854775808 and <= 92233");
  testing::expect_error<UsageError>([] { yaml_integer(scalar("9e999")); }, "'9e999' is not a whole number");
  testing::expect_error<UsageError>([] { yaml_text(scalar("")); }, "has no value");
}

TEST(Yaml, WrittenValuesReadBackEqual) {
  for (const char* text :
       {"plain", "", "null", "~", "- x", "a: b", "it's", "\"quoted\"", "line\nbreak", "tab\there", "ümläut",
        "*glob*.hdf5", "#x", "{", "true", "12", "back\\slash", "\x7f"}) {
    YamlNode node = parse_yaml(str("key: ", to_yaml(std::string_view(text)))).root;
    ASSERT_EQ(node.children.size(), 1u) << text;
    EXPECT_EQ(yaml_text(node.children[0]), text);
    EXPECT_EQ(yaml_text(parse_yaml(to_yaml(std::vector<std::string>{text})).root.children[0]), text);
  }
  for (double number : {0.1, 1e-10, 2.5e-5, 1.0, 1e300, 5e-324})
    EXPECT_EQ(yaml_number(scalar(to_yaml(number))), number);
  EXPECT_EQ(to_yaml(std::vector<std::int64_t>{0, 3, 6}), "[0, 3, 6]");
}

}  // namespace
}  // namespace shallowpi
