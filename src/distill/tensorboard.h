// Scalars for TensorBoard: event files written directly (TFRecord framing around hand-encoded protobuf
// messages), as LibTorch brings no writer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "distill/append_file.h"

namespace shallowpi {

/// CRC-32C (Castagnoli) of `bytes`.
std::uint32_t crc32c(std::string_view bytes);

/// One record: length, its masked CRC, the bytes, their masked CRC.
std::string tfrecord(std::string_view bytes);

/// Appends to one new event file in `folder`.
class EventWriter {
 public:
  /// Creates folder and file. Says that the run starts or goes on after `first_step` steps: TensorBoard drops
  /// what an interrupted process wrote beyond them. Throws IoError.
  EventWriter(const std::filesystem::path& folder, std::int64_t first_step);

  void add_scalars(std::int64_t step, const std::vector<std::pair<std::string, double>>& scalars);
  const std::filesystem::path& path() const { return file_.path(); }

 private:
  void write(const std::string& event);
  AppendFile file_;
};

}  // namespace shallowpi
