#include "shallowpi/data/readers.h"

#include "data/hdf5_episodes.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"
#include "shallowpi/data/recording.h"

namespace shallowpi {
namespace {

DataFormat layout_of(const hdf5::File& file) {
  if (file.is_group("data")) return DataFormat::kLibero;
  if (file.has("action") || file.is_group("observations")) return DataFormat::kAloha;
  file.fail("the file", "has neither LIBERO's group 'data' nor ALOHA's 'action' and 'observations'",
            "convert it to one of these layouts (docs/data.md)");
}

}  // namespace

std::unique_ptr<EpisodeFile> open_episodes(const std::filesystem::path& path, DataFormat format,
                                           const LiberoOptions& options) {
  const auto check = [&](DataFormat layout) {
    if (format != DataFormat::kAuto && format != layout)
      throw UsageError(str(path.string(), ": data.format is ", enum_name(format),
                           ", but the file looks like ", enum_name(layout), "; leave data.format out"));
  };
  if (path.extension() == ".safetensors") {
    check(DataFormat::kRecording);
    return open_recording(path);
  }
  return std::make_unique<Hdf5Episodes>(path, [&](const hdf5::File& file) {
    const DataFormat layout = layout_of(file);
    check(layout);
    Hdf5Content content = layout == DataFormat::kLibero ? read_libero(file, options) : read_aloha(file);
    content.layout = layout;
    return content;
  });
}

}  // namespace shallowpi
