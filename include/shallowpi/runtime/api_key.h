// The secret that a policy server and its clients share.
#pragma once

#include <filesystem>
#include <string>

namespace shallowpi {

/// The key in the file of --api-key-file; empty where `path` is empty. Warns where others may read the file.
/// Throws UsageError unless it holds one word of at least 16 characters, IoError where it cannot be read.
std::string read_api_key(const std::filesystem::path& path);

}  // namespace shallowpi
