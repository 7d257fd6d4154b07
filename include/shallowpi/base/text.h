// Small helpers for text: messages, lists, human-readable numbers. (GCC 12 has no <format>.)
#pragma once

#include <cstdint>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace shallowpi {

/// Concatenates everything that can be streamed: str("layer ", i, " of ", n).
template <typename... Parts>
std::string str(const Parts&... parts) {
  std::ostringstream out;
  out << std::boolalpha;
  (out << ... << parts);
  return std::move(out).str();
}

/// join({1, 2, 3}, ", ") == "1, 2, 3".
template <typename Range>
std::string join(const Range& items, std::string_view separator) {
  std::ostringstream out;
  std::string_view between = "";
  for (const auto& item : items) {
    out << between << item;
    between = separator;
  }
  return std::move(out).str();
}

std::vector<std::string> split(std::string_view text, char separator);
/// The first `most` of the items; where there are further ones, "and 3 more" follows.
std::vector<std::string> shortened(std::vector<std::string> items, std::size_t most);
std::string_view trim(std::string_view text);
/// Whether `name` is written as a device: auto, cpu, cuda or cuda:N (parse_device of base/cli.h reads it).
bool is_device_name(std::string_view name);
/// Whether it is one or several of them, separated by commas, or cuda:all (parse_devices).
bool is_device_list(std::string_view names);
/// Whether `text` holds an ASCII control character.
bool has_control_character(std::string_view text);

/// Bytes of the UTF-8 code point that `text` begins with; 0 where it begins with none. Overlong forms,
/// surrogates and what is beyond U+10FFFF are none.
std::size_t utf8_length(std::string_view text);
/// Whether all of `text` is UTF-8.
bool is_utf8(std::string_view text);

/// `text` between double quotes for a message, safe for terminals and logs whatever it
/// holds: control characters and bytes beyond ASCII that are not UTF-8 appear as \xNN, and
/// what is longer than 100 bytes is cut.
std::string in_quotes(std::string_view text);

/// The candidate with the smallest edit distance to `word`; empty where none is close enough to be a typo.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

/// fixed(3.14159, 2) == "3.14".
std::string fixed(double value, int decimals);
/// Three significant digits, without an exponent for everyday numbers: significant(0.0123456) == "0.0123".
std::string significant(double value);
/// human_bytes(1536) == "1.5 KiB".
std::string human_bytes(std::uint64_t bytes);
/// human_count(3353433872) == "3.35 B"; human_count(4400000) == "4.40 M".
std::string human_count(std::uint64_t count);
/// human_duration(3725) == "1 h 02 min"; human_duration(42.3) == "42 s".
std::string human_duration(double seconds);
/// Shape as text: "[3, 10, 32]".
std::string shape_text(const std::vector<std::int64_t>& shape);

/// A text table with a header row; columns are left-aligned for words and right-aligned for numbers.
std::string text_table(const std::vector<std::string>& header,
                       const std::vector<std::vector<std::string>>& rows);

}  // namespace shallowpi
