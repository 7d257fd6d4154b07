// Logging to stderr through spdlog. Results go to stdout, never through here.
#pragma once

#include <string>
#include <string_view>

#include "shallowpi/base/enum_names.h"
#include "shallowpi/base/text.h"

namespace shallowpi::log {

enum class Level { kDebug, kInfo, kWarning, kError, kOff };

}  // namespace shallowpi::log

namespace shallowpi {

template <>
inline constexpr auto kEnumNames<log::Level> = std::to_array<EnumName<log::Level>>({
    {log::Level::kDebug, "debug"},
    {log::Level::kInfo, "info"},
    {log::Level::kWarning, "warning"},
    {log::Level::kError, "error"},
    {log::Level::kOff, "off"},
});

}  // namespace shallowpi

namespace shallowpi::log {

/// Messages below `level` are dropped. Default kInfo.
void set_level(Level level);
void write(Level level, std::string_view message);

/// Each takes anything that str() takes: log::info("loaded ", n, " tensors").
template <typename... Parts>
void debug(const Parts&... parts) {
  write(Level::kDebug, str(parts...));
}
template <typename... Parts>
void info(const Parts&... parts) {
  write(Level::kInfo, str(parts...));
}
template <typename... Parts>
void warning(const Parts&... parts) {
  write(Level::kWarning, str(parts...));
}
template <typename... Parts>
void error(const Parts&... parts) {
  write(Level::kError, str(parts...));
}

}  // namespace shallowpi::log
