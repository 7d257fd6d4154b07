// A line on stderr that says how far something is.
#pragma once

#include <string>

namespace shallowpi {

/// Shows only where stderr is a terminal, and is erased at its end.
class StatusLine {
 public:
  explicit StatusLine(bool quiet);
  ~StatusLine();
  StatusLine(const StatusLine&) = delete;
  StatusLine& operator=(const StatusLine&) = delete;
  void show(const std::string& text);
  /// Is stderr a terminal, and the line not quiet?
  bool shows() const { return show_; }

 private:
  bool show_;
};

}  // namespace shallowpi
