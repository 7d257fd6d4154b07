// Compiled without LibTorch: its headers bring an fmt that Debian's spdlog does not compile with.
#include "shallowpi/base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>

#include "shallowpi/base/status_line.h"

namespace shallowpi::log {
namespace {

spdlog::logger& logger() {
  static const auto instance = [] {
    auto made = std::make_shared<spdlog::logger>("shallowpi",
                                                 std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
    made->set_pattern("%m-%d %H:%M:%S %^%l%$ %v");
    made->flush_on(spdlog::level::info);
    return made;
  }();
  return *instance;
}

spdlog::level::level_enum spdlog_level(Level level) {
  switch (level) {
    case Level::kDebug:
      return spdlog::level::debug;
    case Level::kInfo:
      return spdlog::level::info;
    case Level::kWarning:
      return spdlog::level::warn;
    case Level::kError:
      return spdlog::level::err;
    case Level::kOff:
      return spdlog::level::off;
  }
  return spdlog::level::info;
}

}  // namespace

void set_level(Level level) {
  logger().set_level(spdlog_level(level));
}

void write(Level level, std::string_view message) {
  if (!logger().should_log(spdlog_level(level))) return;
  StatusLine::without([&] {
    // The message is an argument, never the format: it may hold braces.
    logger().log(spdlog_level(level), "{}", spdlog::string_view_t(message.data(), message.size()));
  });
}

}  // namespace shallowpi::log
