#include "data/hdf5_child.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "data/hdf5_raw_file.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/file_descriptor.h"
#include "shallowpi/base/text.h"

namespace shallowpi::hdf5 {
namespace {

// Of a few large files' tables and texts; more is a file made to fill the memory.
constexpr std::size_t kMaxAnswerBytes = std::size_t{1} << 30;

// First byte of the child's answer.
constexpr char kResult = 'R', kUsage = 'U', kCorrupt = 'C', kSystem = 'S', kOther = 'E';

void set_limit(int resource, rlim_t value) {
  const rlimit limit{value, value};
  ::setrlimit(static_cast<__rlimit_resource>(resource), &limit);
}

std::uint64_t mapped_bytes() {
  std::uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

// Crashes are expected here: they must be quick, quiet and leave no core behind.
void confine_child() {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGPIPE}) std::signal(signal, SIG_DFL);
  const int null = ::open("/dev/null", O_WRONLY);
  ::dup2(null, STDOUT_FILENO);
  ::dup2(null, STDERR_FILENO);
  set_limit(RLIMIT_CORE, 0);
  set_limit(RLIMIT_CPU, kMaxChildSeconds);
  set_limit(RLIMIT_AS, mapped_bytes() + kMaxChildBytes);
}

std::string answer_of(const std::function<nlohmann::json()>& work) {
  try {
    const std::vector<std::uint8_t> bytes = nlohmann::json::to_cbor(work());
    return kResult + std::string(bytes.begin(), bytes.end());
  } catch (const UsageError& error) {
    return kUsage + std::string(error.what());
  } catch (const CorruptError& error) {
    return kCorrupt + std::string(error.what());
  } catch (const IoError& error) {
    return kSystem + std::string(1, static_cast<char>(error.code())) + error.what();
  } catch (const Error& error) {
    return kOther + std::string(error.what());
  }
}

[[noreturn]] void run_child(const FileDescriptor& pipe, const std::function<nlohmann::json()>& work) {
  int status = 1;
  try {
    confine_child();
    pipe.write(answer_of(work));
    status = 0;
  } catch (...) {  // the parent has no answer and says so
  }
  ::_exit(status);
}

/// What the child answers; cut off above the limit, where its end of the pipe breaks and it dies.
std::string read_answer(const FileDescriptor& pipe) {
  std::string bytes;
  std::array<char, 1 << 16> buffer;
  while (const std::size_t got = pipe.read(buffer.data(), buffer.size())) {
    bytes.append(buffer.data(), got);
    if (bytes.size() > kMaxAnswerBytes) break;
  }
  return bytes;
}

/// A started process. One that is not waited for is killed.
class Child {
 public:
  explicit Child(pid_t pid) : pid_(pid) {}
  ~Child() {
    if (pid_ < 0) return;
    ::kill(pid_, SIGKILL);
    while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  /// Its status, once it has ended.
  int wait() {
    const pid_t pid = std::exchange(pid_, -1);
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0)
      if (errno != EINTR) throw_errno("cannot wait for the process that reads", "demonstrations");
    return status;
  }

 private:
  pid_t pid_;
};

}  // namespace

nlohmann::json in_child(const std::filesystem::path& path, const std::function<nlohmann::json()>& work) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw_errno("cannot open a pipe to read", path);
  FileDescriptor from_child(ends[0], path);
  FileDescriptor to_parent(ends[1], path);
  const pid_t pid = ::fork();
  if (pid < 0) throw_errno("cannot start a process to read", path);
  if (pid == 0) run_child(to_parent, work);
  Child child(pid);
  to_parent.close();
  const std::string answer = read_answer(from_child);
  from_child.close();
  const int status = child.wait();
  if (answer.size() > kMaxAnswerBytes)
    throw CorruptError(
        str(path.string(), ": holds tables of more than ", kMaxAnswerBytes >> 20, " MiB; ", kRecopy));
  if (status != 0 || answer.empty()) {
    const std::string how = WIFSIGNALED(status) ? ::strsignal(WTERMSIG(status)) : "out of memory";
    throw CorruptError(
        str(path.string(), ": is damaged: the HDF5 library failed on it (", how, "); ", kRecopy));
  }
  if (answer[0] == kResult) return nlohmann::json::from_cbor(answer.begin() + 1, answer.end());
  const std::string text = answer.substr(1);
  switch (answer[0]) {
    case kUsage:
      throw UsageError(text);
    case kCorrupt:
      throw CorruptError(text);
    case kSystem:
      throw IoError(text.substr(1), static_cast<ExitCode>(text.at(0)));
    default:
      throw Error(text);
  }
}

}  // namespace shallowpi::hdf5
