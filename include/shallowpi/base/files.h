// Reading whole files, and writing so that a kill at any moment leaves either the old file or the new one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace shallowpi {

/// The whole file as bytes. Throws IoError with the path and the system's reason; refuses files over
/// `max_bytes`.
std::string read_file(const std::filesystem::path& path, std::uint64_t max_bytes = std::uint64_t{1} << 32);

/// Writes to a temporary file beside `path`, fsyncs it, renames it, fsyncs the folder. Throws IoError,
/// leaving no temporary file behind.
void write_file_atomically(const std::filesystem::path& path, std::string_view bytes);

/// The same where `write` makes the file: it gets the temporary path and has to fsync what it wrote.
void write_atomically(const std::filesystem::path& path,
                      const std::function<void(const std::filesystem::path&)>& write);

/// Fills a new folder under a temporary name beside `path` with `fill`, writes manifest.json (SHA-256 and
/// size of every file) last, fsyncs everything, and renames it to `path`, which must not exist yet
/// (`replace`: an existing folder is swapped out atomically). On any exception the temporary folder is
/// removed and `path` is untouched.
void publish_folder(const std::filesystem::path& path,
                    const std::function<void(const std::filesystem::path&)>& fill, bool replace = false);

/// Checks every file in manifest.json. Throws CorruptError naming the first file that is missing, has another
/// size or another hash, or where there is no manifest.
void verify_manifest(const std::filesystem::path& folder);

/// Removes temporary folders and files that a killed process left beside `path` (those of live processes
/// stay).
void remove_stale_temporaries(const std::filesystem::path& parent);

/// Lower-case hex SHA-256.
std::string sha256(std::string_view bytes);
std::string sha256_file(const std::filesystem::path& path);

/// Bytes free for this user on the file system of `path` (its nearest existing parent).
std::uint64_t free_disk_bytes(const std::filesystem::path& path);

/// All files that match; a pattern without wildcards must exist. Sorted, without repeats. Throws UsageError
/// where nothing matches.
std::vector<std::filesystem::path> expand_globs(const std::vector<std::string>& patterns);

/// An exclusive advisory lock on `path`/.lock, held while the object lives. Throws UsageError naming the
/// holder's process where the folder is in use.
class FolderLock {
 public:
  explicit FolderLock(const std::filesystem::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int fd_ = -1;
};

}  // namespace shallowpi
