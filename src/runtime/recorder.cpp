#include "runtime/recorder.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <exception>
#include <utility>

#include "shallowpi/base/error.h"
#include "shallowpi/base/log.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

// A file is as large as one of these allows, and no answer waits longer in memory.
constexpr std::size_t kMaxAnswers = 64, kMaxBytes = std::size_t{64} << 20;
constexpr double kMaxSeconds = 30;
constexpr std::uintmax_t kSpaceLeft = std::uintmax_t{1} << 30;  // bytes of the disk that others need

double unix_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

/// "20261128T122000_4711": UTC and the process, so that no two servers write the same file.
std::string name_of_run() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[sizeof "20261128T122000"];
  std::strftime(text, sizeof text, "%Y%m%dT%H%M%S", &utc);
  return str(text, "_", getpid());
}

void write(const std::filesystem::path& path, const std::vector<RecordedAnswer>& answers, double control_hz) {
  if (std::filesystem::space(path.parent_path()).available < kSpaceLeft)
    throw IoError(str("less than 1 GiB is free on the disk of ", path.parent_path().string()));
  save_recording(path, answers, control_hz);
}

/// Whether two answers can stand in one file.
bool alike(const RecordedAnswer& a, const RecordedAnswer& b) {
  const auto same_camera = [](const auto& one, const auto& other) { return one.first == other.first; };
  return std::ranges::equal(a.observation.images, b.observation.images, same_camera) &&
         a.observation.state.size() == b.observation.state.size() && a.actions.size() == b.actions.size();
}

}  // namespace

Recorder::Recorder(std::filesystem::path folder, double control_hz)
    : folder_(std::move(folder)), control_hz_(control_hz), run_(name_of_run()) {
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  if (!std::filesystem::is_directory(folder_))
    throw IoError(str("--record: cannot make the folder ", folder_.string(),
                      error ? str(" (", error.message(), ")") : ""));
}

Recorder::~Recorder() {
  try {
    writing_.wait();
    if (!answers_.empty()) write(next_path(), answers_, control_hz_);
    log::info("recorded ", files_, " files: ", (folder_ / run_).string(), "_*.safetensors");
  } catch (const std::exception& error) {
    log::warning("the last answers are not recorded: ", error.what());
  }
}

void Recorder::add(RobotObservation observation, const RobotActions& actions) {
  if (ended_) return;
  RecordedAnswer answer{std::move(observation), actions, unix_seconds()};
  if (!answers_.empty() && (!alike(answers_.front(), answer) || answers_.size() >= kMaxAnswers ||
                            bytes_ >= kMaxBytes || answer.time_s - answers_.front().time_s > kMaxSeconds))
    start_writing();
  for (const auto& [camera, image] : answer.observation.images) bytes_ += image.bytes.size();
  answers_.push_back(std::move(answer));
}

std::filesystem::path Recorder::next_path() {
  const std::string number = std::to_string(10000 + files_++).substr(1);  // in the order of their names
  return folder_ / str(run_, "_", number, ".safetensors");
}

void Recorder::start_writing() {
  try {
    writing_.check();
    if (writing_.running())
      log::warning("recording: the disk is slower than the robots; ", answers_.size(), " answers are lost");
    else
      writing_.start([path = next_path(), answers = std::move(answers_), hz = control_hz_] {
        write(path, answers, hz);
      });
  } catch (const std::exception& error) {
    log::warning("recording has ended: ", error.what());
    ended_ = true;
  }
  answers_.clear();
  bytes_ = 0;
}

}  // namespace shallowpi
