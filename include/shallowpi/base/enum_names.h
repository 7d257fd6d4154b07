// Names of enumerators, for configuration, JSON and messages. One table per enum, next to its definition:
//
//   template <>
//   inline constexpr auto kEnumNames<RobotKind> =
//       std::to_array<EnumName<RobotKind>>({{RobotKind::kLibero, "libero"}, ...});
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi {

template <typename E>
struct EnumName {
  E value;
  std::string_view name;
};

template <typename E>
inline constexpr int kEnumNames = 0;  // specialised as an array per enum

template <typename E>
std::string_view enum_name(E value) {
  for (const auto& entry : kEnumNames<E>)
    if (entry.value == value) return entry.name;
  return "?";
}

/// All names of E, in order of its table.
template <typename E>
std::vector<std::string> enum_names() {
  std::vector<std::string> names;
  for (const auto& entry : kEnumNames<E>) names.emplace_back(entry.name);
  return names;
}

/// The enumerator called `name`, where there is one.
template <typename E>
std::optional<E> find_enum(std::string_view name) {
  for (const auto& entry : kEnumNames<E>)
    if (entry.name == name) return entry.value;
  return std::nullopt;
}

/// Throws UsageError that lists the valid names; `what` says which setting it is.
template <typename E>
E parse_enum(std::string_view name, std::string_view what) {
  if (const std::optional<E> found = find_enum<E>(name)) return *found;
  throw UsageError(str(what, ": '", name, "' is not one of ", join(enum_names<E>(), ", ")));
}

}  // namespace shallowpi
