// A line on stderr that says how far something is.
#pragma once

#include <functional>
#include <string>

namespace shallowpi {

/// Shows only where stderr is a terminal, and is erased at its end.
class StatusLine {
 public:
  explicit StatusLine(bool quiet);
  ~StatusLine();
  StatusLine(const StatusLine&) = delete;
  StatusLine& operator=(const StatusLine&) = delete;
  /// `text` is cut to the terminal's width.
  void show(const std::string& text);
  /// Whether stderr is a terminal and the line not quiet.
  bool shows() const { return show_; }
  /// Erases the line, if one is there, and does `write`, which writes lines that stay. The next show() draws
  /// it again. The log writes so.
  static void without(const std::function<void()>& write);

 private:
  bool show_;
};

}  // namespace shallowpi
