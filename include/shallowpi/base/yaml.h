// Strict YAML for files that people write: what yaml-cpp accepts silently or expands (duplicate keys,
// aliases, tags, several documents) is a problem here, with its line.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace shallowpi {

/// One value of a YAML document. A map's keys are texts; keys[i] belongs to
/// children[i] and stands on key_lines[i].
struct YamlNode {
  enum class Kind { kNull, kScalar, kList, kMap };
  Kind kind = Kind::kNull;
  std::string text;     ///< of a scalar
  bool quoted = false;  ///< a scalar in quotes is text, never a number
  int line = 0;         ///< from 1
  std::vector<std::string> keys;
  std::vector<int> key_lines;
  std::vector<YamlNode> children;
};

struct YamlProblem {
  int line = 0;
  std::string message;
};

struct YamlDocument {
  YamlNode root;
  std::vector<YamlProblem> problems;  ///< in the order of the file
  bool is_complete = true;            ///< false after an error that ends the reading; `root` is null then
};

inline constexpr std::size_t kMaxYamlBytes = std::size_t{1} << 20;
inline constexpr std::size_t kMaxYamlDepth = 16;

/// Never throws for bad input; everything wrong is in `problems`. Text over
/// kMaxYamlBytes is not parsed at all.
YamlDocument parse_yaml(std::string_view text);

/// A value as its type. Each throws UsageError with the reason alone ("'abc' is not a whole number").
std::int64_t yaml_integer(const YamlNode& node);
/// `limits` is what the message says of a whole number with too many digits: "it must be LIMITS".
std::int64_t yaml_integer_within(const YamlNode& node, std::string_view limits);
double yaml_number(const YamlNode& node);  ///< finite
bool yaml_bool(const YamlNode& node);      ///< true or false
std::string yaml_text(const YamlNode& node);

/// A text or number as YAML that reads back equal.
std::string to_yaml(std::string_view text);
std::string to_yaml(double number);
std::string to_yaml(const std::vector<std::string>& texts);
std::string to_yaml(const std::vector<std::int64_t>& numbers);
std::string to_yaml(const std::vector<double>& numbers);

}  // namespace shallowpi
