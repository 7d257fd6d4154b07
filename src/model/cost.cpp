#include "shallowpi/model/cost.h"

#include <algorithm>
#include <array>

#include "model/tensor_names.h"

namespace shallowpi {
namespace {

/// Products of one Gemma layer for one token that attends to `keys`.
double gemma_layer(const GemmaConfig& g, std::int64_t keys) {
  const std::int64_t attention = g.heads * g.head_dim;
  return 2.0 * static_cast<double>(g.width * (2 * attention + 2 * g.head_dim) + 2 * attention * keys +
                                   3 * g.width * g.mlp);
}

/// What the engine evaluates once per number of steps, not once per step.
bool depends_on_time_alone(const PolicyConfig& config, std::string_view name) {
  return config.kind == PolicyKind::kPi05 &&
         (name.find(".dense.") != std::string_view::npos || name.starts_with("time_mlp"));
}

constexpr double kTera = 1e12;
constexpr std::array kPeaks = std::to_array<DevicePeak>({
    {"H100", 989 * kTera, 3.35 * kTera},
    {"H200", 989 * kTera, 4.8 * kTera},
    {"RTX 4090", 165.2 * kTera, 1.008 * kTera},
    {"Orin", 42.5 * kTera, 0.2048 * kTera},  // AGX Orin 64 GB
    {"Thor", 259 * kTera, 0.273 * kTera},
});

}  // namespace

PassCost forward_flops(const PolicyConfig& config, const PassShape& shape) {
  const VisionConfig& v = config.vision;
  const GemmaConfig& b = config.backbone;
  const std::int64_t suffix = shape.draws * suffix_tokens(config, shape.horizon);
  PassCost flops;
  flops.tower = static_cast<double>(shape.images * v.tokens()) * 2.0 *
                static_cast<double>(v.depth * (4 * v.width * v.width + 2 * v.width * v.mlp) +
                                    3 * v.patch * v.patch * v.width + v.width * b.width);
  flops.backbone = static_cast<double>(shape.batch * shape.prefix) *
                   (static_cast<double>(b.depth - 1) * gemma_layer(b, shape.prefix) +
                    4.0 * static_cast<double>(b.width * b.head_dim));
  flops.expert = static_cast<double>(shape.batch * suffix) * static_cast<double>(config.expert.depth) *
                 gemma_layer(config.expert, shape.prefix + suffix);
  return flops;
}

PassCost forward_bytes(const PolicyConfig& config, const PassShape& shape, std::int64_t value_bytes) {
  const double width = static_cast<double>(value_bytes);
  PassCost bytes;
  for (const auto& [name, tensor] : expected_tensors(config)) {
    if (tensor.dead || depends_on_time_alone(config, name)) continue;
    const double size = static_cast<double>(tensor.size()) * (tensor.keep_float32 ? 4 : width);
    if (name == names::kEmbedTokens) continue;  // looked up: counted with the prompt below
    if (names::is_tower(name))
      bytes.tower += size;
    else if (name.starts_with(names::kBackbone))
      bytes.backbone += size;
    else
      bytes.expert += size;
  }
  const double tokens = static_cast<double>(shape.batch * shape.prefix);
  const double prompt = tokens - static_cast<double>(shape.images * config.vision.tokens());
  const double cache = tokens * 2 * static_cast<double>(config.depth() * config.backbone.head_dim) * width;
  bytes.backbone += std::max(prompt, 0.0) * static_cast<double>(config.backbone.width) * width + cache;
  bytes.expert += cache;
  return bytes;
}

std::optional<DevicePeak> device_peak(std::string_view device_name) {
  const auto names = [device_name](std::string_view word) {
    const auto at = device_name.find(word);
    return at != std::string_view::npos && (at == 0 || device_name[at - 1] == ' ');
  };
  if (names("PCIe") || names("NVL")) return std::nullopt;  // slower than what is called the same
  for (const DevicePeak& peak : kPeaks)
    if (names(peak.name)) return peak;
  return std::nullopt;
}

double bound_ms(const DevicePeak& peak, const PassCost& flops, const PassCost& bytes, std::int64_t steps) {
  const auto part = [&](double operations, double traffic) {
    return 1e3 * std::max(operations / peak.bf16_flops, traffic / peak.bytes);
  };
  return part(flops.tower, bytes.tower) + part(flops.backbone, bytes.backbone) +
         static_cast<double>(steps) * part(flops.expert, bytes.expert);
}

}  // namespace shallowpi
