// A configuration as one table: each setting's key, meaning, range and place in a struct. The table drives
// reading YAML files and key=value overrides, --help, the generated documentation and dumps.
//
//   ConfigTable table;
//   table.section("train", "The training loop.");
//   table.integer("steps", config.train.steps, "Optimiser steps.", at_least(1));
//   ConfigReader reader(table);
//   reader.read_file("x.yaml");
//   reader.read_assignment("train.steps=100");
//   reader.throw_problems();
#pragma once

#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "shallowpi/base/enum_names.h"
#include "shallowpi/base/yaml.h"

namespace shallowpi {

struct ConfigRange {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool open_min = false, open_max = false;  ///< the limit itself is not allowed
  bool contains(double value) const;
  std::string text() const;        ///< ">= 1", "> 0 and <= 1"; empty where everything goes
  std::string whole_text() const;  ///< for whole numbers: with the limits of 64 bits where it has none
};
inline ConfigRange at_least(double min) {
  return {.min = min};
}
inline ConfigRange between(double min, double max) {
  return {.min = min, .max = max};
}
/// Without `min` itself.
inline ConfigRange above_to(double min, double max) {
  return {.min = min, .max = max, .open_min = true};
}
/// Without `max` itself.
inline ConfigRange from_below(double min, double max) {
  return {.min = min, .max = max, .open_max = true};
}

struct ConfigField {
  std::string key;                            ///< dotted: "train.steps"
  std::string help;                           ///< sentences
  std::string type;                           ///< "whole number", "one of a, b", ...
  std::string range;                          ///< empty: everything of that type
  std::function<void(const YamlNode&)> read;  ///< throws UsageError with the reason alone
  std::function<std::string()> write;         ///< the value as YAML on one line
  bool inherited = false;  ///< only a default: where not set, something else (a checkpoint) decides
};

struct ConfigSection {
  std::string prefix;  ///< "train"; empty for keys at the top
  std::string help;
  bool inherited = false;
  std::vector<ConfigField> fields;
};

/// Binds keys to variables, which must outlive the table.
class ConfigTable {
 public:
  /// Starts a section; the fields added next are called "<prefix>.<name>". With `inherited`, they all are.
  void section(std::string prefix, std::string help, bool inherited = false);

  template <typename Integer>
  void integer(const std::string& name, Integer& value, std::string help, ConfigRange range);
  void number(const std::string& name, double& value, std::string help, ConfigRange range);
  void flag(const std::string& name, bool& value, std::string help);
  void text(const std::string& name, std::string& value, std::string help);
  void texts(const std::string& name, std::vector<std::string>& value, std::string help);
  void choice(const std::string& name, std::string& value, std::vector<std::string> choices,
              std::string help);
  template <typename E>
  void choice(const std::string& name, E& value, std::string help);
  /// Any other type; field.key is the name within the section.
  void custom(ConfigField field);

  const std::vector<ConfigSection>& sections() const { return sections_; }
  const ConfigField* find(const std::string& key) const;
  bool is_group(const std::string& key) const;  ///< whether keys start with "<key>."
  std::vector<std::string> keys() const;
  /// "did you mean train.steps?", or where no key is near, how to see them all.
  std::string hint(const std::string& key) const;

 private:
  std::vector<ConfigSection> sections_;
};

/// Reads files and assignments into a table and collects everything that is wrong with them.
class ConfigReader {
 public:
  explicit ConfigReader(const ConfigTable& table) : table_(table) {}

  /// A file may begin with `base: other.yaml` (relative to the file): that is read first; a base has no base.
  void read_file(const std::filesystem::path& file);
  /// key.sub=value, the value in YAML; a text may be given without quotes, whatever is in it.
  void read_assignment(const std::string& assignment);

  /// Keys that were set.
  const std::set<std::string>& set_keys() const { return set_keys_; }
  /// False where a file could not be read to its end, or a value stands in place of a group of keys, so that
  /// nothing can be said about keys that are missing.
  bool is_complete() const { return is_complete_; }
  /// Adds a problem with a key, named with the place where it was set, unless its value was refused already.
  void add_problem(const std::string& key, const std::string& message);
  /// Throws one UsageError that lists all problems, if there are any.
  void throw_problems() const;

 private:
  void read_document(const std::filesystem::path& file, bool is_base);
  void read_map(const YamlNode& map, const std::string& prefix, const std::string& source);
  void read_value(const std::string& key, const YamlNode& value, const std::string& place);
  void note(const std::string& place, const std::string& key, const std::string& message);

  const ConfigTable& table_;
  std::set<std::string> set_keys_;
  std::set<std::string> seen_;                 // keys of the file being read
  std::map<std::string, std::string> places_;  // key -> "file:line"
  std::set<std::string> bad_keys_;             // whose values were refused
  std::vector<std::string> problems_;
  bool is_complete_ = true;
};

/// Nested YAML of all values with their help as comments; inherited fields that are not
/// in `set_keys` are commented out.
std::string config_yaml(const ConfigTable& table, const std::set<std::string>& set_keys);
/// All keys with their current values, as plain text and as Markdown tables.
std::string config_help_text(const ConfigTable& table);
std::string config_markdown_text(const ConfigTable& table);

template <typename Integer>
void ConfigTable::integer(const std::string& name, Integer& value, std::string help, ConfigRange range) {
  auto read = [&value, range](const YamlNode& node) {
    const std::int64_t number = yaml_integer_within(node, range.whole_text());
    if (!range.contains(static_cast<double>(number)))
      throw UsageError(str(number, " is out of range; it must be ", range.text()));
    value = static_cast<Integer>(number);
  };
  custom({name, std::move(help), "whole number", range.text(), read, [&value] { return str(value); }});
}

template <typename E>
void ConfigTable::choice(const std::string& name, E& value, std::string help) {
  auto read = [&value](const YamlNode& node) {
    const std::string text = yaml_text(node);
    const std::optional<E> found = find_enum<E>(text);
    if (!found) throw UsageError(str("'", text, "' is not one of ", join(enum_names<E>(), ", ")));
    value = *found;
  };
  custom({name, std::move(help), "one of " + join(enum_names<E>(), ", "), "", read,
          [&value] { return std::string(enum_name(value)); }});
}

}  // namespace shallowpi
