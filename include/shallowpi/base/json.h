// Strict JSON for untrusted files: duplicate keys, integers beyond 64 bits and deep nesting are refused.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

namespace shallowpi {

using Json = nlohmann::ordered_json;

/// Throws CorruptError that names `where` (a file or a part of one), the line, and what is wrong.
Json parse_json(std::string_view text, std::string_view where);
/// As parse_json, from a file of at most 64 MiB. Throws IoError where it cannot be read.
Json read_json(const std::filesystem::path& path);
/// Indented, ending with a newline, by write_file_atomically().
void write_json(const std::filesystem::path& path, const Json& json);

// T of the two below: bool, std::int64_t, double (from integers too), std::string,
// Json, or a std::vector of one.

/// Member `key` of the object `json` as T; throws CorruptError naming `where` and the key
/// where missing or of another type.
template <typename T>
T json_get(const Json& json, std::string_view key, std::string_view where);
/// As json_get, but `fallback` where the key is missing or null.
template <typename T>
T json_get_or(const Json& json, std::string_view key, T fallback, std::string_view where);

/// The value, or null.
inline Json optional_json(const std::optional<double>& value) {
  return value ? Json(*value) : Json(nullptr);
}

}  // namespace shallowpi
