// Runs libhdf5 in a process of its own.
//
// libhdf5 has memory errors on damaged files, above all in old packaged versions: it crashes, loops
// or asks for all memory. So no byte of a demonstration file is parsed by it in this process. A
// forked child opens the file, checks it and sends back what was found: the tables, the texts, and
// where in the file each frame lies. The frames are then read here by own, checked code
// (hdf5_rows.h). A child that dies is a damaged file.
#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

namespace shallowpi::hdf5 {

/// What `work` returns, run in a forked child (one thread; it must not log or touch LibTorch). An Error that
/// it throws is thrown here; CorruptError naming `path` where the child crashes, or takes more than
/// kMaxChildSeconds of CPU or kMaxChildBytes of memory. Safe to call from several threads.
nlohmann::json in_child(const std::filesystem::path& path, const std::function<nlohmann::json()>& work);

constexpr unsigned kMaxChildSeconds = 600;
constexpr std::uint64_t kMaxChildBytes = std::uint64_t{8} << 30;

}  // namespace shallowpi::hdf5
