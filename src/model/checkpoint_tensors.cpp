// Tensors of a checkpoint's files: their names, the comparison with what a policy
// needs, and their fingerprint.
#include "model/checkpoint_internal.h"
#include "model/tensor_names.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/manifest.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

constexpr std::string_view kLeRobotPrefix = "model.";
constexpr std::size_t kListed = 20;  // of each kind in a message

bool is_weight_type(torch::Dtype dtype) {
  return dtype == torch::kFloat32 || dtype == torch::kBFloat16 || dtype == torch::kFloat16 ||
         dtype == torch::kFloat64;
}

std::string list_text(std::string_view what, const std::vector<std::string>& items) {
  if (items.empty()) return "";
  return str("\n  ", what, " (", items.size(), "):\n    ", join(shortened(items, kListed), "\n    "));
}

}  // namespace

std::map<std::string, std::string> canonical_names(const SafetensorsFolder& file) {
  std::map<std::string, std::string> names;
  for (const auto& [stored, info] : file.tensors()) {
    const std::string name =
        stored.starts_with(kLeRobotPrefix) ? stored.substr(kLeRobotPrefix.size()) : stored;
    const auto [it, inserted] = names.emplace(name, stored);
    if (!inserted)
      throw CorruptError(str(file.files().front().parent_path().string(), ": tensors '", it->second,
                             "' and '", stored, "' have the same meaning; keep one of them"));
  }
  // LeRobot's untied files hold both, and there lm_head may be stale.
  const auto head = names.find(names::kTiedHead);
  if (head != names.end()) {
    names.emplace(names::kEmbedTokens, head->second);
    names.erase(head);
  }
  return names;
}

std::string weights_fingerprint(const CheckpointInfo& checkpoint) {
  const SafetensorsFolder file(checkpoint.folder);
  const auto names = canonical_names(file);
  const auto expected = expected_tensors(checkpoint.config);
  std::string summary;
  for (const auto& [name, stored] : names) {
    const auto it = expected.find(name);
    if (it == expected.end() || it->second.dead) continue;
    const torch::Tensor tensor = file.read(stored);
    const std::string_view bytes(static_cast<const char*>(tensor.data_ptr()), tensor.nbytes());
    summary += str(name, " ", torch::toString(tensor.scalar_type()), " ", shape_text(tensor.sizes().vec()),
                   " ", sha256(bytes), "\n");
  }
  return sha256(summary);
}

namespace checkpoint {

Shapes shapes_of(const SafetensorsFolder& file, const std::map<std::string, std::string>& names) {
  Shapes shapes;
  for (const auto& [name, stored] : names) shapes[name] = file.tensors().at(stored).shape;
  return shapes;
}

void check_tensors(const std::filesystem::path& folder, const SafetensorsFolder& file,
                   const std::map<std::string, std::string>& names, const PolicyConfig& config) {
  const auto expected = expected_tensors(config);
  std::vector<std::string> missing, unexpected, misshapen;
  for (const auto& [name, tensor] : expected)
    if (!names.count(name) && name != names::kExpertHead)
      missing.push_back(str(name, " ", shape_text(tensor.shape)));
  for (const auto& [name, stored] : names) {
    const auto it = expected.find(name);
    const TensorInfo& found = file.tensors().at(stored);
    if (it == expected.end())
      unexpected.push_back(str(stored, " ", shape_text(found.shape)));
    else if (it->second.shape != found.shape)
      misshapen.push_back(
          str(stored, " ", shape_text(found.shape), ", expected ", shape_text(it->second.shape)));
    else if (!is_weight_type(found.dtype))
      misshapen.push_back(
          str(stored, " has type ", torch::toString(found.dtype), ", expected a floating type"));
  }
  if (missing.empty() && unexpected.empty() && misshapen.empty()) return;
  throw CorruptError(str(folder.string(), ": the weights are not those of a ", enum_name(config.kind),
                         " policy with ", config.depth(), " layers", list_text("missing", missing),
                         list_text("unexpected", unexpected), list_text("misshapen", misshapen)));
}

std::string source_name(const std::string& name, const std::vector<std::int64_t>& kept) {
  if (kept.empty()) return name;
  for (const std::string& prefix : {names::kBackboneLayers, names::kExpertLayers}) {
    if (!name.starts_with(prefix)) continue;
    const std::size_t end = name.find('.', prefix.size());
    const auto layer = std::stoul(name.substr(prefix.size(), end - prefix.size()));
    return str(prefix, kept.at(layer), name.substr(end));
  }
  return name;
}

PolicyConfig infer_config_of(const std::filesystem::path& folder, const Shapes& shapes, std::int64_t heads,
                             std::int64_t vision_heads) {
  try {
    return infer_config(shapes, heads, vision_heads);
  } catch (const CorruptError& error) {
    throw CorruptError(str(folder.string(), ": ", error.what()));
  }
}

}  // namespace checkpoint
}  // namespace shallowpi
