// Copying weights from file to file, tensor by tensor.
#include "model/checkpoint_internal.h"
#include "model/tensor_names.h"

namespace shallowpi::checkpoint {

std::map<std::string, std::string> tied_metadata() {
  return {{"format", "pt"}, {names::kEmbedTokens, names::kTiedHead}};
}

TensorPlan copy_plan(const SafetensorsFolder& file, const PolicyConfig& config,
                     const std::vector<std::int64_t>& kept) {
  const auto names = canonical_names(file);
  TensorPlan plan;
  for (const auto& [name, tensor] : expected_tensors(config)) {
    const auto source = names.find(source_name(name, kept));
    if (source == names.end() && name == names::kExpertHead) continue;
    const std::string stored = source->second;
    plan[name == names::kEmbedTokens ? names::kTiedHead : name] = {
        file.tensors().at(stored).dtype, tensor.shape, [&file, stored] { return file.read(stored); }};
  }
  return plan;
}

torch::Dtype stored_dtype(const SafetensorsFolder& file) {
  return file.tensors().at(canonical_names(file).at(names::kEmbedTokens)).dtype;
}

}  // namespace shallowpi::checkpoint
