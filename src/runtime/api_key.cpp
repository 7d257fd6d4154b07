#include "shallowpi/runtime/api_key.h"

#include "shallowpi/base/error.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/log.h"
#include "shallowpi/base/text.h"

namespace shallowpi {

std::string read_api_key(const std::filesystem::path& path) {
  constexpr std::size_t kMinLength = 16;
  if (path.empty()) return {};
  const std::string bytes = read_file(path, 4096);
  const std::string key(trim(bytes));
  if (key.size() < kMinLength || key.find_first_of(" \t\r\n") != std::string::npos)
    throw UsageError(str("--api-key-file ", path.string(), ": expected one word of at least ", kMinLength,
                         " characters, as `openssl rand -hex 32` makes"));
  const auto open = std::filesystem::perms::group_all | std::filesystem::perms::others_all;
  if ((std::filesystem::status(path).permissions() & open) != std::filesystem::perms::none)
    log::warning(path.string(), " can be read by others than its owner: chmod 600");
  return key;
}

}  // namespace shallowpi
