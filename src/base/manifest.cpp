#include "shallowpi/base/manifest.h"

#include <fcntl.h>
#include <openssl/evp.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <iterator>
#include <memory>
#include <system_error>
#include <thread>
#include <vector>

#include "shallowpi/base/error.h"
#include "shallowpi/base/file_descriptor.h"
#include "shallowpi/base/json.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace fs = std::filesystem;
namespace {

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    check(context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
  }
  void update(std::string_view bytes) {
    check(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1);
  }
  std::string hex() {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    check(EVP_DigestFinal_ex(context_.get(), digest, &size) == 1);
    std::string text;
    for (unsigned int i = 0; i < size; ++i) {
      text += "0123456789abcdef"[digest[i] >> 4];
      text += "0123456789abcdef"[digest[i] & 15];
    }
    return text;
  }

 private:
  static void check(bool ok) {
    if (!ok) throw Error("libcrypto cannot compute SHA-256");
  }
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

/// Every regular file below `folder`, as sorted relative paths. Links and devices have no place in a
/// published folder.
std::vector<fs::path> files_below(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_symlink() || !(entry.is_regular_file() || entry.is_directory()))
      throw Error(str(entry.path().string(), ": only plain files and folders can be published"));
    if (entry.is_regular_file()) files.push_back(entry.path().lexically_relative(folder));
  }
  std::sort(files.begin(), files.end());
  return files;
}

/// A path of the manifest that stays within the folder.
void check_manifest_name(const fs::path& file, const fs::path& manifest) {
  const bool leaves =
      std::any_of(file.begin(), file.end(), [](const fs::path& part) { return part == ".."; });
  if (file.empty() || file.is_absolute() || leaves)
    throw CorruptError(
        str(manifest.string(), ": the file name ", in_quotes(file.string()), " leaves the folder"));
}

/// One file of a manifest.
struct Listed {
  fs::path file;
  std::int64_t bytes = 0;
  std::string hash;
};

void check_listed(const Listed& listed) {
  const std::string file = listed.file.string();
  if (!fs::is_regular_file(listed.file))
    throw CorruptError(str(file, ": listed in manifest.json, but missing"));
  const auto found = static_cast<std::int64_t>(open_file(listed.file, O_RDONLY).size());
  if (found != listed.bytes)
    throw CorruptError(str(file, ": has ", found, " bytes, but manifest.json says ", listed.bytes));
  if (sha256_file(listed.file) != listed.hash)
    throw CorruptError(str(file, ": its SHA-256 is not the one in manifest.json; the file was changed"));
}

/// Checks several files at once where that is worth a thread. Throws what is wrong with the first bad one.
void check_all(const std::vector<Listed>& files) {
  constexpr std::int64_t kBytesPerThread = std::int64_t{64} << 20;
  std::vector<std::exception_ptr> failures(files.size());
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t i = next++; i < files.size(); i = next++) {
      try {
        check_listed(files[i]);
      } catch (...) {
        failures[i] = std::current_exception();
        next = files.size();  // those before it are being checked already
      }
    }
  };
  std::int64_t bytes = 0;
  for (const Listed& listed : files)
    bytes += std::clamp<std::int64_t>(listed.bytes, 0, std::int64_t{1} << 40);
  const auto cores = static_cast<std::int64_t>(std::max(std::thread::hardware_concurrency(), 1u));
  const std::int64_t useful = std::min<std::int64_t>(bytes / kBytesPerThread, std::ssize(files));
  std::vector<std::jthread> helpers;
  try {
    for (std::int64_t i = 1; i < std::min(cores, useful); ++i) helpers.emplace_back(work);
  } catch (const std::system_error&) {  // no more threads for this user: then with fewer
  }
  work();
  helpers.clear();
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

}  // namespace

std::string sha256(std::string_view bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.hex();
}

std::string sha256_file(const fs::path& path) {
  const FileDescriptor file = open_file(path, O_RDONLY);
  Sha256 hash;
  std::string block(1 << 20, '\0');
  while (const std::size_t got = file.read(block.data(), block.size())) hash.update({block.data(), got});
  return hash.hex();
}

void write_manifest(const fs::path& folder) {
  Json files = Json::object();
  for (const auto& file : files_below(folder)) {
    open_file(folder / file, O_RDONLY).sync();
    files[file.generic_string()] = {{"sha256", sha256_file(folder / file)},
                                    {"bytes", fs::file_size(folder / file)}};
  }
  const FileDescriptor out = open_file(folder / kManifest, O_WRONLY | O_CREAT | O_EXCL);
  out.write(Json{{"files", files}}.dump(2) + "\n");
  out.sync();
}

bool verify_manifest(const fs::path& folder, const std::string& optional, OptionalFiles which) {
  const fs::path manifest = folder / kManifest;
  std::error_code ignored;
  if (!fs::is_regular_file(manifest, ignored))
    throw CorruptError(str(folder.string(), ": has no manifest.json, so it was not completely written"));
  const auto files = json_get<Json>(read_json(manifest), "files", manifest.string());
  if (!files.is_object()) throw CorruptError(str(manifest.string(), ": \"files\" must be an object"));
  const bool missing = !optional.empty() && !fs::exists(folder / optional);
  const bool may_skip = missing || (!optional.empty() && which == OptionalFiles::kUnchecked);
  bool skipped = false;
  std::vector<Listed> listed;
  for (const auto& [name, entry] : files.items()) {
    check_manifest_name(name, manifest);
    if (may_skip && name.starts_with(optional + "/")) {
      skipped = missing;
      continue;
    }
    const auto bytes = json_get<std::int64_t>(entry, "bytes", str(manifest.string(), ": ", name));
    listed.push_back(
        {folder / name, bytes, json_get<std::string>(entry, "sha256", str(manifest.string(), ": ", name))});
  }
  check_all(listed);
  return skipped;
}

}  // namespace shallowpi
