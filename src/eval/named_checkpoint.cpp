#include "eval/named_checkpoint.h"

#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

/// The last part of a path, also of "runs/x/".
std::string own_name(const std::filesystem::path& folder) {
  const std::filesystem::path normal = std::filesystem::absolute(folder).lexically_normal();
  return (normal.has_filename() ? normal : normal.parent_path()).filename().string();
}

}  // namespace

Named read_named(const std::string& text, const OfflineOptions& options) {
  const std::size_t equals = text.find('=');
  const bool labelled = equals != std::string::npos && text.find('/') > equals;
  const std::filesystem::path folder = labelled ? text.substr(equals + 1) : text;
  return {labelled ? text.substr(0, equals) : own_name(folder),
          read_checkpoint_info(folder, options.horizon)};
}

}  // namespace shallowpi
