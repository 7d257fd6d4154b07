// Safetensors files from a header as text, right or wrong.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>

namespace shallowpi::testing {

inline std::string safetensors_bytes(const std::string& header, const std::string& data) {
  const std::uint64_t size = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &size, 8);
  return bytes + header + data;
}

}  // namespace shallowpi::testing
