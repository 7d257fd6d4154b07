// Which teacher layers a student keeps, in backbone and expert alike.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "shallowpi/base/enum_names.h"

namespace shallowpi {

enum class LayerMapRule {
  kUniform,    ///< floor(i N / L): includes the bottom layer (the paper's text)
  kTinyBert,   ///< floor((i + 1) N / L) - 1: includes the top layer (TinyBERT)
  kEndpoints,  ///< floor(i (N - 1) / (L - 1) + 1/2): both ends, L >= 2
};
template <>
inline constexpr auto kEnumNames<LayerMapRule> = std::to_array<EnumName<LayerMapRule>>({
    {LayerMapRule::kUniform, "uniform"},
    {LayerMapRule::kTinyBert, "tinybert"},
    {LayerMapRule::kEndpoints, "endpoints"},
});

/// The kept layers for `student_layers` of `teacher_layers`. Throws UsageError where that is impossible.
std::vector<std::int64_t> layer_map(LayerMapRule rule, std::int64_t student_layers,
                                    std::int64_t teacher_layers);

/// Throws UsageError with the reason where the list is empty, unsorted,
/// repeats a layer or leaves [0, teacher_layers).
void check_layer_map(const std::vector<std::int64_t>& kept, std::int64_t teacher_layers);

}  // namespace shallowpi
