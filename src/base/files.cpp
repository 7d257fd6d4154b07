#include "shallowpi/base/files.h"

#include <fcntl.h>
#include <glob.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <mutex>
#include <optional>
#include <set>
#include <system_error>

#include "shallowpi/base/error.h"
#include "shallowpi/base/log.h"
#include "shallowpi/base/manifest.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kTemporaryMark = ".tmp-";

/// The temporary names that this process is writing just now. A name that carries our process id but is not
/// among these was left by a killed process that had the same id, as happens in containers.
class LiveTemporaries {
 public:
  void insert(const fs::path& path) {
    const std::lock_guard lock(mutex_);
    paths_.insert(path.filename());
  }
  void erase(const fs::path& path) {
    const std::lock_guard lock(mutex_);
    paths_.erase(path.filename());
  }
  bool contains(const fs::path& path) {
    const std::lock_guard lock(mutex_);
    return paths_.count(path.filename()) != 0;
  }

 private:
  std::mutex mutex_;
  std::set<std::string> paths_;
};

LiveTemporaries& live_temporaries() {
  static LiveTemporaries instance;
  return instance;
}

bool path_exists(const fs::path& path) {
  struct stat status;
  return ::lstat(path.c_str(), &status) == 0;
}

/// The process that the name of a temporary carries.
std::optional<int> writer_of(std::string_view name) {
  const std::size_t mark = name.rfind(kTemporaryMark);
  if (mark == std::string_view::npos) return std::nullopt;
  const char* const end = name.data() + name.size();
  int pid = 0;
  std::uint64_t count = 0;
  const auto [pid_end, pid_error] = std::from_chars(name.data() + mark + kTemporaryMark.size(), end, pid);
  if (pid_error != std::errc() || pid_end == end || *pid_end != '-') return std::nullopt;
  const auto [count_end, count_error] = std::from_chars(pid_end + 1, end, count);
  if (count_error != std::errc() || count_end != end) return std::nullopt;
  return pid;
}

/// A temporary_path(); what is there when this object dies is removed.
class Temporary {
 public:
  explicit Temporary(const fs::path& path) : path_(temporary_path(path)) {}
  ~Temporary() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
    live_temporaries().erase(path_);
  }
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;

  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

/// "x/" names the folder x; a bare name lies in the current folder.
fs::path with_parent(const fs::path& path) {
  const fs::path named = path.has_filename() ? path : path.parent_path();
  return named.has_parent_path() ? named : fs::path(".") / named;
}

/// Whether `path` is a file that a process has open under a number: /dev/stdout leads to one.
bool is_open_descriptor(const fs::path& path) {
  std::error_code ignored;
  return fs::weakly_canonical(path.parent_path(), ignored).string().starts_with("/proc/");
}

/// What the symbolic links at `path` lead to, which need not exist.
fs::path follow_links(const fs::path& path) {
  constexpr int kMaxLinks = 40;  // as many as Linux follows
  fs::path target = path;
  std::error_code error;
  for (int links = 0; fs::is_symlink(fs::symlink_status(target, error)) && !is_open_descriptor(target);
       ++links) {
    const fs::path next = fs::read_symlink(target, error);
    if (error || links == kMaxLinks)
      throw IoError(str("cannot write ", path.string(), ": ",
                        error ? error.message() : std::string("its links lead nowhere")));
    target = target.parent_path() / next;
  }
  return target;
}

/// Whether `path` is a device, a pipe or the like, which is written into and never replaced.
bool is_special(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  const bool is_plain = fs::is_regular_file(status) || fs::is_directory(status);
  return fs::exists(status) && (!is_plain || is_open_descriptor(path));
}

void sync_path(const fs::path& path) {
  open_file(path, O_RDONLY).sync();
}

bool rename_with(unsigned flags, const fs::path& from, const fs::path& to) {
  return ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags) == 0;
}

/// Renames `temporary` to `path` atomically. What was at `path` ends up at `temporary`.
void swap_in(const fs::path& temporary, const fs::path& path, bool replace) {
  if (rename_with(replace ? RENAME_EXCHANGE : RENAME_NOREPLACE, temporary, path)) return;
  // Some file systems (NFS, older FUSE) know no flags. A plain rename replaces a file, but not a folder.
  const bool no_flags = errno == EINVAL || errno == ENOSYS;
  const fs::path aside = temporary.string() + "-old";
  const bool move_aside = no_flags && replace && fs::is_directory(fs::symlink_status(path));
  if (move_aside && !rename_with(0, path, aside)) throw_errno("cannot replace", path);
  if (no_flags && rename_with(0, temporary, path)) {
    if (move_aside) (void)rename_with(0, aside, temporary);
    return;
  }
  const int reason = errno;
  if (move_aside) (void)rename_with(0, aside, path);
  errno = reason;
  throw_errno("cannot rename to", path);
}

/// Puts `temporary` at `path` so that it survives a power cut. Where that fails, `path` is as it was before.
void put_in_place(const fs::path& temporary, const fs::path& path) {
  const bool replace = path_exists(path);
  swap_in(temporary, path, replace);
  try {
    sync_path(path.parent_path());
  } catch (const IoError&) {
    (void)rename_with(replace ? RENAME_EXCHANGE : RENAME_NOREPLACE, replace ? temporary : path,
                      replace ? path : temporary);
    throw;
  }
}

/// Does `work`, which writes `target`; what std::filesystem throws becomes IoError.
void write_with(const fs::path& target, const std::function<void()>& work) {
  try {
    work();
  } catch (const fs::filesystem_error& error) {
    throw IoError(str("cannot write ", target.string(), ": ", error.what()));
  }
}

void sync_folders(const fs::path& folder) {
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_directory()) sync_path(entry.path());
  sync_path(folder);
}

FileDescriptor open_lock_file(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw IoError(str("cannot create folder ", folder.string(), ": ", error.message()));
  return open_file(folder / ".lock", O_RDWR | O_CREAT);
}

}  // namespace

std::string read_file(const fs::path& path, std::uint64_t max_bytes) {
  const FileDescriptor file = open_file(path, O_RDONLY);
  std::string bytes;
  // The size is only a hint: the file may grow while it is read, and /proc says 0.
  bytes.reserve(std::min<std::uint64_t>(file.size(), max_bytes));
  std::string block(std::clamp<std::uint64_t>(file.size() + 1, 4096, 1 << 20), '\0');
  while (const std::size_t got = file.read(block.data(), block.size())) {
    if (got > max_bytes - bytes.size())
      throw IoError(
          str(path.string(), ": larger than the ", human_bytes(max_bytes), " that such a file may have"));
    bytes.append(block, 0, got);
  }
  return bytes;
}

void write_file_atomically(const fs::path& path, std::string_view bytes) {
  write_named_file(path, [&](const fs::path& to) {
    const FileDescriptor out = open_file(to, O_WRONLY | (path_exists(to) ? O_APPEND : O_CREAT | O_EXCL));
    out.write(bytes);
    out.sync();
  });
}

void write_named_file(const fs::path& path, const std::function<void(const fs::path&)>& write) {
  const fs::path target = follow_links(path);
  if (!is_special(target)) return write_atomically(target, write);
  std::cout.flush();  // it may be the same file
  write_with(target, [&] { write(target); });
}

void write_atomically(const fs::path& path, const std::function<void(const fs::path&)>& write) {
  const fs::path target = with_parent(path);
  std::error_code ignored;
  if (fs::is_directory(fs::symlink_status(target, ignored)))  // a link to a folder is replaced like a file
    throw UsageError(target.string() + " is a folder, but a file is to be written there");
  write_with(target, [&] {
    const Temporary temporary(target);
    write(temporary.path());
    put_in_place(temporary.path(), target);
  });
}

void publish_folder(const fs::path& path, const std::function<void(const fs::path&)>& fill, bool replace) {
  const fs::path target = with_parent(path);
  if (!replace && path_exists(target))
    throw UsageError(str(target.string(), " exists already; choose another folder or remove it"));
  std::error_code ignored;
  if (path_exists(target) && !fs::is_directory(target, ignored))
    throw UsageError(target.string() + " is not a folder, but a folder is to be written there");
  write_with(target, [&] {
    fs::create_directories(target.parent_path());
    const Temporary temporary(target);
    if (::mkdir(temporary.path().c_str(), 0777) != 0) throw_errno("cannot create folder", temporary.path());
    fill(temporary.path());
    write_manifest(temporary.path());
    sync_folders(temporary.path());
    put_in_place(temporary.path(), target);
  });
}

void discard_folder(const fs::path& folder) {
  const fs::path target = with_parent(folder);
  const Temporary doomed(target);
  if (!rename_with(0, target, doomed.path())) throw_errno("cannot remove", target);
  std::error_code error;
  fs::remove_all(doomed.path(), error);
  if (error) throw IoError(str("cannot remove ", doomed.path().string(), ": ", error.message()));
}

fs::path temporary_path(const fs::path& path) {
  static std::atomic<std::uint64_t> counter{0};
  fs::path temporary;
  do {
    temporary =
        path.parent_path() / str(path.filename().string(), kTemporaryMark, ::getpid(), "-", counter++);
  } while (path_exists(temporary));
  live_temporaries().insert(temporary);
  return temporary;
}

bool is_temporary(const fs::path& path) {
  return writer_of(path.filename().string()).has_value();
}

void remove_stale_temporaries(const fs::path& parent, bool locked) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(parent, ignored)) {
    const std::optional<int> pid = writer_of(entry.path().filename().string());
    if (!pid) continue;
    const bool alive = *pid == ::getpid() ? live_temporaries().contains(entry.path())
                                          : !locked && *pid > 0 && (::kill(*pid, 0) == 0 || errno != ESRCH);
    if (!alive) fs::remove_all(entry.path(), ignored);
  }
}

fs::path nearest_existing(const fs::path& path) {
  std::error_code ignored;
  fs::path existing = fs::absolute(path);
  while (!fs::exists(existing, ignored) && existing != existing.parent_path())
    existing = existing.parent_path();
  return existing;
}

std::uint64_t free_disk_bytes(const fs::path& path) {
  const fs::path existing = nearest_existing(path);
  struct statvfs status;
  if (::statvfs(existing.c_str(), &status) != 0) throw_errno("cannot ask for free space at", existing);
  return std::uint64_t{status.f_bavail} * status.f_frsize;
}

fs::path user_cache_folder() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache != '\0') return cache;
  const char* home = std::getenv("HOME");
  return fs::path(home != nullptr && *home != '\0' ? home : "/") / ".cache";
}

std::vector<fs::path> expand_globs(const std::vector<std::string>& patterns) {
  std::set<fs::path> found;
  for (const auto& pattern : patterns) {
    glob_t matches{};
    const int status = ::glob(pattern.c_str(), 0, nullptr, &matches);
    for (std::size_t i = 0; status == 0 && i < matches.gl_pathc; ++i) found.insert(matches.gl_pathv[i]);
    ::globfree(&matches);
    const bool exact = path_exists(pattern);  // also a name that holds [ or * itself
    if (exact) found.insert(pattern);
    if (status == 0 || exact) continue;
    const bool is_pattern = pattern.find_first_of("*?[") != std::string::npos;
    throw UsageError(str(pattern, is_pattern ? ": no file matches" : ": no such file",
                         fs::path(pattern).is_absolute() ? "" : str(" in ", fs::current_path().string())));
  }
  return {found.begin(), found.end()};
}

FolderLock::FolderLock(const fs::path& folder) : file_(open_lock_file(folder)) {
  const fs::path& path = file_.path();
  if (::flock(file_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK)
      throw UsageError(str(folder.string(), " is in use by process ", trim(read_file(path, 512)),
                           "; wait for it to end or choose another folder"));
    if (errno != ENOSYS && errno != EOPNOTSUPP && errno != ENOLCK) throw_errno("cannot lock", path);
    log::warning(folder.string(), ": its file system has no locks; never run two processes in this folder");
  }
  if (::ftruncate(file_.get(), 0) != 0) throw_errno("cannot write", path);
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  file_.write(str(::getpid(), " of ", host.data(), "\n"));
}

}  // namespace shallowpi
