#include "shallowpi/base/text.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <utility>

namespace shallowpi {
namespace {

/// Edits between two words (a letter added, left out or replaced, or two neighbours swapped); `limit` where
/// they are not fewer.
std::size_t edit_distance(std::string_view a, std::string_view b, std::size_t limit) {
  if (std::max(a.size(), b.size()) - std::min(a.size(), b.size()) >= limit) return limit;
  std::vector<std::size_t> row(b.size() + 1), last(row.size()), before_last(row.size());
  std::iota(row.begin(), row.end(), std::size_t{0});
  std::size_t fewest = 0, fewest_in_last = 0;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::swap(before_last, last);
    std::swap(last, row);
    fewest_in_last = std::exchange(fewest, i);
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, replaced});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], before_last[j - 2] + 1);
      fewest = std::min(fewest, row[j]);
    }
    if (std::min(fewest, fewest_in_last + 1) >= limit) return limit;  // it never falls again
  }
  return row.back();
}

/// Does the cell read as a number (with a unit, sign, or percent sign after it), so that it is right-aligned?
bool is_number(std::string_view cell) {
  const std::size_t digit = cell.find_first_of("0123456789");
  return digit != std::string_view::npos &&
         cell.substr(0, digit).find_first_not_of("+-.<>~ ") == std::string_view::npos;
}

/// Number of code points, so that the tables line up with letters beyond ASCII too.
std::size_t display_width(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

/// Bytes of the printable code point that `text` begins with; 0 where it begins with none.
std::size_t printable_length(std::string_view text) {
  const auto first = static_cast<unsigned char>(text[0]);
  if (first < 0x20 || first == 0x7F) return 0;
  const std::size_t length = utf8_length(text);
  // Code points 0x80 to 0x9F are control characters too, and terminals obey some of them.
  return length == 2 && first == 0xC2 && static_cast<unsigned char>(text[1]) < 0xA0 ? 0 : length;
}

std::string padded(const std::string& cell, std::size_t width, bool right) {
  const std::string space(width - std::min(width, display_width(cell)), ' ');
  return right ? space + cell : cell + space;
}

}  // namespace

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0;;) {
    const std::size_t end = text.find(separator, begin);
    parts.emplace_back(text.substr(begin, end - begin));
    if (end == std::string_view::npos) return parts;
    begin = end + 1;
  }
}

std::vector<std::string> shortened(std::vector<std::string> items, std::size_t most) {
  if (items.size() <= most) return items;
  const std::string rest = str("and ", items.size() - most, " more");
  items.resize(most);
  items.push_back(rest);
  return items;
}

std::string_view trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n\v\f";
  const std::size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

bool is_device_name(std::string_view name) {
  const bool is_numbered = name.starts_with("cuda:") && name.size() > 5 && name.size() < 8 &&
                           name.find_first_not_of("0123456789", 5) == std::string_view::npos;
  return name == "auto" || name == "cpu" || name == "cuda" || is_numbered;
}

bool is_device_list(std::string_view names) {
  const std::vector<std::string> each = split(names, ',');
  return names == "cuda:all" || std::all_of(each.begin(), each.end(), is_device_name);
}

bool has_control_character(std::string_view text) {
  return std::any_of(text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c == 0x7F; });
}

std::size_t utf8_length(std::string_view text) {
  if (text.empty()) return 0;
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  if (first < 0xC2 || first > 0xF4) return 0;
  const std::size_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  if (text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xC0) != 0x80) return 0;
  const unsigned char second = byte(1);
  const bool is_refused = (first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F) ||
                          (first == 0xF0 && second < 0x90) || (first == 0xF4 && second > 0x8F);
  return is_refused ? 0 : length;
}

bool is_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const bool is_ascii = static_cast<unsigned char>(text[i]) < 0x80;
    const std::size_t length = is_ascii ? 1 : utf8_length(text.substr(i));
    if (length == 0) return false;
    i += length;
  }
  return true;
}

std::string in_quotes(std::string_view text) {
  constexpr std::size_t kMaxBytes = 100;
  constexpr const char* kHex = "0123456789abcdef";
  std::string out = "\"";
  for (std::string_view rest = text; !rest.empty();) {
    if (text.size() - rest.size() >= kMaxBytes) return out + "...\"";
    const std::size_t length = printable_length(rest);
    const auto byte = static_cast<unsigned char>(rest[0]);
    if (length > 0)
      out += rest.substr(0, length);
    else
      out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    rest.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return out + "\"";
}

std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  std::string best;
  // A third of the letters may differ: more is another word, not a typo.
  std::size_t best_distance = std::max<std::size_t>(word.size() / 3, 1) + 1;
  for (const auto& candidate : candidates) {
    const std::size_t distance = edit_distance(word, candidate, best_distance);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

std::string fixed(double value, int decimals) {
  std::ostringstream out;
  out.setf(std::ios::fixed);
  out.precision(decimals);
  out << value;
  return std::move(out).str();
}

std::string significant(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%#.3g", value);
  std::string result = text;
  if (result.back() == '.') result.pop_back();
  return result;
}

std::string human_bytes(std::uint64_t bytes) {
  if (bytes < 1024) return str(bytes, " B");
  static constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  for (; value >= 1023.95 && unit + 1 < std::size(kUnits); ++unit) value /= 1024;
  return str(fixed(value, 1), " ", kUnits[unit]);
}

std::string human_count(std::uint64_t count) {
  if (count < 1000) return str(count);
  static constexpr const char* kUnits[] = {"k", "M", "B", "T"};
  double value = static_cast<double>(count) / 1000;
  std::size_t unit = 0;
  for (; value >= 999.995 && unit + 1 < std::size(kUnits); ++unit) value /= 1000;
  return str(fixed(value, 2), " ", kUnits[unit]);
}

std::string human_duration(double seconds) {
  if (!std::isfinite(seconds)) return "?";
  if (seconds < 10) return str(fixed(seconds, 1), " s");
  const auto total = static_cast<std::int64_t>(std::llround(seconds));
  const auto two_digits = [](std::int64_t value) { return str(value < 10 ? "0" : "", value); };
  if (total < 60) return str(total, " s");
  if (total < 3600) return str(total / 60, " min ", two_digits(total % 60), " s");
  if (total < 86400) return str(total / 3600, " h ", two_digits(total % 3600 / 60), " min");
  return str(total / 86400, " d ", two_digits(total % 86400 / 3600), " h");
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  return "[" + join(shape, ", ") + "]";
}

std::string text_table(const std::vector<std::string>& header,
                       const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  std::vector<bool> right(header.size(), !rows.empty());
  for (const auto& name : header) widths.push_back(display_width(name));
  for (const auto& row : rows)
    for (std::size_t i = 0; i < std::min(row.size(), widths.size()); ++i) {
      widths[i] = std::max(widths[i], display_width(row[i]));
      if (!row[i].empty() && row[i] != "-" && !is_number(row[i])) right[i] = false;
    }
  std::ostringstream out;
  const auto write_row = [&](const std::vector<std::string>& row) {
    std::string line;
    for (std::size_t i = 0; i < widths.size(); ++i)
      line += (i ? "  " : "") + padded(i < row.size() ? row[i] : "", widths[i], right[i]);
    line.erase(line.find_last_not_of(' ') + 1);
    out << line << '\n';
  };
  write_row(header);
  std::vector<std::string> rules;
  for (const auto width : widths) rules.emplace_back(width, '-');
  write_row(rules);
  for (const auto& row : rows) write_row(row);
  return std::move(out).str();
}

}  // namespace shallowpi
