// What a configuration table looks like to people: a YAML dump, --help and the generated documentation.
#include <algorithm>

#include "shallowpi/base/config.h"

namespace shallowpi {
namespace {

std::string type_and_range(const ConfigField& field) {
  return field.range.empty() ? field.type : str(field.type, " ", field.range);
}

// A pipe would end a Markdown cell, and two stars would make the text between them slanted.
std::string cell(const std::string& text) {
  std::string escaped;
  for (char c : text) escaped += c == '|' || c == '*' ? std::string{'\\', c} : std::string(1, c);
  return escaped;
}

}  // namespace

std::string config_yaml(const ConfigTable& table, const std::set<std::string>& set_keys) {
  std::ostringstream out;
  std::vector<std::string> open;  // the groups that the previous field was in
  for (const ConfigSection& section : table.sections()) {
    const auto depth = std::count(section.prefix.begin(), section.prefix.end(), '.');
    out << (section.prefix.empty() ? "" : "\n") << std::string(2 * static_cast<std::size_t>(depth), ' ')
        << "# " << section.help << "\n";
    for (const ConfigField& field : section.fields) {
      std::vector<std::string> path = split(field.key, '.');
      const std::string name = path.back();
      path.pop_back();
      std::size_t same = 0;
      while (same < std::min(path.size(), open.size()) && path[same] == open[same]) ++same;
      for (std::size_t i = same; i < path.size(); ++i) out << std::string(2 * i, ' ') << path[i] << ":\n";
      open = path;
      const bool is_default = field.inherited && set_keys.count(field.key) == 0;
      out << std::string(2 * path.size(), ' ') << (is_default ? "# " : "") << name << ": " << field.write()
          << "  # " << field.help << "\n";
    }
  }
  return std::move(out).str();
}

std::string config_help_text(const ConfigTable& table) {
  std::ostringstream out;
  for (const ConfigSection& section : table.sections()) {
    out << "\n" << (section.prefix.empty() ? "general" : section.prefix) << ": " << section.help << "\n";
    for (const ConfigField& field : section.fields)
      out << "  " << field.key << "=" << field.write() << "  (" << type_and_range(field) << ")\n      "
          << field.help << "\n";
  }
  return std::move(out).str();
}

std::string config_markdown_text(const ConfigTable& table) {
  std::ostringstream out;
  for (const ConfigSection& section : table.sections()) {
    out << "\n## " << (section.prefix.empty() ? "General" : "`" + section.prefix + "`") << "\n\n"
        << section.help << "\n\n| Key | Default | Value | Meaning |\n|---|---|---|---|\n";
    for (const ConfigField& field : section.fields)
      out << "| `" << field.key << "` | `" << field.write() << "` | " << cell(type_and_range(field)) << " | "
          << cell(field.help) << " |\n";
  }
  return std::move(out).str();
}

}  // namespace shallowpi
