// The safetensors format: a reader that validates before it reads, and a writer
// whose bytes are deterministic.
//
// Everything the format forbids is refused by name (CorruptError): a header that is too long or not a JSON
// object, unknown dtypes, offsets that overlap, leave holes or run past the end, shape x dtype != bytes,
// overflow, duplicate names, truncated files.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "shallowpi/base/file_descriptor.h"

namespace shallowpi {

/// What the header says of one tensor.
struct TensorInfo {
  torch::Dtype dtype;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0;  ///< byte offset in the data part
  std::uint64_t end = 0;
};

/// One open file. The header is validated in the constructor; data is read on demand. Reading is safe from
/// several threads.
class SafetensorsFile {
 public:
  /// Throws IoError (cannot be opened) or CorruptError.
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_.path(); }
  const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool contains(const std::string& name) const { return tensors_.count(name) != 0; }

  /// A new CPU tensor of the file's dtype and shape. Throws UsageError where there is no such tensor.
  torch::Tensor read(const std::string& name) const;
  /// Reads straight into `destination` (any dtype, device; same shape), converting block by block where
  /// needed, so that no second copy of the tensor is ever held.
  void read_into(const std::string& name, torch::Tensor destination) const;

 private:
  void read_bytes(const TensorInfo& info, std::uint64_t skip, char* to, std::size_t size) const;

  FileDescriptor file_;
  std::map<std::string, TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
  std::uint64_t data_start_ = 0;
};

/// A checkpoint's weights: the file kFile, or the shards that kIndex names. Same
/// reading interface as one file.
class SafetensorsFolder {
 public:
  static constexpr const char* kFile = "model.safetensors";
  static constexpr const char* kIndex = "model.safetensors.index.json";
  /// Whether `folder` holds one of the two.
  static bool exists(const std::filesystem::path& folder);

  /// Throws UsageError where the folder holds neither, CorruptError where index and shards disagree.
  explicit SafetensorsFolder(const std::filesystem::path& folder);

  /// Every tensor of every shard.
  const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }
  bool contains(const std::string& name) const { return tensors_.count(name) != 0; }
  torch::Tensor read(const std::string& name) const;
  void read_into(const std::string& name, torch::Tensor destination) const;
  const std::vector<std::filesystem::path>& files() const { return paths_; }

 private:
  const SafetensorsFile& shard_of(const std::string& name) const;
  std::vector<std::filesystem::path> paths_;
  std::vector<SafetensorsFile> shards_;
  std::map<std::string, std::size_t> shard_index_;
  std::map<std::string, TensorInfo> tensors_;
};

using NamedTensors = std::map<std::string, torch::Tensor>;

/// A tensor of a file that is being written; `read` is called when its turn comes and the result is released
/// at once, so that a file of any size is written with one tensor in memory.
struct PlannedTensor {
  torch::Dtype dtype;
  std::vector<std::int64_t> shape;
  std::function<torch::Tensor()> read;  ///< any dtype and device; the shape must be `shape`
};
using TensorPlan = std::map<std::string, PlannedTensor>;

/// Writes a file (not atomically: call within publish_folder, or use save_safetensors). Tensors are laid out
/// by descending dtype size, then name, as Python's safetensors does; the header is padded to 8 bytes.
/// Fsyncs. Throws UsageError for a name or dtype that the format does not allow.
void write_safetensors(const std::filesystem::path& path, const TensorPlan& plan,
                       const std::map<std::string, std::string>& metadata = {});
void write_safetensors(const std::filesystem::path& path, const NamedTensors& tensors,
                       const std::map<std::string, std::string>& metadata = {});
/// Writes to a temporary file beside `path` and renames it.
void save_safetensors(const std::filesystem::path& path, const NamedTensors& tensors,
                      const std::map<std::string, std::string>& metadata = {});
/// All tensors of one file.
NamedTensors load_safetensors(const std::filesystem::path& path);

}  // namespace shallowpi
