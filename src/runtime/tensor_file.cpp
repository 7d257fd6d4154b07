#include "shallowpi/runtime/tensor_file.h"

#include <functional>
#include <set>

#include "shallowpi/base/error.h"
#include "shallowpi/base/log.h"
#include "shallowpi/base/safetensors.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

using Shape = std::vector<std::int64_t>;
constexpr std::int64_t kAny = -1;  // a size that is not known yet

/// Collects what is wrong with a tensor file instead of stopping at the first problem.
class InputReader {
 public:
  explicit InputReader(const std::filesystem::path& path) : file_(path) {}

  bool has(const std::string& name) const { return file_.contains(name); }
  void know(const std::string& name) { known_.insert(name); }
  std::vector<std::string>& problems() { return problems_; }

  /// The tensor where it exists and has one of the `kinds` and the shape (kAny matches all); else undefined,
  /// with the reason noted.
  torch::Tensor read(const std::string& name, const Shape& shape,
                     const std::function<bool(torch::Dtype)>& kind, std::string_view kind_name) {
    know(name);
    if (!has(name)) {
      problems_.push_back(str(name, " ", expected_text(shape), " is missing"));
      return {};
    }
    const TensorInfo& info = file_.tensors().at(name);
    bool fits = info.shape.size() == shape.size();
    for (std::size_t i = 0; fits && i < shape.size(); ++i)
      fits = shape[i] == kAny || shape[i] == info.shape[i];
    if (!fits)
      problems_.push_back(str(name, " is ", shape_text(info.shape), ", expected ", expected_text(shape)));
    if (!kind(info.dtype))
      problems_.push_back(str(name, " is ", c10::toString(info.dtype), ", expected ", kind_name));
    if (!fits || !kind(info.dtype)) return {};
    return file_.read(name);
  }

  torch::Tensor read_floats(const std::string& name, const Shape& shape) {
    torch::Tensor values = read(
        name, shape, [](torch::Dtype d) { return c10::isFloatingType(d); }, "a float type");
    if (!values.defined()) return {};
    values = values.to(torch::kFloat32);
    if (!torch::isfinite(values).all().item<bool>())
      problems_.push_back(str(name, " holds values that are not finite"));
    return values;
  }

  torch::Tensor read_mask(const std::string& name, const Shape& shape) {
    const auto kind = [](torch::Dtype d) { return d == torch::kBool || c10::isIntegralType(d, false); };
    torch::Tensor mask = read(name, shape, kind, "bool");
    if (!mask.defined()) return {};
    if (mask.scalar_type() != torch::kBool && !((mask == 0) | (mask == 1)).all().item<bool>())
      problems_.push_back(str(name, " holds integers other than 0 and 1"));
    return mask.to(torch::kBool);
  }

  /// An optional input under a misspelt name would silently be replaced by its default.
  void refuse_unknown_names() {
    std::set<std::string> names = known_;
    names.insert({"in.state", "in.actions", "in.noise", "in.time"});
    for (const auto& [name, info] : file_.tensors()) {
      if (!name.starts_with("in.") || names.count(name) > 0) continue;
      const std::string meant = nearest(name, {names.begin(), names.end()});
      problems_.push_back(
          str(in_quotes(name), " is no input", meant.empty() ? "" : str("; did you mean ", meant, "?")));
    }
  }

  void throw_problems() const {
    if (!problems_.empty())
      throw UsageError(str(file_.path().string(), " does not hold the inputs of this policy:\n  ",
                           join(problems_, "\n  "), "\nSee docs/runtime.md for the names and shapes."));
  }

 private:
  static std::string expected_text(const Shape& shape) {
    std::vector<std::string> sizes;
    for (std::int64_t size : shape) sizes.push_back(size == kAny ? "*" : str(size));
    return str("[", join(sizes, ", "), "]");
  }

  SafetensorsFile file_;
  std::vector<std::string> problems_;
  std::set<std::string> known_;
};

void read_images(InputReader& reader, std::int64_t batch, std::int64_t size, Observation& observation) {
  std::int64_t cameras = 0;
  while (reader.has(str("in.image_", cameras))) ++cameras;
  if (cameras == 0) reader.problems().push_back("in.image_0 is missing: a policy needs at least one camera");
  for (std::int64_t k = 0; k < cameras; ++k) {
    torch::Tensor image = reader.read_floats(str("in.image_", k), {batch, 3, size, size});
    const std::string mask_name = str("in.image_mask_", k);
    reader.know(mask_name);
    torch::Tensor mask = reader.has(mask_name)
                             ? reader.read_mask(mask_name, {batch})
                             : torch::ones({std::max<std::int64_t>(batch, 0)}, torch::kBool);
    if (image.defined() && image.numel() > 0 && image.abs().max().item<float>() > 1.01f)
      log::warning("in.image_", k, " has pixels outside [-1, 1]: they should be 2 * value / 255 - 1");
    observation.images_bcyx.push_back(image);
    observation.image_masks_b.push_back(mask);
  }
}

void read_prompt(InputReader& reader, std::int64_t batch, std::int64_t vocab, Observation& observation) {
  const auto kind = [](torch::Dtype d) { return d == torch::kInt32 || d == torch::kInt64; };
  torch::Tensor tokens = reader.read("in.tokens", {batch, kAny}, kind, "int32 or int64");
  torch::Tensor mask = reader.read_mask("in.token_mask", {batch, tokens.defined() ? tokens.size(1) : kAny});
  if (!tokens.defined() || !mask.defined()) return;
  tokens = tokens.to(torch::kInt64);
  if (tokens.numel() > 0 &&
      (tokens.min().item<std::int64_t>() < 0 || tokens.max().item<std::int64_t>() >= vocab))
    reader.problems().push_back(str("in.tokens holds ids from ", tokens.min().item<std::int64_t>(), " to ",
                                    tokens.max().item<std::int64_t>(), ", but the vocabulary is 0 to ",
                                    vocab - 1));
  if (mask.size(1) > 1 && (mask.slice(1, 1) & ~mask.slice(1, 0, -1)).any().item<bool>())
    reader.problems().push_back("in.token_mask has real tokens after padding; real tokens must come first");
  observation.tokens_bt = tokens;
  observation.token_mask_bt = mask;
}

}  // namespace

PolicyInputs PolicyInputs::to(torch::Device device) const {
  const auto move = [&](const torch::Tensor& tensor) {
    return tensor.defined() ? tensor.to(device) : tensor;
  };
  return {observation.to(device), move(actions_bhd), move(noise_bhd), move(time_b)};
}

PolicyInputs read_policy_inputs(const std::filesystem::path& path, const PolicyConfig& config) {
  InputReader reader(path);
  PolicyInputs inputs;
  read_prompt(reader, kAny, config.vocab, inputs.observation);
  const torch::Tensor& tokens = inputs.observation.tokens_bt;
  const std::int64_t batch = tokens.defined() ? tokens.size(0) : kAny;
  if (batch == 0) reader.problems().push_back("in.tokens has a batch of 0");
  read_images(reader, batch, config.vision.image_size, inputs.observation);

  if (reader.has("in.state") || config.kind == PolicyKind::kPi0)
    inputs.observation.state_bd = reader.read_floats("in.state", {batch, config.action_dim});
  else if (batch > 0)
    inputs.observation.state_bd = torch::zeros({batch, config.action_dim});

  std::int64_t horizon = kAny;
  for (auto [name, target] :
       {std::pair{"in.actions", &inputs.actions_bhd}, std::pair{"in.noise", &inputs.noise_bhd}}) {
    if (!reader.has(name)) continue;
    *target = reader.read_floats(name, {batch, horizon, config.action_dim});
    if (target->defined()) horizon = target->size(1);
  }
  if (horizon == 0) reader.problems().push_back("in.actions / in.noise have a horizon of 0");
  if (reader.has("in.time")) inputs.time_b = reader.read_floats("in.time", {batch});
  if (inputs.time_b.defined() && ((inputs.time_b < 0) | (inputs.time_b > 1)).any().item<bool>())
    reader.problems().push_back("in.time holds values outside [0, 1]");
  reader.refuse_unknown_names();
  reader.throw_problems();
  return inputs;
}

}  // namespace shallowpi
