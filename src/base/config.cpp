#include "shallowpi/base/config.h"

#include <algorithm>
#include <cmath>
#include <system_error>

#include "shallowpi/base/files.h"

namespace shallowpi {

namespace {

// Limits of counts without an exponent.
std::string limit_text(double limit) {
  const bool is_whole = std::floor(limit) == limit && std::abs(limit) < 1e15;
  return is_whole ? str(static_cast<std::int64_t>(limit)) : to_yaml(limit);
}

}  // namespace

bool ConfigRange::contains(double value) const {
  return (open_min ? value > min : value >= min) && (open_max ? value < max : value <= max);
}

std::string ConfigRange::text() const {
  std::vector<std::string> parts;
  if (min > -std::numeric_limits<double>::infinity())
    parts.push_back(str(open_min ? "> " : ">= ", limit_text(min)));
  if (max < std::numeric_limits<double>::infinity())
    parts.push_back(str(open_max ? "< " : "<= ", limit_text(max)));
  return join(parts, " and ");
}

std::string ConfigRange::whole_text() const {
  using Limits = std::numeric_limits<std::int64_t>;
  std::vector<std::string> parts;
  if (min == -std::numeric_limits<double>::infinity()) parts.push_back(str(">= ", Limits::min()));
  if (const std::string own = text(); !own.empty()) parts.push_back(own);
  if (max == std::numeric_limits<double>::infinity()) parts.push_back(str("<= ", Limits::max()));
  return join(parts, " and ");
}

void ConfigTable::section(std::string prefix, std::string help, bool inherited) {
  sections_.push_back({std::move(prefix), std::move(help), inherited, {}});
}

void ConfigTable::custom(ConfigField field) {
  ConfigSection& section = sections_.back();
  if (!section.prefix.empty()) field.key = section.prefix + "." + field.key;
  field.inherited = section.inherited;
  section.fields.push_back(std::move(field));
}

void ConfigTable::number(const std::string& name, double& value, std::string help, ConfigRange range) {
  auto read = [&value, range](const YamlNode& node) {
    const double number = yaml_number(node);
    if (!range.contains(number))
      throw UsageError(str(to_yaml(number), " is out of range; it must be ", range.text()));
    value = number;
  };
  custom({name, std::move(help), "number", range.text(), read, [&value] { return to_yaml(value); }});
}

void ConfigTable::flag(const std::string& name, bool& value, std::string help) {
  custom({name, std::move(help), "true or false", "",
          [&value](const YamlNode& node) { value = yaml_bool(node); }, [&value] { return str(value); }});
}

void ConfigTable::text(const std::string& name, std::string& value, std::string help) {
  custom({name, std::move(help), "text", "", [&value](const YamlNode& node) { value = yaml_text(node); },
          [&value] { return to_yaml(value); }});
}

void ConfigTable::texts(const std::string& name, std::vector<std::string>& value, std::string help) {
  auto read = [&value](const YamlNode& node) {
    if (node.kind != YamlNode::Kind::kList) throw UsageError("is not a list: write [a, b]");
    std::vector<std::string> items;
    for (const YamlNode& item : node.children) items.push_back(yaml_text(item));
    value = std::move(items);
  };
  custom({name, std::move(help), "list of texts", "", read, [&value] { return to_yaml(value); }});
}

void ConfigTable::choice(const std::string& name, std::string& value, std::vector<std::string> choices,
                         std::string help) {
  const std::string type = "one of " + join(choices, ", ");
  auto read = [&value, choices = std::move(choices), type](const YamlNode& node) {
    std::string text = yaml_text(node);
    if (std::find(choices.begin(), choices.end(), text) == choices.end())
      throw UsageError(str("'", text, "' is not ", type));
    value = std::move(text);
  };
  custom({name, std::move(help), type, "", read, [&value] { return to_yaml(value); }});
}

const ConfigField* ConfigTable::find(const std::string& key) const {
  for (const ConfigSection& section : sections_)
    for (const ConfigField& field : section.fields)
      if (field.key == key) return &field;
  return nullptr;
}

bool ConfigTable::is_group(const std::string& key) const {
  const std::string prefix = key + ".";
  for (const ConfigSection& section : sections_)
    for (const ConfigField& field : section.fields)
      if (field.key.starts_with(prefix)) return true;
  return false;
}

std::vector<std::string> ConfigTable::keys() const {
  std::vector<std::string> keys;
  for (const ConfigSection& section : sections_)
    for (const ConfigField& field : section.fields) keys.push_back(field.key);
  return keys;
}

std::string ConfigTable::hint(const std::string& key) const {
  std::vector<std::string> candidates = keys();
  for (const ConfigSection& section : sections_)
    if (!section.prefix.empty()) candidates.push_back(section.prefix);
  // The right word in the wrong group is the commonest mistake: `steps` instead of `train.steps`.
  const std::string leaf = "." + key.substr(key.rfind('.') + 1);
  std::vector<std::string> same_leaf;
  for (const std::string& other : candidates)
    if (other.size() > leaf.size() && other.ends_with(leaf)) same_leaf.push_back(other);
  const std::string near = same_leaf.empty() ? nearest(key, candidates) : join(same_leaf, " or ");
  return near.empty() ? "--help lists all keys" : str("did you mean ", near, "?");
}

void ConfigReader::read_file(const std::filesystem::path& file) {
  read_document(file, false);
}

void ConfigReader::read_document(const std::filesystem::path& file, bool is_base) {
  std::error_code error;
  if (std::filesystem::is_directory(file, error) || !std::filesystem::exists(file, error)) {
    is_complete_ = false;
    note(file.string(), "", "there is no such file; name a YAML file (configs/ has examples)");
    return;
  }
  std::string text;
  try {
    text = shallowpi::read_file(file, kMaxYamlBytes + 1);
  } catch (const Error& failure) {
    is_complete_ = false;
    note(file.string(), "", failure.what());
    return;
  }
  YamlDocument document = parse_yaml(text);
  is_complete_ = is_complete_ && document.is_complete;
  for (const YamlProblem& problem : document.problems)
    note(str(file.string(), ":", problem.line), "", problem.message);
  if (document.root.kind == YamlNode::Kind::kNull) return;
  if (document.root.kind != YamlNode::Kind::kMap) {
    note(str(file.string(), ":", document.root.line), "", "is not a map of keys; write `key: value` lines");
    return;
  }
  YamlNode& root = document.root;
  for (std::size_t i = 0; i < root.keys.size() && i < root.children.size(); ++i) {
    if (root.keys[i] != "base") continue;
    const std::string place = str(file.string(), ":", root.key_lines[i]);
    const YamlNode& name = root.children[i];
    std::error_code unreachable;
    if (is_base)
      note(place, "base", "a base has no base of its own");
    else if (name.kind != YamlNode::Kind::kScalar || name.text.empty())
      note(place, "base", "is not the name of a file");
    else if (const auto base = file.parent_path() / name.text;
             !std::filesystem::is_regular_file(base, unreachable)) {
      note(place, "base", str("there is no file ", base.string()));
      is_complete_ = false;
    } else
      read_document(base, true);
  }
  seen_.clear();
  read_map(root, "", file.string());
}

void ConfigReader::read_map(const YamlNode& map, const std::string& prefix, const std::string& source) {
  for (std::size_t i = 0; i < map.children.size(); ++i) {
    if (prefix.empty() && map.keys[i] == "base") continue;
    const auto here = map.keys.begin() + static_cast<std::ptrdiff_t>(i);
    if (std::find(map.keys.begin(), here, map.keys[i]) != here) continue;  // parse_yaml has named the repeat
    const std::string key = prefix.empty() ? map.keys[i] : str(prefix, ".", map.keys[i]);
    const std::string place = str(source, ":", map.key_lines[i]);
    const YamlNode& value = map.children[i];
    if (table_.find(key)) {
      // `train: {steps: 1}` and `train.steps: 1` are the same key.
      if (!seen_.insert(key).second) note(place, key, str("duplicate key, first at ", places_[key]));
      read_value(key, value, place);
    } else if (!table_.is_group(key)) {
      note(place, key, str("unknown key; ", table_.hint(key)));
    } else if (value.kind == YamlNode::Kind::kMap) {
      read_map(value, key, source);
    } else if (value.kind != YamlNode::Kind::kNull) {
      is_complete_ = false;  // that its keys are not set is no problem of its own
      note(place, key, "is a group of keys, not a value");
    }
  }
}

void ConfigReader::read_value(const std::string& key, const YamlNode& value, const std::string& place) {
  set_keys_.insert(key);
  places_[key] = place;
  try {
    table_.find(key)->read(value);
  } catch (const UsageError& error) {
    bad_keys_.insert(key);
    note(place, key, error.what());
  }
}

void ConfigReader::read_assignment(const std::string& assignment) {
  static const std::string kPlace = "command line";
  const std::size_t equals = assignment.find('=');
  if (equals == 0 || equals == std::string::npos) {
    note(kPlace, "", str("'", assignment, "' is not key=value"));
    return;
  }
  const std::string key = assignment.substr(0, equals), text = assignment.substr(equals + 1);
  const ConfigField* field = table_.find(key);
  if (!field) {
    note(kPlace, key,
         table_.is_group(key) ? str("is a group of keys; set one of them: ", key, ".KEY=VALUE")
                              : str("unknown key; ", table_.hint(key)));
    return;
  }
  YamlDocument document = parse_yaml(text);
  if (field->type == "text" && (document.root.kind != YamlNode::Kind::kScalar || !document.root.quoted)) {
    // A shell has already eaten the quotes that YAML would need around "pick: the cup" or an empty text.
    document.root = {YamlNode::Kind::kScalar, text, true, 1, {}, {}, {}};
    document.problems.clear();
  }
  if (!document.problems.empty()) bad_keys_.insert(key);
  for (const YamlProblem& problem : document.problems) note(kPlace, key, problem.message);
  if (document.problems.empty()) read_value(key, document.root, kPlace);
}

void ConfigReader::add_problem(const std::string& key, const std::string& message) {
  if (bad_keys_.count(key) > 0) return;
  auto place = places_.find(key);
  note(place == places_.end() ? "" : place->second, key, message);
}

void ConfigReader::note(const std::string& place, const std::string& key, const std::string& message) {
  std::vector<std::string> parts;
  for (const std::string& part : {place, key, message})
    if (!part.empty()) parts.push_back(part);
  problems_.push_back(join(parts, ": "));
}

void ConfigReader::throw_problems() const {
  if (problems_.empty()) return;
  if (problems_.size() == 1) throw UsageError(str("bad configuration: ", problems_.front()));
  throw UsageError(str("bad configuration, ", problems_.size(), " problems:\n  ", join(problems_, "\n  ")));
}

}  // namespace shallowpi
