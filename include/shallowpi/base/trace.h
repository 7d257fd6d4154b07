// A timeline of what host and device do.
#pragma once

#include <torch/types.h>

#include <filesystem>
#include <functional>

namespace shallowpi {

/// Runs `work` once, and writes what it does on the host and on `device` to `path`, for chrome://tracing or
/// ui.perfetto.dev. Work that a CUDA graph replays appears as its kernels.
void trace(const std::filesystem::path& path, torch::Device device, const std::function<void()>& work);

}  // namespace shallowpi
