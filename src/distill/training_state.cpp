#include "distill/training_state.h"

#include <cmath>

#include "distill/run_folder.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

constexpr int kVersion = 1;
constexpr const char* kStateFile = "state.json";
constexpr const char* kTensorFile = "optimizer.safetensors";

// What may be left out: JSON has no infinity, which best_loss starts with, and older states have no digest.
bool representable(double value) {
  return std::isfinite(value);
}
bool representable(const std::string& text) {
  return !text.empty();
}
template <typename T>
bool representable(const T&) {
  return true;
}

}  // namespace

void write_training_state(const std::filesystem::path& folder, const TrainingState& state,
                          const std::string& config, const NamedTensors& tensors) {
  Json json{{"version", kVersion}};
  visit_fields(state, [&](const char* name, const auto& value) {
    if (representable(value)) json[name] = value;
  });
  write_json(folder / kStateFile, json);
  write_file_atomically(folder / kConfigFile, config);
  write_safetensors(folder / kTensorFile, tensors);
}

TrainingState read_training_state(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / kStateFile;
  const Json json = read_json(path);
  if (json_get_or<std::int64_t>(json, "version", 0, path.string()) != kVersion)
    throw CorruptError(str(path.string(), ": not a training state of version ", kVersion));
  TrainingState state;
  visit_fields(state, [&](const char* name, auto& value) {
    if (!json.contains(name)) {
      if (!representable(value)) return;
      throw CorruptError(str(path.string(), ": lacks \"", name, "\""));
    }
    try {
      json.at(name).get_to(value);
    } catch (const Json::exception& error) {
      throw CorruptError(str(path.string(), ": \"", name, "\": ", error.what()));
    }
  });
  return state;
}

void read_training_tensors(const std::filesystem::path& folder, const NamedTensors& tensors) {
  const SafetensorsFile file(folder / kTensorFile);
  std::vector<std::string> problems;
  for (const auto& [name, tensor] : tensors) {
    const auto found = file.tensors().find(name);
    if (found == file.tensors().end()) {
      problems.push_back(str(name, " is missing"));
    } else if (tensor.sizes() != found->second.shape) {
      problems.push_back(str(name, " is ", shape_text(found->second.shape), " instead of ",
                             shape_text(tensor.sizes().vec())));
    }
  }
  for (const auto& [name, info] : file.tensors())
    if (!tensors.count(name)) problems.push_back(str(name, " is unexpected"));
  if (!problems.empty())
    throw CorruptError(str(file.path().string(), " does not fit this run:\n  ", join(problems, "\n  ")));
  for (const auto& [name, tensor] : tensors) file.read_into(name, tensor);
}

}  // namespace shallowpi
