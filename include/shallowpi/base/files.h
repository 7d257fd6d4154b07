// Reading whole files, and writing so that a kill at any moment leaves either the old file or the new one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "shallowpi/base/file_descriptor.h"

namespace shallowpi {

/// The whole file as bytes. Throws IoError with the path and the system's reason;
/// refuses files over `max_bytes`.
std::string read_file(const std::filesystem::path& path, std::uint64_t max_bytes = std::uint64_t{1} << 32);

/// Writes to a temporary file beside `path`, fsyncs it, renames it, fsyncs the folder. Throws IoError,
/// leaving no temporary file behind. Symbolic links are followed and stay. What is there and is no plain file
/// (/dev/null, /dev/stdout, a named pipe) is written into and stays, too.
void write_file_atomically(const std::filesystem::path& path, std::string_view bytes);

/// The same where `write` makes the file: it gets the path to write to and has to fsync what it wrote.
void write_named_file(const std::filesystem::path& path,
                      const std::function<void(const std::filesystem::path&)>& write);

/// The same for a file or link of our own: `write` gets the temporary path, and a link at `path` is replaced.
void write_atomically(const std::filesystem::path& path,
                      const std::function<void(const std::filesystem::path&)>& write);

/// Fills a new folder under a temporary name beside `path` with `fill`, writes manifest.json (SHA-256 and
/// size of every file) last, fsyncs everything, and renames it to `path`, which must not exist yet
/// (`replace`: an existing folder is swapped out atomically; on file systems that cannot, such as NFS, a kill
/// between two renames leaves it beside as ".tmp-PID-N-old"). On any exception the temporary folder is
/// removed and `path` is untouched.
void publish_folder(const std::filesystem::path& path,
                    const std::function<void(const std::filesystem::path&)>& fill, bool replace = false);

/// Removes a folder; a kill halfway leaves nothing under its name. Throws IoError.
void discard_folder(const std::filesystem::path& folder);

/// A name beside `path` that nobody uses, ".tmp-PID-N" added to it, for a file that is written over a longer
/// time: the caller renames or removes it. What a killed process leaves, remove_stale_temporaries() finds.
std::filesystem::path temporary_path(const std::filesystem::path& path);
/// Whether a path has such a name.
bool is_temporary(const std::filesystem::path& path);

/// Removes the temporary files and folders in `parent` that killed processes left. Those of this process
/// stay, and, unless the caller holds a lock that keeps others from writing there (`locked`), those whose
/// writer's process id is alive: it may be another process's by now, or of another machine.
void remove_stale_temporaries(const std::filesystem::path& parent, bool locked = false);

/// `path` made absolute, or its nearest parent that exists.
std::filesystem::path nearest_existing(const std::filesystem::path& path);
/// Bytes free for this user on the file system of `path`, which need not exist yet.
std::uint64_t free_disk_bytes(const std::filesystem::path& path);

/// Where this user's programs keep what they can fetch again: XDG_CACHE_HOME, else ~/.cache.
std::filesystem::path user_cache_folder();

/// All files that match; a pattern without wildcards must exist. Sorted, without repeats. Throws UsageError
/// where nothing matches.
std::vector<std::filesystem::path> expand_globs(const std::vector<std::string>& patterns);

/// An exclusive advisory lock on `folder`/.lock, held while the object lives. Throws UsageError naming the
/// holder's process where the folder is in use.
class FolderLock {
 public:
  explicit FolderLock(const std::filesystem::path& folder);

 private:
  FileDescriptor file_;
};

}  // namespace shallowpi
