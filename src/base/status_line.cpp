#include "shallowpi/base/status_line.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <mutex>

#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

constexpr const char* kEraseLine = "\r\033[K";

std::mutex terminal_mutex;  // over what is written and `on_screen`
bool on_screen = false;     // whether a status line stands on the terminal

void erase() {
  if (on_screen) std::cerr << kEraseLine << std::flush;
  on_screen = false;
}

/// The terminal's columns; 0 where it does not say.
std::size_t terminal_columns() {
  winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

/// The first `columns` characters of `text`.
std::string cut(const std::string& text, std::size_t columns) {
  std::size_t end = 0;
  for (; columns > 0 && end < text.size(); --columns)
    end += std::max<std::size_t>(1, utf8_length(std::string_view(text).substr(end)));
  return text.substr(0, end);
}

}  // namespace

StatusLine::StatusLine(bool quiet) : show_(!quiet && isatty(STDERR_FILENO) != 0) {}

StatusLine::~StatusLine() {
  const std::lock_guard lock(terminal_mutex);
  if (show_) erase();
}

void StatusLine::show(const std::string& text) {
  if (!show_) return;
  const std::size_t columns = terminal_columns();
  const std::lock_guard lock(terminal_mutex);
  // In the last column some terminals go on to the next line.
  std::cerr << kEraseLine << (columns > 1 ? cut(text, columns - 1) : text) << std::flush;
  on_screen = true;
}

void StatusLine::without(const std::function<void()>& write) {
  const std::lock_guard lock(terminal_mutex);
  erase();
  write();
}

}  // namespace shallowpi
