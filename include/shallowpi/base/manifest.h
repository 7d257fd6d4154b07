// SHA-256, and the list of a folder's files with theirs: manifest.json tells whether the folder is whole.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace shallowpi {

inline constexpr const char* kManifest = "manifest.json";

/// Lower-case hex SHA-256.
std::string sha256(std::string_view bytes);
std::string sha256_file(const std::filesystem::path& path);

/// Flushes every file below `folder` to the disk and lists it, with SHA-256 and size, in a new manifest.json.
void write_manifest(const std::filesystem::path& folder);

enum class OptionalFiles { kChecked, kUnchecked };
/// Checks every file in manifest.json, several at once. Throws CorruptError naming the first file that is
/// missing, has another size or another hash, or where there is no manifest. The subfolder `optional` may be
/// missing as a whole, and is not read where it is kUnchecked: returns whether the manifest lists it and it
/// is missing.
bool verify_manifest(const std::filesystem::path& folder, const std::string& optional = {},
                     OptionalFiles which = OptionalFiles::kChecked);

}  // namespace shallowpi
