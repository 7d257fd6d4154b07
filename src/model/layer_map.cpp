#include "shallowpi/model/layer_map.h"

#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi {

std::vector<std::int64_t> layer_map(LayerMapRule rule, std::int64_t student_layers,
                                    std::int64_t teacher_layers) {
  if (student_layers < 1 || student_layers > teacher_layers)
    throw UsageError(str("student.layers: a student of ", student_layers,
                         " layers cannot be made from a teacher of ", teacher_layers, "; choose 1 to ",
                         teacher_layers));
  if (rule == LayerMapRule::kEndpoints && student_layers < 2)
    throw UsageError(
        "student.layer_map: 'endpoints' keeps the first and the last layer and needs at least 2 layers");
  std::vector<std::int64_t> kept;
  for (std::int64_t i = 0; i < student_layers; ++i) {
    switch (rule) {
      case LayerMapRule::kUniform:
        kept.push_back(i * teacher_layers / student_layers);
        break;
      case LayerMapRule::kTinyBert:
        kept.push_back((i + 1) * teacher_layers / student_layers - 1);
        break;
      case LayerMapRule::kEndpoints:  // floor(a / b + 1/2) in integers
        kept.push_back((2 * i * (teacher_layers - 1) + student_layers - 1) / (2 * (student_layers - 1)));
        break;
    }
  }
  return kept;
}

void check_layer_map(const std::vector<std::int64_t>& kept, std::int64_t teacher_layers) {
  const auto refuse = [&](const std::string& reason) {
    throw UsageError(str("student.layer_map [", join(kept, ", "), "]: ", reason));
  };
  if (kept.empty()) refuse("no layer is kept; list at least one");
  for (std::size_t i = 0; i < kept.size(); ++i) {
    if (kept[i] < 0 || kept[i] >= teacher_layers)
      refuse(str("layer ", kept[i], " does not exist; the teacher has layers 0 to ", teacher_layers - 1));
    if (i > 0 && kept[i] == kept[i - 1]) refuse(str("layer ", kept[i], " is listed twice"));
    if (i > 0 && kept[i] < kept[i - 1])
      refuse(str("layer ", kept[i], " follows layer ", kept[i - 1], "; list the layers in ascending order"));
  }
}

}  // namespace shallowpi
