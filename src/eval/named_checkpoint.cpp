#include "eval/named_checkpoint.h"

#include "eval/labelled_path.h"

namespace shallowpi {

Named read_named(const std::string& text, const OfflineOptions& options) {
  const LabelledPath labelled = read_labelled_path(text);
  return {labelled.label, read_checkpoint_info(labelled.path, options.horizon)};
}

}  // namespace shallowpi
