// The one exception family of the project. Every message says what is wrong, where, and what to do about it.
#pragma once

#include <stdexcept>
#include <string>

namespace shallowpi {

/// Process exit codes (docs/config.md lists them for users). A run that was interrupted by a signal and has
/// saved its work ends with 130 or 143 (run_distill).
enum class ExitCode : int {
  kDone = 0,
  kFailed = 1,    ///< anything that is not one of the below, such as a full disk
  kUsage = 2,     ///< bad usage, configuration or input
  kCorrupt = 3,   ///< corrupt data or checkpoint
  kDiverged = 4,  ///< numeric divergence
};

/// Base of all errors; thrown itself where no subclass fits (exit code 1).
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, ExitCode code = ExitCode::kFailed)
      : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

/// Bad usage, configuration or input: the user can mend it (exit code 2).
class UsageError : public Error {
 public:
  explicit UsageError(const std::string& message) : Error(message, ExitCode::kUsage) {}
};

/// A file is not what its format demands (exit code 3).
class CorruptError : public Error {
 public:
  explicit CorruptError(const std::string& message) : Error(message, ExitCode::kCorrupt) {}
};

/// The operating system refused to read or write (exit code 1; 2 where the user named a file that is not
/// there or may not be opened).
class IoError : public Error {
 public:
  explicit IoError(const std::string& message, ExitCode code = ExitCode::kFailed) : Error(message, code) {}
};

/// Training went numerically wrong and was stopped (exit code 4).
class DivergedError : public Error {
 public:
  explicit DivergedError(const std::string& message) : Error(message, ExitCode::kDiverged) {}
};

}  // namespace shallowpi
