#include "shallowpi/base/yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

// Builds the tree from yaml-cpp's events. The node API is of no use here: it hides aliases and drops
// duplicate keys.
class TreeBuilder : public YAML::EventHandler {
 public:
  explicit TreeBuilder(YamlDocument& document) : document_(document) {}

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override { add(at(mark)); }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    problem(mark, "aliases (*name) are not supported; write the value out");
    add(at(mark));
  }
  void OnAnchor(const YAML::Mark& mark, const std::string& name) override {
    problem(mark, str("anchors (&", name, ") are not supported; remove it"));
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                const std::string& value) override {
    check_tag(mark, tag);
    YamlNode node = at(mark);
    node.kind = YamlNode::Kind::kScalar;
    node.text = value;
    node.quoted = tag == "!";
    add(std::move(node));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, YamlNode::Kind::kList);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {
    open(mark, tag, YamlNode::Kind::kMap);
  }
  void OnMapEnd() override { close(); }

 private:
  static YamlNode at(const YAML::Mark& mark) {
    YamlNode node;
    node.line = mark.line + 1;
    return node;
  }

  void problem(const YAML::Mark& mark, std::string message) {
    document_.problems.push_back({mark.line + 1, std::move(message)});
  }

  void check_tag(const YAML::Mark& mark, const std::string& tag) {
    if (!tag.empty() && tag != "?" && tag != "!")
      problem(mark, str("tags (", tag, ") are not supported; remove it"));
  }

  void open(const YAML::Mark& mark, const std::string& tag, YamlNode::Kind kind) {
    check_tag(mark, tag);
    if (stack_.size() >= kMaxYamlDepth)
      throw YAML::ParserException(mark, str("nested deeper than ", kMaxYamlDepth, " levels"));
    stack_.push_back(at(mark));
    stack_.back().kind = kind;
  }

  void close() {
    YamlNode node = std::move(stack_.back());
    stack_.pop_back();
    // A key without its value cannot happen: the parser sends a null for it.
    add(std::move(node));
  }

  // A finished node is the document, an item of the open list, or in turn a key and a value of the open map.
  void add(YamlNode node) {
    if (stack_.empty()) {
      document_.root = std::move(node);
      return;
    }
    YamlNode& parent = stack_.back();
    if (parent.kind == YamlNode::Kind::kMap && parent.keys.size() == parent.children.size())
      add_key(parent, std::move(node));
    else
      parent.children.push_back(std::move(node));
  }

  void add_key(YamlNode& parent, YamlNode node) {
    if (node.kind != YamlNode::Kind::kScalar)
      document_.problems.push_back({node.line, "a key must be a word"});
    else if (auto same = std::find(parent.keys.begin(), parent.keys.end(), node.text);
             same != parent.keys.end())
      document_.problems.push_back({node.line, str("duplicate key '", node.text, "', first on line ",
                                                   parent.key_lines[same - parent.keys.begin()])});
    parent.keys.push_back(std::move(node.text));
    parent.key_lines.push_back(node.line);
  }

  YamlDocument& document_;
  std::vector<YamlNode> stack_;
};

// yaml-cpp reports tabs in the indentation in misleading ways or not at all.
void check_characters(std::string_view text, std::vector<YamlProblem>& problems) {
  int line = 1;
  bool indenting = true;
  for (char c : text) {
    if (c == '\0') problems.push_back({line, "a NUL byte: this is not a text file"});
    if (c == '\0') return;
    if (c == '\t' && indenting) problems.push_back({line, "a tab in the indentation; use spaces"});
    if (c == '\n') ++line;
    indenting = c == '\n' || (indenting && c == ' ');
  }
}

[[noreturn]] void wrong(const YamlNode& node, std::string_view wanted) {
  switch (node.kind) {
    case YamlNode::Kind::kNull:
      throw UsageError(str("has no value; ", wanted, " is needed"));
    case YamlNode::Kind::kList:
      throw UsageError(str("is a list, not ", wanted));
    case YamlNode::Kind::kMap:
      throw UsageError(str("is a group of keys, not ", wanted));
    case YamlNode::Kind::kScalar:
      break;
  }
  throw UsageError(str(node.quoted ? "the quoted text '" : "'", node.text, "' is not ", wanted));
}

/// errc() where all of `text` is a T, result_out_of_range where it is one of too many digits.
template <typename T>
std::errc parse_whole(const std::string& text, T& value) {
  const char* end = text.data() + text.size();
  auto result = std::from_chars(text.data(), end, value);
  return result.ptr == end ? result.ec : std::errc::invalid_argument;
}

template <typename Range, typename Write>
std::string flow_list(const Range& items, Write write) {
  std::vector<std::string> parts;
  for (const auto& item : items) parts.push_back(write(item));
  return str("[", join(parts, ", "), "]");
}

}  // namespace

YamlDocument parse_yaml(std::string_view text) {
  YamlDocument document;
  if (text.size() > kMaxYamlBytes) {
    document.problems.push_back(
        {1, str("larger than ", human_bytes(kMaxYamlBytes), "; is this the right file?")});
    document.is_complete = false;
    return document;
  }
  check_characters(text, document.problems);
  document.is_complete = document.problems.empty();
  if (!document.is_complete) return document;
  TreeBuilder builder(document);
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    parser.HandleNextDocument(builder);
    YamlNode first = std::move(document.root);
    if (parser.HandleNextDocument(builder))
      document.problems.push_back({document.root.line, "a second document (---); one is read"});
    document.root = std::move(first);
  } catch (const YAML::Exception& error) {
    document.problems.push_back(
        {std::max(error.mark.line, 0) + 1, str("not valid YAML: ", error.msg,
                                               error.msg.find("anchor") == std::string::npos
                                                   ? ""
                                                   : " (quote what begins with *, as in ['*vision*'])")});
    document.root = {};
    document.is_complete = false;
  }
  return document;
}

std::int64_t yaml_integer(const YamlNode& node) {
  using Limits = std::numeric_limits<std::int64_t>;
  return yaml_integer_within(node, str(">= ", Limits::min(), " and <= ", Limits::max()));
}

std::int64_t yaml_integer_within(const YamlNode& node, std::string_view limits) {
  if (node.kind != YamlNode::Kind::kScalar || node.quoted) wrong(node, "a whole number");
  std::int64_t value = 0;
  const std::errc error = parse_whole(node.text, value);
  if (error == std::errc::result_out_of_range)
    throw UsageError(str(node.text, " is out of range; it must be ", limits));
  if (error != std::errc()) wrong(node, "a whole number");
  return value;
}

double yaml_number(const YamlNode& node) {
  double value = 0;
  if (node.kind != YamlNode::Kind::kScalar || node.quoted) wrong(node, "a number");
  // YAML's own spellings of the values that are not finite, and those that from_chars knows.
  const std::string word = node.text.substr(node.text.find_first_not_of("+-") == 1 ? 1 : 0);
  const bool yaml_special = word == ".inf" || word == ".Inf" || word == ".INF" || word == ".nan" ||
                            word == ".NaN" || word == ".NAN";
  if (yaml_special || (parse_whole(node.text, value) == std::errc() && !std::isfinite(value)))
    throw UsageError(str("'", node.text, "' is not finite"));
  if (parse_whole(node.text, value) != std::errc()) wrong(node, "a number");
  return value;
}

bool yaml_bool(const YamlNode& node) {
  const bool plain = node.kind == YamlNode::Kind::kScalar && !node.quoted;
  if (plain && node.text == "true") return true;
  if (plain && node.text == "false") return false;
  wrong(node, "true or false");
}

std::string yaml_text(const YamlNode& node) {
  if (node.kind != YamlNode::Kind::kScalar) wrong(node, "a text (\"\" for none)");
  return node.text;
}

std::string to_yaml(std::string_view text) {
  static constexpr std::string_view kSafe =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-";
  const bool is_null = text == "null" || text == "Null" || text == "NULL";
  if (!text.empty() && !is_null && text.front() != '-' &&
      text.find_first_not_of(kSafe) == std::string_view::npos)
    return std::string(text);
  // A JSON string is a YAML double-quoted one.
  return nlohmann::json(std::string(text)).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string to_yaml(double number) {
  char buffer[32];
  auto end = std::to_chars(buffer, buffer + sizeof buffer, number).ptr;
  return {buffer, end};
}

std::string to_yaml(const std::vector<std::string>& texts) {
  return flow_list(texts, [](const std::string& text) { return to_yaml(text); });
}

std::string to_yaml(const std::vector<std::int64_t>& numbers) {
  return flow_list(numbers, [](std::int64_t number) { return str(number); });
}

std::string to_yaml(const std::vector<double>& numbers) {
  return flow_list(numbers, [](double number) { return to_yaml(number); });
}

}  // namespace shallowpi
