#include "eval/video.h"

#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>

#include "shallowpi/base/error.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace fs = std::filesystem;
namespace {

constexpr const char* kEncoder =
    " -c:v libx264 -preset veryfast -crf 23 -pix_fmt yuv420p -movflags +faststart -f mp4 ";

// yuv420p halves both sides: an odd one gets a black line.
constexpr const char* kEvenSides = " -vf 'pad=ceil(iw/2)*2:ceil(ih/2)*2'";

/// For a shell.
std::string quoted(const fs::path& path) {
  std::string out = "'";
  for (char c : path.string()) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

}  // namespace

void require_ffmpeg() {
  if (std::system("ffmpeg -version >/dev/null 2>&1") != 0)
    throw UsageError("videos need ffmpeg, which is not installed: apt-get install ffmpeg");
}

VideoWriter::VideoWriter(fs::path file, std::int64_t width, std::int64_t height, double frames_per_second)
    : temporary_(temporary_path(file)) {
  fs::create_directories(file.parent_path());
  // A session of its own: Ctrl-C is for this program. Where ffmpeg dies, the write says so.
  std::signal(SIGPIPE, SIG_IGN);
  const std::string command =
      str("exec setsid ffmpeg -loglevel error -y -f rawvideo -pix_fmt rgb24 -s ", width, "x", height, " -r ",
          frames_per_second, " -i -", kEvenSides, kEncoder, quoted(temporary_));
  pipe_ = ::popen(command.c_str(), "we");
  if (pipe_ == nullptr) throw IoError(str("cannot start ffmpeg for ", file.string()));
}

VideoWriter::~VideoWriter() {
  if (pipe_ != nullptr) ::pclose(pipe_);
  std::error_code ignored;
  fs::remove(temporary_, ignored);
}

void VideoWriter::write(std::string_view frames) {
  if (std::fwrite(frames.data(), 1, frames.size(), pipe_) != frames.size())
    throw IoError(str("ffmpeg stopped while it wrote ", temporary_.string()));
}

void VideoWriter::finish(const fs::path& file) {
  const int status = ::pclose(pipe_);
  pipe_ = nullptr;
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    throw IoError(str("ffmpeg could not write ", file.string()));
  fs::rename(temporary_, file);
}

void write_side_by_side(const std::vector<fs::path>& files, const fs::path& out) {
  fs::create_directories(out.parent_path());
  std::string command = "ffmpeg -nostdin -loglevel error -y", filter;
  for (std::size_t i = 0; i < files.size(); ++i) {
    command += " -i " + quoted(files[i]);
    // One height; a policy that is done shows its last frame while the others go on.
    filter += str("[", i, ":v]scale=-2:256:flags=neighbor,tpad=stop_mode=clone:stop=-1[v", i, "];");
  }
  for (std::size_t i = 0; i < files.size(); ++i) filter += str("[v", i, "]");
  filter += str("hstack=inputs=", files.size());
  double longest = 0;
  for (const fs::path& file : files) {
    std::FILE* probe =
        ::popen(("ffprobe -v error -show_entries format=duration -of csv=p=0 " + quoted(file)).c_str(), "re");
    if (probe == nullptr) throw IoError("cannot start ffprobe");
    double seconds = 0;
    if (std::fscanf(probe, "%lf", &seconds) == 1) longest = std::max(longest, seconds);
    ::pclose(probe);
  }
  write_atomically(out, [&](const fs::path& to) {
    const std::string whole =
        str(command, " -filter_complex '", filter, "' -t ", longest, kEncoder, quoted(to));
    if (std::system(whole.c_str()) != 0) throw IoError(str("ffmpeg could not write ", out.string()));
  });
}

}  // namespace shallowpi
