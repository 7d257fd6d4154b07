#include "shallowpi/base/json.h"

#include "test_util.h"

namespace shallowpi {
namespace {

using testing::expect_error;
using testing::TempDir;
using testing::write_text;

void expect_refused(std::string_view text, const std::string& reason) {
  expect_error<CorruptError>([&] { parse_json(text, "x.json"); }, "x.json: line ", reason);
}

TEST(Json, KeepsOrderAndValues) {
  const Json json =
      parse_json(R"({"b": [1, -2, 2.5, "ä", true, null], "a": {"c": 18446744073709551615}})", "x");
  EXPECT_EQ(json.dump(), R"({"b":[1,-2,2.5,"ä",true,null],"a":{"c":18446744073709551615}})");
  EXPECT_EQ(json.at("b").at(1).get<int>(), -2);
}

TEST(Json, RefusesWhatIsAmbiguousOrHostile) {
  expect_refused(R"({"a": 1, "b": 2, "a": 3})", "duplicate key \"a\"");
  expect_refused(R"({"x": {"a": 1, "\u0061": 2}})", "duplicate key \"a\"");
  expect_refused("[18446744073709551616]", "does not fit into 64 bits");
  expect_refused("[-9223372036854775809]", "does not fit into 64 bits");
  expect_refused("[1e999]", "overflow");
  expect_refused("[NaN]", "invalid literal");
  expect_refused("[Infinity]", "invalid literal");
  expect_refused("[\"\xff\"]", "UTF-8");
  expect_refused("[\"\\ud800\"]", "surrogate");
  expect_refused(std::string_view("{}\0{", 4), "NUL");
  expect_refused("\xEF\xBB\xBF{}", "byte order mark");
  expect_refused("{} x", "invalid literal");
  expect_refused("{} {}", "end of input");
  expect_refused("// note\n{}", "invalid literal");
  expect_refused("[1,]", "unexpected");
  expect_refused("", "end of input");
}

TEST(Json, RefusesDeepNesting) {
  const auto nested = [](std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_NO_THROW(parse_json(nested(64), "x"));
  expect_refused(nested(65), "deeper than 64");
  expect_refused(std::string(1'000'000, '['), "deeper than 64");
}

TEST(Json, NamesTheLine) {
  expect_error<CorruptError>([] { parse_json("{\n\"a\": 1,\n\"a\": 2}", "f"); }, "f: line 3: duplicate key");
  expect_error<CorruptError>([] { parse_json("{\n\"a\": 99999999999999999999\n}", "f"); }, "f: line 2: ");
  expect_error<CorruptError>([] { parse_json("[1,\n2,\n\n", "f"); }, "f: line ");
}

TEST(Json, ManyKeysTakeLinearTime) {
  std::string text = "{";
  for (int i = 0; i < 200'000; ++i) text += str(i ? "," : "", "\"k", i, "\":", i);
  EXPECT_EQ(parse_json(text + "}", "x").size(), 200'000u);
}

TEST(Json, GetChecksTypes) {
  const Json json = parse_json(
      R"({"b": true, "i": -3, "d": 2.5, "s": "x", "l": [1, 2], "ls": ["a"], "n": null, "big": 9223372036854775808})",
      "x");
  EXPECT_EQ(json_get<bool>(json, "b", "x"), true);
  EXPECT_EQ(json_get<std::int64_t>(json, "i", "x"), -3);
  EXPECT_EQ(json_get<double>(json, "i", "x"), -3.0);
  EXPECT_EQ(json_get<double>(json, "d", "x"), 2.5);
  EXPECT_EQ(json_get<std::string>(json, "s", "x"), "x");
  EXPECT_EQ(json_get<std::vector<std::int64_t>>(json, "l", "x"), (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(json_get<std::vector<std::string>>(json, "ls", "x"), std::vector<std::string>{"a"});
  EXPECT_EQ(json_get<Json>(json, "l", "x").size(), 2u);
  expect_error<CorruptError>([&] { json_get<bool>(json, "i", "f.json"); },
                             "f.json: \"i\" must be true or false", "number");
  expect_error<CorruptError>([&] { json_get<std::int64_t>(json, "d", "f"); }, "integer");
  expect_error<CorruptError>([&] { json_get<std::int64_t>(json, "big", "f"); }, "integer");
  expect_error<CorruptError>([&] { json_get<std::vector<std::int64_t>>(json, "ls", "f"); }, "ls[0]");
  expect_error<CorruptError>([&] { json_get<bool>(json, "zz", "f"); }, "f: key \"zz\" is missing");
  expect_error<CorruptError>([&] { json_get<bool>(json.at("l"), "zz", "f"); }, "must be a JSON object");
}

TEST(Json, GetOrFallsBackOnlyWhereMissingOrNull) {
  const Json json = parse_json(R"({"i": 1, "n": null})", "x");
  EXPECT_EQ(json_get_or<std::int64_t>(json, "i", 7, "x"), 1);
  EXPECT_EQ(json_get_or<std::int64_t>(json, "n", 7, "x"), 7);
  EXPECT_EQ(json_get_or<std::int64_t>(json, "zz", 7, "x"), 7);
  expect_error<CorruptError>([&] { json_get_or<bool>(json, "i", false, "x"); }, "true or false");
}

TEST(Json, ReadsFiles) {
  const TempDir folder;
  write_text(folder / "a.json", "{\"a\": 1}");
  EXPECT_EQ(read_json(folder / "a.json").at("a"), 1);
  write_text(folder / "b.json", "{\"a\": 1");
  expect_error<CorruptError>([&] { read_json(folder / "b.json"); }, (folder / "b.json").string());
  expect_error<IoError>([&] { read_json(folder / "c.json"); }, (folder / "c.json").string(), "No such file");
}

}  // namespace
}  // namespace shallowpi
