#include "shallowpi/base/status_line.h"

#include <unistd.h>

#include <iostream>

namespace shallowpi {
namespace {

constexpr const char* kEraseLine = "\r\033[K";

}  // namespace

StatusLine::StatusLine(bool quiet) : show_(!quiet && isatty(STDERR_FILENO) != 0) {}

StatusLine::~StatusLine() {
  if (show_) std::cerr << kEraseLine << std::flush;
}

void StatusLine::show(const std::string& text) {
  if (show_) std::cerr << kEraseLine << text << std::flush;
}

}  // namespace shallowpi
