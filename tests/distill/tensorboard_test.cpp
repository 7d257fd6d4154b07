#include "distill/tensorboard.h"

#include <bit>
#include <cstring>

#include "test_util.h"

namespace shallowpi {
namespace {

using testing::TempDir;

TEST(Crc32c, EqualsTheKnownValues) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);  // RFC 3720, B.4
  EXPECT_EQ(crc32c(""), 0u);
}

template <typename T>
T take(std::string_view& bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  bytes.remove_prefix(sizeof value);
  return value;
}

std::uint32_t unmask(std::uint32_t masked) {
  return std::rotl(masked - 0xa282ead8u, 15);
}

// The records of an event file, framing and checksums checked.
std::vector<std::string> read_records(const std::filesystem::path& path) {
  const std::string file = read_file(path);
  std::string_view bytes = file;
  std::vector<std::string> records;
  while (!bytes.empty()) {
    const std::string_view length_bytes = bytes.substr(0, 8);
    const auto length = take<std::uint64_t>(bytes);
    EXPECT_EQ(unmask(take<std::uint32_t>(bytes)), crc32c(length_bytes));
    records.emplace_back(bytes.substr(0, length));
    bytes.remove_prefix(length);
    EXPECT_EQ(unmask(take<std::uint32_t>(bytes)), crc32c(records.back()));
  }
  return records;
}

std::uint64_t take_varint(std::string_view& bytes) {
  std::uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    const auto byte = take<std::uint8_t>(bytes);
    value |= std::uint64_t{byte & 0x7fu} << shift;
    if (!(byte & 0x80)) return value;
  }
}

// One protobuf message as field number -> raw values.
std::map<int, std::vector<std::string>> parse(std::string_view bytes) {
  std::map<int, std::vector<std::string>> fields;
  while (!bytes.empty()) {
    const std::uint64_t key = take_varint(bytes);
    std::size_t size = 0;
    switch (key & 7) {
      case 0:
        fields[int(key >> 3)].push_back(str(take_varint(bytes)));
        continue;
      case 1:
        size = 8;
        break;
      case 2:
        size = take_varint(bytes);
        break;
      case 5:
        size = 4;
        break;
      default:
        ADD_FAILURE() << "wire type " << (key & 7);
        return fields;
    }
    fields[int(key >> 3)].emplace_back(bytes.substr(0, size));
    bytes.remove_prefix(size);
  }
  return fields;
}

TEST(EventWriter, WritesScalarsThatParseBack) {
  TempDir dir;
  EventWriter writer(dir / "tensorboard", 0);
  writer.add_scalars(300, {{"loss", 0.25}, {"lr", 1e-5}});
  const auto records = read_records(writer.path());
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(parse(records[0]).at(3).at(0), "brain.Event:2");
  const auto event = parse(records[2]);
  EXPECT_EQ(event.at(2).at(0), "300");
  const auto values = parse(event.at(5).at(0)).at(1);
  ASSERT_EQ(values.size(), 2u);
  EXPECT_EQ(parse(values[0]).at(1).at(0), "loss");
  EXPECT_EQ(std::bit_cast<float>([&] {
              std::uint32_t bits;
              std::memcpy(&bits, parse(values[0]).at(2).at(0).data(), 4);
              return bits;
            }()),
            0.25f);
  EXPECT_NE(writer.path().filename().string().find("events.out.tfevents."), std::string::npos);
}

TEST(EventWriter, SaysWhereARunStarts) {
  for (const std::int64_t first_step : {0, 40}) {  // 0: also after a kill before the first checkpoint
    TempDir dir;
    EventWriter writer(dir / "tensorboard", first_step);
    const auto records = read_records(writer.path());
    ASSERT_EQ(records.size(), 2u);
    EXPECT_EQ(parse(records[1]).at(2).at(0), str(first_step + 1)) << "what was logged before stays";
    EXPECT_EQ(parse(parse(records[1]).at(7).at(0)).at(1).at(0), "1");
  }
}

}  // namespace
}  // namespace shallowpi
