#include "shallowpi/base/safetensors.h"

#include <fcntl.h>
#include <torch/torch.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/safetensors_header.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace fs = std::filesystem;
namespace {

static_assert(std::endian::native == std::endian::little,
              "the format is little-endian, and bytes are copied as they are");

constexpr std::size_t kLengthBytes = 8;
constexpr std::size_t kBlockBytes = std::size_t{16} << 20;

/// Any byte but 0 and 1 in a C++ bool is undefined behaviour; the format does not forbid them.
void clean_booleans(char* bytes, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) bytes[i] = bytes[i] != 0;
}

void check_name(const SafetensorsFile& file, const std::string& name) {
  if (!file.contains(name)) throw UsageError(str(file.path().string(), ": has no tensor ", in_quotes(name)));
}

/// Name, dtype, shape and offsets of the planned tensors in the order of the file.
std::vector<std::pair<std::string, TensorInfo>> lay_out(const fs::path& path, const TensorPlan& plan) {
  std::vector<std::pair<std::string, TensorInfo>> layout;
  for (const auto& [name, tensor] : plan) {
    if (!safetensors_rank(tensor.dtype))
      throw UsageError(
          str(path.string(), ": tensor ", in_quotes(name), " has no dtype that the format knows"));
    if (has_control_character(name))
      throw UsageError(
          str(path.string(), ": the tensor name ", in_quotes(name), " holds a control character"));
    if (name == "__metadata__") throw UsageError(path.string() + ": a tensor cannot be called __metadata__");
    layout.push_back({name, {tensor.dtype, tensor.shape, 0, 0}});
  }
  // The plan is sorted by name already, and the sort keeps that order among equal dtypes.
  std::stable_sort(layout.begin(), layout.end(), [](const auto& a, const auto& b) {
    return safetensors_rank(a.second.dtype) > safetensors_rank(b.second.dtype);
  });
  std::uint64_t offset = 0;
  for (auto& [name, info] : layout) {
    info.begin = offset;
    info.end = offset +=
        torch::elementSize(info.dtype) * static_cast<std::uint64_t>(c10::multiply_integers(info.shape));
  }
  return layout;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const fs::path& path) : file_(open_file(path, O_RDONLY)) {
  const std::uint64_t file_bytes = file_.size();
  std::uint64_t header_bytes = 0;
  if (file_bytes < kLengthBytes || !file_.read_at(&header_bytes, kLengthBytes, 0))
    throw CorruptError(str(path.string(), ": too short for a safetensors file (", file_bytes, " bytes)"));
  if (std::memcmp(&header_bytes, "version ", kLengthBytes) == 0)
    throw CorruptError(str(path.string(),
                           ": is a Git LFS pointer and not the weights; run `git lfs pull` in its "
                           "repository, or download the file itself"));
  if (header_bytes > kMaxSafetensorsHeader)
    throw CorruptError(str(path.string(), ": the header claims ", header_bytes,
                           " bytes, more than the 100 MB that the format allows; not a safetensors file?"));
  if (header_bytes > file_bytes - kLengthBytes)
    throw CorruptError(str(path.string(), ": the header claims ", header_bytes, " bytes, but only ",
                           file_bytes - kLengthBytes, " follow; the file is truncated"));
  std::string text(header_bytes, '\0');
  data_start_ = kLengthBytes + header_bytes;
  if (!file_.read_at(text.data(), text.size(), kLengthBytes))
    throw CorruptError(path.string() + ": became shorter while it was read");
  SafetensorsHeader header = parse_safetensors_header(text, file_bytes - data_start_, path.string());
  tensors_ = std::move(header.tensors);
  metadata_ = std::move(header.metadata);
}

void SafetensorsFile::read_bytes(const TensorInfo& info, std::uint64_t skip, char* to,
                                 std::size_t size) const {
  if (!file_.read_at(to, size, data_start_ + info.begin + skip))
    throw CorruptError(path().string() + ": became shorter since it was opened");
  if (info.dtype == torch::kBool) clean_booleans(to, size);
}

torch::Tensor SafetensorsFile::read(const std::string& name) const {
  check_name(*this, name);
  const TensorInfo& info = tensors_.at(name);
  torch::Tensor tensor = torch::empty(info.shape, torch::TensorOptions().dtype(info.dtype));
  read_bytes(info, 0, static_cast<char*>(tensor.data_ptr()), info.end - info.begin);
  return tensor;
}

void SafetensorsFile::read_into(const std::string& name, torch::Tensor destination) const {
  check_name(*this, name);
  const TensorInfo& info = tensors_.at(name);
  if (destination.sizes() != info.shape)
    throw UsageError(str(path().string(), ": tensor ", in_quotes(name), " has shape ", shape_text(info.shape),
                         ", but ", shape_text(destination.sizes().vec()), " was expected"));
  const torch::NoGradGuard no_grad;
  if (!destination.is_contiguous()) {
    destination.copy_(read(name));
    return;
  }
  const bool straight = destination.is_cpu() && destination.scalar_type() == info.dtype;
  if (straight) return read_bytes(info, 0, static_cast<char*>(destination.data_ptr()), info.end - info.begin);
  const auto element = static_cast<std::int64_t>(torch::elementSize(info.dtype));
  const std::int64_t block = std::min<std::int64_t>(destination.numel(), std::int64_t{kBlockBytes} / element);
  const torch::Tensor buffer = torch::empty({block}, torch::TensorOptions().dtype(info.dtype));
  const torch::Tensor flat = destination.view(-1);
  for (std::int64_t done = 0; done < flat.numel(); done += block) {
    const std::int64_t count = std::min(block, flat.numel() - done);
    read_bytes(info, static_cast<std::uint64_t>(done * element), static_cast<char*>(buffer.data_ptr()),
               static_cast<std::size_t>(count * element));
    flat.narrow(0, done, count).copy_(buffer.narrow(0, 0, count));
  }
}

void write_safetensors(const fs::path& path, const TensorPlan& plan,
                       const std::map<std::string, std::string>& metadata) {
  const std::vector<std::pair<std::string, TensorInfo>> layout = lay_out(path, plan);
  const std::string header = safetensors_header_text(layout, metadata, path.string());
  const std::uint64_t header_bytes = header.size();
  char length[kLengthBytes];
  std::memcpy(length, &header_bytes, kLengthBytes);
  const FileDescriptor file = open_file(path, O_WRONLY | O_CREAT | O_TRUNC);
  file.write({length, kLengthBytes});
  file.write(header);
  for (const auto& [name, info] : layout) {
    const torch::Tensor tensor = plan.at(name).read();
    if (tensor.sizes() != info.shape)
      throw Error(str(path.string(), ": tensor ", in_quotes(name), " became ",
                      shape_text(tensor.sizes().vec()), " instead of ", shape_text(info.shape)));
    const torch::Tensor plain =
        tensor.detach().to(torch::kCPU, info.dtype).resolve_conj().resolve_neg().contiguous();
    file.write({static_cast<const char*>(plain.data_ptr()), plain.nbytes()});
  }
  file.sync();
}

void write_safetensors(const fs::path& path, const NamedTensors& tensors,
                       const std::map<std::string, std::string>& metadata) {
  TensorPlan plan;
  for (const auto& [name, tensor] : tensors) {
    if (!tensor.defined())
      throw UsageError(str(path.string(), ": tensor ", in_quotes(name), " is undefined"));
    plan[name] = {tensor.scalar_type(), tensor.sizes().vec(), [&tensor = tensor] { return tensor; }};
  }
  write_safetensors(path, plan, metadata);
}

void save_safetensors(const fs::path& path, const NamedTensors& tensors,
                      const std::map<std::string, std::string>& metadata) {
  write_named_file(path, [&](const fs::path& to) { write_safetensors(to, tensors, metadata); });
}

NamedTensors load_safetensors(const fs::path& path) {
  const SafetensorsFile file(path);
  NamedTensors tensors;
  for (const auto& [name, info] : file.tensors()) tensors.emplace(name, file.read(name));
  return tensors;
}

}  // namespace shallowpi
