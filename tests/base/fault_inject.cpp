#include "base/fault_inject.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>

namespace {

enum class Call { kOpen, kCreate, kWrite, kSync, kOther };

constexpr int kShort = -1;  // in place of an errno

struct State {
  std::mutex mutex;
  std::string folder;  // empty: not armed
  int error = 0;
  long strike_at = 0;
  bool sticky = false;
  long calls = 0;
  bool struck = false;
};

State& state() {
  static State* instance = new State;  // never destroyed: calls come until the very end of the process
  return *instance;
}

int error_named(const std::string& name) {
  static const struct {
    const char* name;
    int value;
  } kErrors[] = {{"ENOSPC", ENOSPC}, {"EIO", EIO},       {"EDQUOT", EDQUOT}, {"EROFS", EROFS},
                 {"EINTR", EINTR},   {"EMFILE", EMFILE}, {"EACCES", EACCES}, {"SHORT", kShort}};
  for (const auto& entry : kErrors)
    if (name == entry.name) return entry.value;
  std::fprintf(stderr, "fault_inject: unknown fault %s\n", name.c_str());
  std::abort();
}

bool below_folder(const std::string& path) {
  return path.starts_with(state().folder);
}

std::string path_of(int fd) {
  char target[4096];
  const ssize_t size = ::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), target, sizeof target);
  return size > 0 ? std::string(target, static_cast<std::size_t>(size)) : std::string();
}

bool applies(Call call) {
  const State& s = state();
  if (s.error == EINTR) return call != Call::kOther;
  if (s.error == kShort) return call == Call::kWrite;
  return true;
}

/// 0, or what the call that is about to happen on `path` must fail with.
int fault_for(Call call, const std::string& path) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (s.folder.empty() || !below_folder(path)) return 0;
  const long number = ++s.calls;
  const bool needs_space = call == Call::kCreate || call == Call::kWrite || call == Call::kSync;
  const bool later = s.sticky && number > s.strike_at && needs_space;
  if ((number != s.strike_at && !later) || !applies(call)) return 0;
  s.struck = true;
  return s.error;
}

bool armed() {
  return !state().folder.empty();
}

template <typename Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

bool fails(Call call, const std::string& path) {
  const int error = fault_for(call, path);
  if (error <= 0) return false;
  errno = error;
  return true;
}

/// For calls that write `count` bytes: true with errno where they fail; halves `count` for SHORT.
bool write_fails(int fd, std::size_t& count) {
  if (!armed()) return false;
  const int error = fault_for(Call::kWrite, path_of(fd));
  if (error == kShort) count = (count + 1) / 2;
  if (error > 0) errno = error;
  return error > 0;
}

bool open_fails(const char* path, int flags) {
  return armed() && fails(flags & O_CREAT ? Call::kCreate : Call::kOpen, path);
}

const bool kArmedByEnvironment = [] {
  const char* fault = std::getenv("SHALLOWPI_FAULT");
  const char* folder = std::getenv("SHALLOWPI_FAULT_FOLDER");
  if (fault && folder) shallowpi::testing::arm_fault(fault, folder);
  return fault && folder;
}();

}  // namespace

namespace shallowpi::testing {

void arm_fault(const char* fault, const char* folder) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  const std::string text = fault;
  const std::size_t colon = text.find(':');
  s.error = error_named(text.substr(0, colon));
  s.strike_at = colon == std::string::npos ? 0 : std::atol(text.c_str() + colon + 1);
  s.sticky = text.find(":sticky") != std::string::npos;
  s.calls = 0;
  s.struck = false;
  s.folder = folder;
}

bool disarm_fault() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  s.folder.clear();
  return s.struck;
}

}  // namespace shallowpi::testing

// The calls of the C library, by the names under which programs and libstdc++ know them.
extern "C" {

int open(const char* path, int flags, ...) {
  std::va_list arguments;
  va_start(arguments, flags);
  const auto mode = va_arg(arguments, mode_t);
  va_end(arguments);
  static const auto real = next<int(const char*, int, ...)>("open");
  return open_fails(path, flags) ? -1 : real(path, flags, mode);
}

int open64(const char* path, int flags, ...) {
  std::va_list arguments;
  va_start(arguments, flags);
  const auto mode = va_arg(arguments, mode_t);
  va_end(arguments);
  static const auto real = next<int(const char*, int, ...)>("open64");
  return open_fails(path, flags) ? -1 : real(path, flags, mode);
}

FILE* fopen(const char* path, const char* mode) {
  static const auto real = next<FILE*(const char*, const char*)>("fopen");
  return open_fails(path, *mode == 'r' ? 0 : O_CREAT) ? nullptr : real(path, mode);
}

FILE* fopen64(const char* path, const char* mode) {
  static const auto real = next<FILE*(const char*, const char*)>("fopen64");
  return open_fails(path, *mode == 'r' ? 0 : O_CREAT) ? nullptr : real(path, mode);
}

ssize_t write(int fd, const void* bytes, size_t count) {
  static const auto real = next<ssize_t(int, const void*, size_t)>("write");
  return write_fails(fd, count) ? -1 : real(fd, bytes, count);
}

ssize_t writev(int fd, const struct iovec* parts, int part_count) {
  static const auto real = next<ssize_t(int, const struct iovec*, int)>("writev");
  std::size_t whole = 0;
  return write_fails(fd, whole) ? -1 : real(fd, parts, part_count);
}

ssize_t sendfile(int out, int in, off_t* offset, size_t count) {
  static const auto real = next<ssize_t(int, int, off_t*, size_t)>("sendfile");
  return write_fails(out, count) ? -1 : real(out, in, offset, count);
}

int fsync(int fd) {
  static const auto real = next<int(int)>("fsync");
  if (!armed()) return real(fd);
  return fails(Call::kSync, path_of(fd)) ? -1 : 0;  // no test pulls the plug, and real ones take their time
}

int ftruncate(int fd, off_t size) noexcept {
  static const auto real = next<int(int, off_t)>("ftruncate");
  return armed() && fails(Call::kOther, path_of(fd)) ? -1 : real(fd, size);
}

int rename(const char* from, const char* to) noexcept {
  static const auto real = next<int(const char*, const char*)>("rename");
  return armed() && fails(Call::kOther, to) ? -1 : real(from, to);
}

int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) noexcept {
  static const auto real = next<int(int, const char*, int, const char*, unsigned)>("renameat2");
  return armed() && fails(Call::kOther, to) ? -1 : real(from_folder, from, to_folder, to, flags);
}

int mkdir(const char* path, mode_t mode) noexcept {
  static const auto real = next<int(const char*, mode_t)>("mkdir");
  return armed() && fails(Call::kOther, path) ? -1 : real(path, mode);
}

}  // extern "C"
