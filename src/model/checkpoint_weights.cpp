// Writing weights tensor by tensor: a file of any size with one tensor in memory.
#include <fcntl.h>

#include <algorithm>
#include <cstring>

#include "base/file_descriptor.h"
#include "base/safetensors_header.h"
#include "model/checkpoint_internal.h"
#include "model/tensor_names.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi::checkpoint {

void write_weights(const std::filesystem::path& path, const WeightPlan& plan,
                   const std::map<std::string, std::string>& metadata) {
  std::vector<std::pair<std::string, TensorInfo>> layout;
  for (const auto& [name, tensor] : plan) layout.push_back({name, {tensor.dtype, tensor.shape, 0, 0}});
  std::stable_sort(layout.begin(), layout.end(), [](const auto& a, const auto& b) {
    return safetensors_rank(a.second.dtype) > safetensors_rank(b.second.dtype);
  });
  std::uint64_t offset = 0;
  for (auto& [name, info] : layout) {
    info.begin = offset;
    offset += torch::elementSize(info.dtype) * static_cast<std::uint64_t>(c10::multiply_integers(info.shape));
    info.end = offset;
  }
  const std::string header = safetensors_header_text(layout, metadata, path.string());
  const std::uint64_t header_bytes = header.size();
  char length[sizeof(header_bytes)];
  std::memcpy(length, &header_bytes, sizeof(header_bytes));
  const FileDescriptor file = open_file(path, O_WRONLY | O_CREAT | O_TRUNC);
  file.write({length, sizeof(length)});
  file.write(header);
  for (const auto& [name, info] : layout) {
    const torch::Tensor tensor = plan.at(name).read().detach().to(torch::kCPU, info.dtype).contiguous();
    if (tensor.sizes() != info.shape)
      throw Error(str(path.string(), ": tensor '", name, "' became ", shape_text(tensor.sizes().vec()),
                      " instead of ", shape_text(info.shape)));
    file.write({static_cast<const char*>(tensor.data_ptr()), tensor.nbytes()});
  }
  file.sync();
}

std::map<std::string, std::string> tied_metadata() {
  return {{"format", "pt"}, {names::kEmbedTokens, names::kTiedHead}};
}

WeightPlan copy_plan(const SafetensorsFolder& file, const PolicyConfig& config,
                     const std::vector<std::int64_t>& kept) {
  const auto names = canonical_names(file);
  WeightPlan plan;
  for (const auto& [name, tensor] : expected_tensors(config)) {
    const auto source = names.find(kept.empty() ? name : source_name(name, kept));
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
