#include "distill/tensorboard.h"

#include <unistd.h>

#include <bit>
#include <boost/crc.hpp>
#include <chrono>
#include <cstring>

#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

// TFRecord stores CRCs rotated and shifted, so that a CRC over data that holds CRCs stays meaningful.
std::uint32_t masked(std::uint32_t crc) {
  return std::rotr(crc, 15) + 0xa282ead8u;
}

template <typename T>
std::string little_endian(T value) {
  static_assert(std::endian::native == std::endian::little);
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

// Protobuf's wire format: a field is a varint key (number << 3 | wire type) and its value.
std::string varint(std::uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}
std::string varint_field(int number, std::uint64_t value) {
  return varint(static_cast<std::uint64_t>(number) << 3) + varint(value);
}
std::string double_field(int number, double value) {
  return varint(static_cast<std::uint64_t>(number) << 3 | 1) + little_endian(value);
}
std::string float_field(int number, float value) {
  return varint(static_cast<std::uint64_t>(number) << 3 | 5) + little_endian(value);
}
std::string bytes_field(int number, std::string_view value) {
  return varint(static_cast<std::uint64_t>(number) << 3 | 2) + varint(value.size()) + std::string(value);
}

// tensorflow.Event: wall_time = 1, step = 2, and one of file_version = 3, summary = 5, session_log = 7.
std::string event(std::int64_t step, const std::string& what) {
  const double now =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  return double_field(1, now) + varint_field(2, static_cast<std::uint64_t>(step)) + what;
}

std::filesystem::path new_event_file(const std::filesystem::path& folder, std::int64_t first_step) {
  std::filesystem::create_directories(folder);
  char host[256] = "host";
  gethostname(host, sizeof host - 1);
  const auto now =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch());
  return folder / str("events.out.tfevents.", now.count(), ".", host, ".", getpid(), ".", first_step);
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  boost::crc_optimal<32, 0x1EDC6F41, 0xFFFFFFFF, 0xFFFFFFFF, true, true> crc;
  crc.process_bytes(bytes.data(), bytes.size());
  return crc.checksum();
}

std::string tfrecord(std::string_view bytes) {
  const std::string length = little_endian(static_cast<std::uint64_t>(bytes.size()));
  return length + little_endian(masked(crc32c(length))) + std::string(bytes) +
         little_endian(masked(crc32c(bytes)));
}

EventWriter::EventWriter(const std::filesystem::path& folder, std::int64_t first_step)
    : file_(new_event_file(folder, first_step)) {
  write(event(0, bytes_field(3, "brain.Event:2")));
  // A session that starts at a step makes TensorBoard drop the older files' events from that step on. Also at
  // the first: a run that was killed before its first checkpoint starts anew.
  constexpr int kSessionStart = 1;
  write(event(first_step + 1, bytes_field(7, varint_field(1, kSessionStart))));
}

void EventWriter::add_scalars(std::int64_t step, const std::vector<std::pair<std::string, double>>& scalars) {
  std::string summary;  // repeated Value value = 1 {tag = 1, simple_value = 2}
  for (const auto& [tag, value] : scalars)
    summary += bytes_field(1, bytes_field(1, tag) + float_field(2, static_cast<float>(value)));
  write(event(step, bytes_field(5, summary)));
}

void EventWriter::write(const std::string& event) {
  file_.append(tfrecord(event));
}

}  // namespace shallowpi
