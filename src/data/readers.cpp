#include "shallowpi/data/readers.h"

#include "data/hdf5_child.h"
#include "data/hdf5_file.h"

namespace shallowpi {

namespace {

DataFormat layout_of(const hdf5::File& file) {
  if (file.is_group("data")) return DataFormat::kLibero;
  if (file.has("action") || file.is_group("observations")) return DataFormat::kAloha;
  file.fail("the file", "has neither LIBERO's group 'data' nor ALOHA's 'action' and 'observations'",
            "convert it to one of these layouts (docs/data.md)");
}

}  // namespace

DataFormat detect_layout(const std::filesystem::path& path) {
  if (path.extension() == ".safetensors") return DataFormat::kRecording;
  return hdf5::in_child(path, [&] { return layout_of(hdf5::File(path)); }).get<DataFormat>();
}

}  // namespace shallowpi
