#include "eval/simulator.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <vector>

#include "shallowpi/base/files.h"
#include "shallowpi/base/text.h"

extern char** environ;

namespace shallowpi {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t kHeaderBytes = 8;
constexpr std::uint32_t kMaxJson = 16u << 20;
constexpr int kWorkerFd = 3;  // of the socket, in the process

std::uint32_t little_endian(const char* bytes) {
  std::uint32_t value = 0;
  for (int i = 3; i >= 0; --i) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

void append_little_endian(std::string& out, std::size_t value) {
  for (int i = 0; i < 4; ++i) out += static_cast<char>(value >> (8 * i) & 255);
}

}  // namespace

Simulator::Simulator(std::string python, fs::path script, fs::path log)
    : python_(std::move(python)), script_(std::move(script)), log_(std::move(log)) {}

Simulator::~Simulator() {
  kill();
}

void Simulator::start() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    throw IoError(str("cannot make a socket for a simulator: ", std::strerror(errno)));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, log_.c_str(), O_WRONLY | O_CREAT | O_APPEND,
                                   0666);
  posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
  posix_spawn_file_actions_adddup2(&actions, ends[1], kWorkerFd);
  // A group of its own: Ctrl-C is for this program, which lets the episode's results be written.
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  std::string script = script_.string(), fd = str(kWorkerFd), flag = "--fd";
  char* arguments[] = {python_.data(), script.data(), flag.data(), fd.data(), nullptr};
  const int error = ::posix_spawn(&pid_, python_.c_str(), &actions, &attributes, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  ::close(ends[1]);
  if (error != 0) {
    ::close(ends[0]);
    pid_ = -1;
    throw UsageError(str("cannot run the simulator's python ", python_, ": ", std::strerror(error),
                         "; run scripts/setup_libero.sh, or give --python"));
  }
  fd_ = ends[0];
}

void Simulator::kill() {
  if (fd_ >= 0) ::close(fd_);
  if (pid_ > 0) {
    ::kill(-pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  fd_ = -1;
  pid_ = -1;
  busy_ = false;
  received_.clear();
}

void Simulator::extend_deadline() {
  deadline_ = Clock::now() + std::chrono::milliseconds(static_cast<std::int64_t>(timeout_s_ * 1000));
}

void Simulator::send(const Json& request, double timeout_s) {
  if (pid_ < 0) start();
  const std::string text = request.dump();
  std::string message;
  append_little_endian(message, text.size());
  append_little_endian(message, 0);
  message += text;
  busy_ = true;
  timeout_s_ = timeout_s;
  extend_deadline();
  for (std::size_t sent = 0; sent < message.size();) {
    const ssize_t n = ::send(fd_, message.data() + sent, message.size() - sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(str("died (", std::strerror(errno), ")"));
    sent += static_cast<std::size_t>(n);
  }
}

std::optional<SimulatorAnswer> Simulator::receive() {
  char block[1 << 16];
  for (;;) {
    const ssize_t n = ::recv(fd_, block, sizeof block, MSG_DONTWAIT);
    if (n > 0) {
      received_.append(block, static_cast<std::size_t>(n));
      extend_deadline();  // nobody may have read while a policy computed
    } else if (n == 0 || (errno != EINTR && errno != EAGAIN)) {
      fail("died");
    } else if (errno == EAGAIN) {
      break;
    }
  }
  if (auto message = take_message()) return message;
  if (Clock::now() > deadline_) fail(str("has not answered for ", fixed(timeout_s_, 0), " s"));
  return std::nullopt;
}

std::optional<SimulatorAnswer> Simulator::take_message() {
  if (received_.size() < kHeaderBytes) return std::nullopt;
  const std::uint32_t json_bytes = little_endian(received_.data());
  const std::uint32_t payload_bytes = little_endian(received_.data() + 4);
  if (json_bytes > kMaxJson) fail("sent something that is no message");
  if (received_.size() < kHeaderBytes + json_bytes + payload_bytes) return std::nullopt;
  SimulatorAnswer answer;
  try {
    answer.json = parse_json(received_.substr(kHeaderBytes, json_bytes), "a simulator's answer");
  } catch (const CorruptError& error) {
    fail(error.what());
  }
  answer.payload = received_.substr(kHeaderBytes + json_bytes, payload_bytes);
  received_.clear();
  busy_ = false;
  if (!answer.json.contains("error")) return answer;
  const std::string kind = json_get_or<std::string>(answer.json, "kind", "", "a simulator's answer");
  const std::string what = json_get<std::string>(answer.json, "error", "a simulator's answer");
  if (kind == "usage") throw UsageError(what);
  if (kind == "render") throw UsageError(str("the simulator cannot render: ", what));
  fail(str("failed: ", what));
}

SimulatorAnswer Simulator::wait() {
  for (;;) {
    if (auto answer = receive()) return std::move(*answer);
    wait_for_any({this});
  }
}

void Simulator::fail(const std::string& what) {
  const pid_t pid = pid_;
  kill();
  throw SimulatorFault(str("simulator process ", pid, " ", what, log_tail()));
}

std::string Simulator::log_tail() const {
  constexpr std::size_t kTail = 600;
  std::error_code ignored;
  if (!fs::exists(log_, ignored)) return "";
  std::string text = read_file(log_);
  if (text.size() > kTail) text = "..." + text.substr(text.size() - kTail);
  return str("; the end of ", log_.string(), ":\n", trim(text));
}

void wait_for_any(const std::vector<Simulator*>& simulators) {
  std::vector<pollfd> fds;
  auto first = Simulator::Clock::time_point::max();
  for (const Simulator* simulator : simulators) {
    if (!simulator->busy()) continue;
    fds.push_back({simulator->fd(), POLLIN, 0});
    first = std::min(first, simulator->deadline());
  }
  if (fds.empty()) return;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(first - Simulator::Clock::now()).count();
  // A signal ends the wait early; so does a second, for signals that arrive just before it.
  ::poll(fds.data(), fds.size(), static_cast<int>(std::clamp<std::int64_t>(left + 1, 0, 1000)));
}

std::string find_simulator_python(const std::string& given) {
  if (!given.empty()) {
    if (::access(given.c_str(), X_OK) != 0)
      throw UsageError(str("--python ", given, ": ", std::strerror(errno),
                           "; run scripts/setup_libero.sh, which prints the path to give"));
    return given;
  }
  const fs::path python = user_cache_folder() / "shallowpi" / "libero" / "bin" / "python";
  if (::access(python.c_str(), X_OK) != 0)
    throw UsageError(str("no LIBERO simulator is installed (there is no ", python.string(),
                         "): run scripts/setup_libero.sh, or give --python the python of an installation"));
  return python.string();
}

fs::path find_worker_script(const fs::path& given) {
  if (!given.empty()) {
    if (!fs::exists(given)) throw UsageError(str("there is no worker script ", given.string()));
    return given;
  }
  const fs::path program = fs::read_symlink("/proc/self/exe").parent_path();
  const fs::path candidates[] = {program / "../../scripts/libero_worker.py",
                                 program / "../share/shallowpi/libero_worker.py"};
  for (const fs::path& candidate : candidates)
    if (fs::exists(candidate)) return fs::weakly_canonical(candidate);
  throw UsageError(str("libero_worker.py is neither at ", candidates[0].lexically_normal().string(),
                       " nor at ", candidates[1].lexically_normal().string(),
                       ": install the program with its files"));
}

}  // namespace shallowpi
