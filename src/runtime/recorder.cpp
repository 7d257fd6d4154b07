#include "runtime/recorder.h"

#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <exception>
#include <random>
#include <utility>

#include "shallowpi/base/error.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/log.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

double unix_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

/// "20261128T122000_3fa9c1": UTC, and a number that no other server has.
std::string name_of_run() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  std::array<char, 32> time{}, number{};
  std::strftime(time.data(), time.size(), "%Y%m%dT%H%M%S", &utc);
  std::snprintf(number.data(), number.size(), "%06x", std::random_device()() & 0xffffffu);
  return str(time.data(), "_", number.data());
}

void check_space(const std::filesystem::path& folder, std::uintmax_t least) {
  if (std::filesystem::space(folder).available < least)
    throw IoError(
        str("recording: less than ", human_bytes(least), " is free on the disk of ", folder.string()));
}

}  // namespace

void prepare_recording_folder(const std::filesystem::path& folder, std::uintmax_t least_free) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (!std::filesystem::is_directory(folder) || ::access(folder.c_str(), W_OK) != 0)
    throw IoError(str("--record: cannot write in the folder ", folder.string(),
                      error ? str(" (", error.message(), ")") : ""));
  remove_stale_temporaries(folder);
  check_space(folder, least_free);
}

Recorder::Recorder(std::filesystem::path folder, double control_hz, RecorderOptions options)
    : folder_(std::move(folder)),
      control_hz_(control_hz),
      options_(options),
      run_(name_of_run()),
      thread_([this] { work(); }) {}

Recorder::~Recorder() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void Recorder::add(RobotObservation observation, const RobotActions& actions) {
  std::string cameras;
  std::size_t bytes = 0;
  for (const auto& [camera, image] : observation.images) {
    cameras += camera + " ";
    bytes += image.bytes.size();
  }
  const std::lock_guard lock(mutex_);
  if (failed_) return;
  Batch& batch = collected_[cameras];
  batch.answers.push_back({std::move(observation), actions, unix_seconds()});
  batch.bytes += bytes;
  if (batch.answers.size() < options_.max_answers && batch.bytes < options_.max_bytes) return;
  if (waiting_.size() >= options_.max_waiting) {
    log::warning("recording: the disk is slower than the robots; ", batch.answers.size(),
                 " answers are lost");
    batch = {};
    return;
  }
  finish(batch);
  changed_.notify_one();
}

void Recorder::finish(Batch& batch) {
  waiting_.push_back(std::exchange(batch, {}));
}

/// Files that wait for more answers, but have waited long enough or will get none.
void Recorder::finish_old() {
  const double now = unix_seconds();
  for (auto& [cameras, batch] : collected_)
    if (!batch.answers.empty() && (ending_ || now - batch.answers.front().time_s >= options_.max_seconds))
      finish(batch);
}

void Recorder::work() {
  std::unique_lock lock(mutex_);
  while (!failed_) {
    if (waiting_.empty()) finish_old();
    if (waiting_.empty()) {
      if (ending_) break;
      changed_.wait_for(lock, std::chrono::seconds(1));
      continue;
    }
    const Batch batch = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    std::string failure;
    try {
      write(batch.answers);
    } catch (const std::exception& error) {
      failure = error.what();
    }
    lock.lock();
    if (failure.empty()) continue;
    log::warning("recording has ended: ", failure);
    failed_ = true;
    collected_.clear();
    waiting_.clear();
  }
  if (files_ > 0) log::info("recorded in ", (folder_ / run_).string(), "_*.safetensors: ", files_, " files");
}

void Recorder::write(const std::vector<RecordedAnswer>& answers) {
  check_space(folder_, options_.least_free);
  std::string number = std::to_string(files_);
  number.insert(0, number.size() < 6 ? 6 - number.size() : 0, '0');  // names sort in the order of time
  const std::size_t cameras = answers.front().observation.images.size();
  save_recording(folder_ / str(run_, "_", cameras, "cameras_", number, ".safetensors"), answers, control_hz_);
  ++files_;
}

}  // namespace shallowpi
