// The JSON header of a safetensors file: parsing with every check, and writing.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "shallowpi/base/safetensors.h"

namespace shallowpi {

/// The format's own limit; also bounds what a hostile file can make us allocate.
inline constexpr std::uint64_t kMaxSafetensorsHeader = 100'000'000;

struct SafetensorsHeader {
  std::map<std::string, TensorInfo> tensors;
  std::map<std::string, std::string> metadata;
};

/// Parses and checks `text` against the `data_bytes` that follow it. Throws
/// CorruptError that begins with `where`.
SafetensorsHeader parse_safetensors_header(std::string_view text, std::uint64_t data_bytes,
                                           const std::string& where);

/// The header that Python's safetensors would write for tensors in the order of `layout` (name, info), padded
/// with spaces to 8 bytes.
std::string safetensors_header_text(const std::vector<std::pair<std::string, TensorInfo>>& layout,
                                    const std::map<std::string, std::string>& metadata,
                                    const std::string& where);

/// Position of `dtype` in the order in which files are laid out (larger comes first); nothing where the
/// format has no such dtype.
std::optional<std::size_t> safetensors_rank(torch::Dtype dtype);

}  // namespace shallowpi
