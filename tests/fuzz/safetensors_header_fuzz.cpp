// Input: the size of the data part in decimal, a newline, the JSON header.
#include <charconv>

#include "base/safetensors_header.h"
#include "fuzz.h"

namespace shallowpi {
namespace {

/// The header of the same tensors, as the writer lays them out.
std::string rewritten(const SafetensorsHeader& header) {
  const std::vector<std::pair<std::string, TensorInfo>> layout(header.tensors.begin(), header.tensors.end());
  return safetensors_header_text(layout, header.metadata, "rewritten");
}

}  // namespace

void fuzz::run(std::string_view input) {
  const std::size_t newline = std::min(input.find('\n'), input.size());
  std::uint64_t data_bytes = 0;
  std::from_chars(input.data(), input.data() + newline, data_bytes);
  const std::string_view text = input.substr(std::min(newline + 1, input.size()));
  SafetensorsHeader header;
  if (!fuzz::accepts([&] { header = parse_safetensors_header(text, data_bytes, "file"); })) return;
  std::uint64_t total = 0;
  for (const auto& [name, info] : header.tensors) {
    fuzz::require(info.begin <= info.end && info.end <= data_bytes, "a tensor lies within the data");
    total += info.end - info.begin;
  }
  fuzz::require(total == data_bytes, "the tensors cover the data");
  const std::string again = rewritten(header);
  fuzz::require(rewritten(parse_safetensors_header(again, data_bytes, "rewritten")) == again,
                "what is written is read back equal");
}

}  // namespace shallowpi
