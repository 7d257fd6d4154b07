#include "runtime/message.h"

#include "test_util.h"

namespace shallowpi {
namespace {

using testing::expect_error;

std::string from_hex(std::string_view hex) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2)
    bytes += static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16));
  return bytes;
}

/// {"a": uint8 [[1, 2]]} and {"f": float32(1.5)} as openpi_client 0.1.2's msgpack_numpy packs them.
const std::string kArray = from_hex(
    "81a16184c40b5f5f6e6461727261795f5fc3c40464617461c4020102c4056474797065a37c7531c40573686170659201"
    "02");
const std::string kScalar =
    from_hex("81a16683c40d5f5f6e7067656e657269635f5fc3c40464617461cb3ff8000000000000c4056474797065a33c6634");

/// kArray with its dtype, data and shape replaced (msgpack of each).
std::string array_message(const std::string& dtype, const std::string& data, const std::string& shape) {
  return from_hex("81a16184c40b5f5f6e6461727261795f5fc3c40464617461") + data + from_hex("c4056474797065") +
         dtype + from_hex("c4057368617065") + shape;
}
std::string text(const std::string& value) {
  return static_cast<char>(0xA0 | value.size()) + value;
}
std::string bin(const std::string& value) {
  return std::string("\xC4") + static_cast<char>(value.size()) + value;
}

void expect_refused(const std::string& bytes, const std::string& part) {
  expect_error<UsageError>([&] { decode_message(bytes); }, part);
}

TEST(Message, ReadsAndWritesArraysAsOpenpiDoes) {
  const WireValue root = decode_message(kArray);
  const WireArray& array = *find(*root.as<WireMap>(), "a")->as<WireArray>();
  EXPECT_EQ(array.kind, 'u');
  EXPECT_EQ(array.shape, (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(array.data, "\x01\x02");
  EXPECT_EQ(array.dtype(), "|u1");
  EXPECT_EQ(encode_message(root), kArray);
}

TEST(Message, ReadsNumpyScalars) {
  const WireValue root = decode_message(kScalar);
  EXPECT_EQ(*find(*root.as<WireMap>(), "f")->as<double>(), 1.5);
}

TEST(Message, WritesADoubleAsOne) {
  for (const double value : {0.0, 5.0, -3.0, 1.5, 0x1p63, 0x1p64, -1e300}) {
    const std::string bytes = encode_message({value});
    EXPECT_EQ(bytes.size(), 9u) << value;
    ASSERT_NE(decode_message(bytes).as<double>(), nullptr) << value;
    EXPECT_EQ(*decode_message(bytes).as<double>(), value);
  }
}

TEST(Message, ReadsNumbersOfEveryKind) {
  const auto number = [](char kind, std::size_t bytes, const std::string& hex) {
    const std::string data = from_hex(hex);
    return WireArray{kind, bytes, {1}, data}.number(0);
  };
  EXPECT_EQ(number('f', 8, "000000000000f83f"), 1.5);
  EXPECT_EQ(number('f', 4, "0000c03f"), 1.5);
  EXPECT_EQ(number('f', 2, "003e"), 1.5);
  EXPECT_EQ(number('i', 8, "feffffffffffffff"), -2);
  EXPECT_EQ(number('i', 4, "feffffff"), -2);
  EXPECT_EQ(number('i', 2, "feff"), -2);
  EXPECT_EQ(number('i', 1, "fe"), -2);
  EXPECT_EQ(number('u', 8, "feffffffffffff7f"), 0x7ffffffffffffffe);
  EXPECT_EQ(number('u', 4, "feffffff"), 4294967294.0);
  EXPECT_EQ(number('u', 2, "feff"), 65534);
  EXPECT_EQ(number('u', 1, "fe"), 254);
  EXPECT_EQ(number('b', 1, "01"), 1);
}

TEST(Message, TurnsIntoJsonAndBack) {
  const Json json = Json::parse(R"({"a": [1, -2, 2.5, null, true], "b": {"c": "text", "d": []}})");
  const std::string bytes = encode_message(to_wire(json));
  EXPECT_EQ(to_json(decode_message(bytes)), json);
  EXPECT_EQ(encode_message(to_wire(Json::object())), "\x80");  // openpi's metadata of LIBERO
  EXPECT_EQ(to_json(decode_message(kArray)).dump(), R"({"a":[[1.0,2.0]]})");
}

TEST(Message, RefusesEveryPrefix) {
  for (const std::string& whole : {kArray, kScalar})
    for (std::size_t size = 0; size < whole.size(); ++size)
      EXPECT_THROW(decode_message(whole.substr(0, size)), UsageError) << size;
}

TEST(Message, SurvivesEveryChangedByte) {
  int accepted = 0;
  for (std::size_t i = 0; i < kArray.size(); ++i)
    for (int value = 0; value < 256; ++value) {
      std::string bytes = kArray;
      bytes[i] = static_cast<char>(value);
      try {
        decode_message(bytes);
        ++accepted;
      } catch (const UsageError&) {
      }
    }
  EXPECT_GT(accepted, 1000);  // other keys and data are as good
}

TEST(Message, RefusesArrayTypesThatAreNotPlainNumbersOrText) {
  for (const std::string& dtype : {"|O", "<V8", "|V8", ">f4", "<c8", "<f3", "<i16", "<M8", "f4", "", "<f",
                                   "<f4x", "<f-4", "<U0", "<U999999999"})
    expect_refused(array_message(text(dtype), bin(std::string(8, '\0')), "\x91\x01"), "a: the array type ");
  expect_refused(array_message(text("|\x1b[2"), bin("12"), "\x91\x02"),
                 R"("|\x1b[2")");  // safe for terminals
}

TEST(Message, RefusesShapesThatContradictTheBytes) {
  const std::string four_bytes = bin("1234");
  const auto refused = [&](const std::string& shape, const std::string& part) {
    expect_refused(array_message(text("<f4"), four_bytes, shape), part);
  };
  refused("\x91\x02", "a: the array of shape [2] and type <f4 has 4 bytes");
  refused(std::string("\x91\x00", 2), "has 4 bytes");
  refused("\x91\xff", "something other than sizes");                                  // -1
  refused(std::string("\x91\xca\x3f\x80\x00\x00", 6), "something other than sizes");  // 1.0
  refused("\x92" + from_hex("cf4000000000000001") + from_hex("cf4000000000000000"),
          "has 4 bytes");  // wraps around
  // Without elements, other sides that multiply beyond 63 bits, or to more rows than there is memory for.
  const auto empty = [&](const std::string& shape) { return array_message(text("|u1"), bin(""), shape); };
  expect_refused(empty("\x93" + from_hex("cf4000000000000000") + from_hex("0200")), "has 0 bytes");
  expect_refused(empty("\x92" + from_hex("cf0000010000000000") + from_hex("00")), "has 0 bytes");
  decode_message(empty("\x92" + from_hex("cd4000") + from_hex("00")));
  refused("\x99" + std::string(9, '\x01'), "9 dimensions");
  expect_refused(array_message("\x01", four_bytes, "\x91\x01"), "no dtype that is text");
  expect_refused(array_message(text("<f4"), text("1234"), "\x91\x01"), "no data that is bytes");
  expect_refused(array_message(text("<f4"), four_bytes, "\x01"), "no shape that is a list");
}

TEST(Message, RefusesBombs) {
  expect_refused(std::string(100000, '\x91'), "nests deeper than 16");
  std::string maps;
  for (int i = 0; i < 1000; ++i) maps += from_hex("81a161");
  expect_refused(maps, "nests deeper than 16");
  expect_refused(from_hex("ddffffffff"), "declares 4294967295 items");
  expect_refused(from_hex("dfffffffff"), "declares 4294967295 items");
  expect_refused(from_hex("dbffffffff41"), "ends in the middle");
  expect_refused(from_hex("c6ffffffff41"), "ends in the middle");
  std::string wide = "\x9f";  // 15 lists of 16000 numbers
  for (int i = 0; i < 15; ++i) wide += from_hex("dc3e80") + std::string(16000, '\x01');
  expect_refused(wide, "more than 16384 items");
}

TEST(Message, RefusesWhatPythonWouldNotSend) {
  expect_refused("", "message: ");
  expect_refused("\x01\x01", "bytes after its end");
  expect_refused("\xC1", "not msgpack");
  expect_refused(from_hex("d40000"), "extension type");
  expect_refused(from_hex("810102"), "key of a map is not text");
  expect_refused(from_hex("81c401ff02"), "key of a map is not text");
  expect_refused(from_hex("de0101a16101"), "a map of it has 257 keys, at most 256");
  expect_refused(from_hex("82a16101a16102"), "is there twice");
  expect_refused(from_hex("82a16101c4016102"), "is there twice");  // as text and as bytes
  expect_refused(from_hex("cfffffffffffffffff"), "beyond 63 bits");
  expect_refused(from_hex("a2c080"), "not UTF-8");
}

}  // namespace
}  // namespace shallowpi
