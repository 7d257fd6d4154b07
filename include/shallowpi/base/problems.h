// Errors that are collected, so that the user learns of all of them at once.
#pragma once

#include <exception>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "shallowpi/base/error.h"

namespace shallowpi {

/// Several at once.
class ManyProblems : public Error {
 public:
  ManyProblems(const std::string& text, ExitCode code, std::vector<std::string> messages)
      : Error(text, code), messages_(std::move(messages)) {}
  const std::vector<std::string>& messages() const { return messages_; }

 private:
  std::vector<std::string> messages_;
};

class Problems {
 public:
  /// Runs `step`. An Error that it throws is kept, of several each, and the answer false.
  template <typename Step>
  bool attempt(Step&& step) {
    try {
      step();
      return true;
    } catch (const Error& error) {
      if (failures_++ == 0) first_ = std::current_exception();
      if (const auto* several = dynamic_cast<const ManyProblems*>(&error))
        messages_.insert(messages_.end(), several->messages().begin(), several->messages().end());
      else
        messages_.emplace_back(error.what());
      return false;
    }
  }
  /// Does nothing without problems. Throws the only one as it was; else one Error with the exit code of the
  /// first: their number, `what`, and a list of them.
  void throw_all(std::string_view what) const;

 private:
  int failures_ = 0;  ///< of attempts
  std::exception_ptr first_;
  std::vector<std::string> messages_;
};

}  // namespace shallowpi
