// MP4 files through ffmpeg.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string_view>
#include <vector>

namespace shallowpi {

/// Throws UsageError where there is no ffmpeg.
void require_ffmpeg();

/// One file, encoded while it is written. Dropped without finish(), nothing is left behind.
class VideoWriter {
 public:
  /// Frames are RGB, height x width.
  VideoWriter(std::filesystem::path file, std::int64_t width, std::int64_t height, double frames_per_second);
  ~VideoWriter();
  VideoWriter(const VideoWriter&) = delete;
  VideoWriter& operator=(const VideoWriter&) = delete;
  void write(std::string_view frames);
  /// Under its final name, which `file` may change.
  void finish(const std::filesystem::path& file);

 private:
  std::filesystem::path temporary_;
  std::FILE* pipe_ = nullptr;
};

/// Plays all next to each other, each at its own speed, until the longest ends.
void write_side_by_side(const std::vector<std::filesystem::path>& files, const std::filesystem::path& out);

}  // namespace shallowpi
