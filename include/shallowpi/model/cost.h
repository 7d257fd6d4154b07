// What a forward pass costs: arithmetic and memory traffic, from the sizes alone, and what a device could do
// at best.
//
// One convention for all programs: 2 operations per multiply-add; matrix products only; the attention
// products of the vision tower are not counted; the last backbone layer makes keys and values only. With two
// cameras, ten steps, a horizon of 50 and prompts of 48 (pi0) and 160 tokens (pi0.5) it agrees with Table 2
// of Shallow-pi within 1 %. The paper does not say its prompt length.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "shallowpi/model/config.h"

namespace shallowpi {

/// One forward pass over a (micro-)batch.
struct PassShape {
  std::int64_t batch = 1;    ///< B
  std::int64_t images = 1;   ///< image count over all cameras and samples
  std::int64_t prefix = 1;   ///< P, valid prefix tokens per sample
  std::int64_t horizon = 1;  ///< H
  std::int64_t draws = 1;    ///< R
};

/// Tokens of one suffix: the actions, and pi0's state.
inline std::int64_t suffix_tokens(const PolicyConfig& config, std::int64_t horizon) {
  return horizon + (config.kind == PolicyKind::kPi0 ? 1 : 0);
}

/// Operations or bytes of one pass by part, the expert's for one evaluation of the velocity.
struct PassCost {
  double tower = 0, backbone = 0, expert = 0;
  double chunk(std::int64_t steps) const { return tower + backbone + static_cast<double>(steps) * expert; }
};

/// Floating-point operations.
PassCost forward_flops(const PolicyConfig& config, const PassShape& shape);

/// Bytes that must cross the memory bus at least: each part's weights once (of the embedding table only the
/// rows looked up; without the time MLP and adaRMS weights, whose results are kept), keys and values written
/// once and read in every step. `value_bytes` is the policy dtype's. Activations are not counted.
PassCost forward_bytes(const PolicyConfig& config, const PassShape& shape, std::int64_t value_bytes);

/// Dense peaks by data sheet.
struct DevicePeak {
  std::string_view name;  ///< part of the device's name
  double bf16_flops = 0;  ///< per second, float32 accumulation
  double bytes = 0;       ///< per second
};
/// Empty for a device that the table does not know; CPUs are never in it.
std::optional<DevicePeak> device_peak(std::string_view device_name);

/// The roofline bound of one chunk in ms, in bfloat16: per part the larger of the time that arithmetic and
/// memory traffic need.
double bound_ms(const DevicePeak& peak, const PassCost& flops, const PassCost& bytes, std::int64_t steps);

}  // namespace shallowpi
