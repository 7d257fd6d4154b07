#include "shallowpi/base/safetensors.h"

#include "base/safetensors_bytes.h"
#include "test_util.h"

namespace shallowpi {
namespace {

using testing::expect_error;
using testing::expect_tensor_near;
using testing::safetensors_bytes;
using testing::TempDir;
using testing::write_text;

/// Opening a file of this header and data must fail for `reason`.
template <typename... Reasons>
void expect_refused(const std::string& header, const std::string& data, const Reasons&... reasons) {
  const TempDir folder;
  write_text(folder / "x.safetensors", safetensors_bytes(header, data));
  expect_error<CorruptError>([&] { SafetensorsFile(folder / "x.safetensors"); },
                             "x.safetensors: ", reasons...);
}

SafetensorsFile open_bytes(const TempDir& folder, const std::string& header, const std::string& data) {
  write_text(folder / "x.safetensors", safetensors_bytes(header, data));
  return SafetensorsFile(folder / "x.safetensors");
}

const std::string kData8(8, '\1');

TEST(SafetensorsFile, ReadsHeaderAndValues) {
  const TempDir folder;
  const SafetensorsFile file = open_bytes(
      folder,
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"I16","shape":[2,1],"data_offsets":[1,5]},)"
      R"("b.c":{"dtype":"BOOL","shape":[],"data_offsets":[0,1]},"e":{"dtype":"F32","shape":[0,7],"data_offsets":[5,5]}}  )",
      std::string("\1\2\0\xff\xff", 5));
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.tensors().size(), 3u);
  EXPECT_TRUE(torch::equal(file.read("a"), torch::tensor({2, -1}, torch::kInt16).view({2, 1})));
  EXPECT_TRUE(file.read("b.c").item<bool>());
  EXPECT_EQ(file.read("b.c").dim(), 0);
  EXPECT_EQ(file.read("e").sizes(), (std::vector<std::int64_t>{0, 7}));
  expect_error<UsageError>([&] { file.read("zz"); }, "x.safetensors", "no tensor \"zz\"");
}

TEST(SafetensorsFile, AcceptsWhatThePythonReaderAccepts) {
  const TempDir folder;
  EXPECT_NO_THROW(open_bytes(folder, "{}", ""));
  EXPECT_NO_THROW(open_bytes(folder, R"({"__metadata__":null})", ""));
  EXPECT_NO_THROW(open_bytes(folder, R"({"__metadata__":{}})", ""));
  // Fields that the format does not know are ignored, whatever they hold.
  EXPECT_NO_THROW(open_bytes(
      folder,
      R"({"a":{"x":[{"dtype":1}],"y":null,"dtype":"U8","z":{"shape":[]},"shape":[8],"data_offsets":[0,8],"w":"s"}})",
      kData8));
}

TEST(SafetensorsFile, RefusesBadLengths) {
  const TempDir folder;
  const auto refuse = [&](const std::string& bytes, const std::string& reason) {
    write_text(folder / "x", bytes);
    expect_error<CorruptError>([&] { SafetensorsFile(folder / "x"); }, reason);
  };
  const auto length = [](std::uint64_t n) { return std::string(reinterpret_cast<const char*>(&n), 8); };
  refuse("", "too short");
  refuse("1234567", "too short");
  refuse(length(0), "does not begin with '{'");
  refuse(length(7) + "{}", "truncated");
  refuse(length(100'000'001) + "{}", "more than the 100 MB");
  refuse("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n", "is a Git LFS pointer");
  refuse(length(std::uint64_t{1} << 63) + "{}", "more than the 100 MB");
  refuse(length(~std::uint64_t{0}) + "{}", "more than the 100 MB");
  refuse("PK\3\4 this is a zip file, such as a .pt file", "not a safetensors file");
  expect_error<IoError>([&] { SafetensorsFile(folder / "missing"); }, "missing", "No such file");
  expect_error<IoError>([&] { SafetensorsFile file(folder.path()); }, folder.path().string(), "directory");
}

TEST(SafetensorsFile, RefusesWhatIsNotAHeader) {
  expect_refused("[]", "", "does not begin with '{'");
  expect_refused(" {}", "", "does not begin with '{'");
  expect_refused("\xEF\xBB\xBF{}", "", "does not begin with '{'");
  expect_refused("{} {}", "", "not valid JSON");
  expect_refused("{", "", "not valid JSON");
  expect_refused(std::string("{}\0", 3), "", "NUL");
  expect_refused(std::string("{}\0{", 4), "", "NUL");
  expect_refused("{\"\xff\":1}", "", "not valid JSON (UTF-8)");
  expect_refused(R"({"__metadata__":[]})", "", "\"__metadata__\"", "must be an object");
  expect_refused(R"({"__metadata__":{"a":1}})", "", "\"a\" must be a string");
  expect_refused(R"({"__metadata__":{"a":{}}})", "", "\"a\" must be a string");
  expect_refused(R"({"__metadata__":{"a":"1","a":"2"}})", "", "duplicate key \"a\"");
  expect_refused(R"({"__metadata__":{},"__metadata__":{}})", "", "duplicate name");
}

TEST(SafetensorsFile, RefusesBadTensorEntries) {
  const auto entry = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return str(R"({"a":{"dtype":)", dtype, R"(,"shape":)", shape, R"(,"data_offsets":)", offsets, "}}");
  };
  const auto refuse = [&](const std::string& dtype, const std::string& shape, const std::string& offsets,
                          const std::string& reason) {
    expect_refused(entry(dtype, shape, offsets), kData8, "tensor \"a\"", reason);
  };
  refuse("\"F7\"", "[2]", "[0,8]", "unknown dtype \"F7\"");
  refuse("\"F4\"", "[16]", "[0,8]", "dtype F4 has no counterpart in LibTorch");
  refuse("1", "[2]", "[0,8]", "\"dtype\" must not be a number");
  refuse("null", "[2]", "[0,8]", "\"dtype\" must not be null");
  refuse("{\"F32\":null}", "[2]", "[0,8]", "\"dtype\" must not be an object");
  refuse("\"F32\"", "[-2]", "[0,8]", "negative integer");
  refuse("\"F32\"", "[2.0]", "[0,8]", "\"2.0\"");
  refuse("\"F32\"", "[2e0]", "[0,8]", "\"2e0\"");
  refuse("\"F32\"", "[18446744073709551618]", "[0,8]", "\"18446744073709551618\"");
  refuse("\"F32\"", "[[2]]", "[0,8]", "holds a list");
  refuse("\"F32\"", "[true]", "[0,8]", "holds a boolean");
  refuse("\"F32\"", "2", "[0,8]", "\"shape\" must not be a number");
  refuse("\"F32\"", "[2]", "[0]", "must hold two numbers");
  refuse("\"F32\"", "[2]", "[0,8,8]", "must hold two numbers");
  refuse("\"F32\"", "[2]", "[8,0]", "before it begins");
  refuse("\"F32\"", "[3]", "[0,8]", "need 12 bytes, but its offsets span 8");
  refuse("\"F32\"", "[4294967296,4294967296]", "[0,8]", "overflows");
  refuse("\"F32\"", "[4611686018427387904]", "[0,8]", "overflows");
  refuse("\"F32\"", "[4294967296,4294967296,0]", "[0,0]", "overflows");
  refuse("\"F32\"", "[0,18446744073709551615]", "[0,0]", "overflows");
  refuse("\"F32\"", "[1,1,1,1,1,1,1,1,2]", "[0,8]", "more than 8");
  expect_refused(R"({"a":{"shape":[2],"data_offsets":[0,8]}})", kData8, "has no \"dtype\"");
  expect_refused(R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", kData8, "has no \"shape\"");
  expect_refused(R"({"a":{"dtype":"F32","shape":[2]}})", kData8, "has no \"data_offsets\"");
  expect_refused(R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", kData8,
                 "duplicate key");
  expect_refused(R"({"a":[1]})", kData8, "must be an object");
  expect_refused(R"({"a":7})", kData8, "must be an object");
  expect_refused(R"({"a\u0000b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", kData8,
                 "control character");
  expect_refused("{\"" + std::string(1025, 'n') + "\":{}}", "", "longer than 1024");
  expect_refused(R"({"a":{"x":)" + std::string(65, '[') + std::string(65, ']') + "}}", "",
                 "nested deeper than 64");
}

TEST(SafetensorsFile, RefusesBadCoverage) {
  const std::string a = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  const auto b = [](int begin, int end) {
    return str(R"("b":{"dtype":"U8","shape":[)", end - begin, R"(],"data_offsets":[)", begin, ",", end, "]}");
  };
  const TempDir folder;
  EXPECT_NO_THROW(open_bytes(folder, "{" + a + "," + b(4, 8) + "}", kData8));
  expect_refused("{" + a + "," + b(3, 8) + "}", kData8, "tensor \"b\"", "within the tensor before it");
  expect_refused("{" + a + "," + b(0, 8) + "}", kData8, "tensor \"b\"", "within");
  expect_refused("{" + a + "," + b(5, 8) + "}", kData8, "tensor \"b\"", "hole of 1 bytes");
  expect_refused("{" + a + "," + b(4, 9) + "}", kData8, "tensor \"b\"", "only 8 bytes of data");
  expect_refused("{" + a + "," + b(4, 7) + "}", kData8, "last 1 bytes belong to no tensor");
  expect_refused("{" + b(1, 8) + "}", kData8, "hole of 1 bytes");
  expect_refused("{" + a + "," + a + "}", kData8, "tensor \"a\"", "duplicate name");
  expect_refused("{}", kData8, "last 8 bytes");
}

TEST(SafetensorsFile, TooManyTensorsAreRefusedQuickly) {
  std::string header = "{";
  for (int i = 0; i <= 200'000; ++i)
    header += str(i ? "," : "", "\"", i, R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})");
  expect_refused(header + "}", "", "more than 200000 tensors");
}

TEST(SafetensorsFile, EveryPrefixIsRefused) {
  const TempDir folder;
  write_safetensors(folder / "x", {{"a", torch::arange(40)}, {"b", torch::ones({3}, torch::kBFloat16)}},
                    {{"format", "pt"}});
  const std::string bytes = read_file(folder / "x");
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    write_text(folder / "cut", bytes.substr(0, size));
    EXPECT_THROW(SafetensorsFile(folder / "cut"), CorruptError) << size << " of " << bytes.size();
  }
  write_text(folder / "cut", bytes + "x");
  EXPECT_THROW(SafetensorsFile(folder / "cut"), CorruptError);
}

TEST(SafetensorsFile, HeaderBitFlipsAreErrorsOrOtherNames) {
  const TempDir folder;
  write_safetensors(folder / "x",
                    {{"a", torch::arange(6).view({2, 3})}, {"b", torch::ones({3}, torch::kFloat16)}});
  const std::string bytes = read_file(folder / "x");
  const std::size_t header_end = bytes.size() - 6 * 8 - 3 * 2;
  int refused = 0;
  for (std::size_t bit = 0; bit < header_end * 8; ++bit) {
    std::string bad = bytes;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    write_text(folder / "bad", bad);
    try {
      // What is still a file of the format must be readable to the last tensor.
      for (const auto& [name, tensor] : load_safetensors(folder / "bad"))
        EXPECT_TRUE(tensor.defined()) << name;
    } catch (const CorruptError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, static_cast<int>(header_end) * 6);
}

TEST(SafetensorsFile, BecomingShorterIsAnError) {
  const TempDir folder;
  write_safetensors(folder / "x", {{"a", torch::arange(1000)}});
  const SafetensorsFile file(folder / "x");
  std::filesystem::resize_file(folder / "x", 4000);
  expect_error<CorruptError>([&] { file.read("a"); }, "became shorter");
}

TEST(SafetensorsFile, BooleansAreCleaned) {
  const TempDir folder;
  const SafetensorsFile file = open_bytes(
      folder, R"({"a":{"dtype":"BOOL","shape":[4],"data_offsets":[0,4]}})", std::string("\0\1\2\xff", 4));
  torch::Tensor bytes = file.read("a").view(torch::kUInt8);
  EXPECT_TRUE(torch::equal(bytes, torch::tensor({0, 1, 1, 1}, torch::kUInt8)));
  torch::Tensor sum = torch::empty({4}, torch::kFloat32);
  file.read_into("a", sum);
  expect_tensor_near(sum, torch::tensor({0.0, 1.0, 1.0, 1.0}), 0);
}

TEST(SafetensorsFile, MovesKeepTheFileOpen) {
  const TempDir folder;
  write_safetensors(folder / "x", {{"a", torch::arange(3)}});
  write_safetensors(folder / "y", {{"b", torch::arange(4)}});
  SafetensorsFile first(folder / "x");
  SafetensorsFile second(std::move(first));
  EXPECT_EQ(second.read("a").numel(), 3);
  second = SafetensorsFile(folder / "y");
  EXPECT_EQ(second.read("b").numel(), 4);
}

TEST(ReadInto, ConvertsWhateverTheDestinationIs) {
  const TempDir folder;
  const torch::Tensor value = torch::randn({5, 7}).to(torch::kBFloat16);
  write_safetensors(folder / "x", {{"a", value}});
  const SafetensorsFile file(folder / "x");
  for (const auto dtype : {torch::kBFloat16, torch::kFloat32, torch::kFloat64, torch::kFloat16}) {
    torch::Tensor to = torch::full({5, 7}, -1, dtype);
    file.read_into("a", to);
    EXPECT_TRUE(torch::equal(to, value.to(dtype)));
  }
  torch::Tensor fused = torch::zeros({15, 7}).requires_grad_();
  file.read_into("a", fused.narrow(0, 5, 5));  // contiguous part of a fused projection
  expect_tensor_near(fused.narrow(0, 5, 5), value, 0);
  expect_tensor_near(fused.narrow(0, 0, 5), torch::zeros({5, 7}), 0);
  torch::Tensor transposed = torch::zeros({7, 5});
  file.read_into("a", transposed.t());
  expect_tensor_near(transposed.t(), value, 0);
  expect_error<UsageError>(
      [&] {
        file.read_into("a", torch::zeros({7, 5}));
      },
      "\"a\" has shape [5, 7]", "[7, 5]");
  expect_error<UsageError>([&] { file.read_into("b", torch::zeros({7, 5})); }, "no tensor \"b\"");
}

TEST(ReadInto, ConvertsAcrossBlocks) {
  const TempDir folder;
  const torch::Tensor value =
      torch::arange(9'000'001, torch::kInt32).to(torch::kBFloat16);  // 18 MB, odd size
  write_safetensors(folder / "x", {{"a", value}});
  torch::Tensor to = torch::zeros({9'000'001});
  SafetensorsFile(folder / "x").read_into("a", to);
  EXPECT_TRUE(torch::equal(to, value.to(torch::kFloat32)));
}

TEST(WriteSafetensors, EveryDtypeRoundTrips) {
  const TempDir folder;
  NamedTensors tensors;
  for (const auto dtype :
       {torch::kBool, torch::kUInt8, torch::kInt8, torch::kFloat8_e5m2, torch::kFloat8_e4m3fn,
        torch::kFloat8_e8m0fnu, torch::kFloat8_e4m3fnuz, torch::kFloat8_e5m2fnuz, torch::kInt16,
        torch::kUInt16, torch::kFloat16, torch::kBFloat16, torch::kInt32, torch::kUInt32, torch::kFloat32,
        torch::kComplexFloat, torch::kFloat64, torch::kInt64, torch::kUInt64})
    tensors[str("t", static_cast<int>(dtype))] = torch::randint(0, 2, {3, 4}).to(dtype);
  tensors["scalar"] = torch::tensor(2.5);
  tensors["empty"] = torch::zeros({0, 3});
  tensors["strided"] = torch::arange(12).view({3, 4}).t();
  tensors["conjugate"] = torch::complex(torch::ones({2}), torch::ones({2})).conj();
  save_safetensors(folder / "x", tensors);
  const NamedTensors read = load_safetensors(folder / "x");
  ASSERT_EQ(read.size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    EXPECT_EQ(read.at(name).scalar_type(), tensor.scalar_type()) << name;
    EXPECT_EQ(read.at(name).sizes(), tensor.sizes()) << name;
    const auto bytes = [](const torch::Tensor& t) {
      return t.resolve_conj().contiguous().view({-1}).view(torch::kUInt8);
    };
    EXPECT_TRUE(torch::equal(bytes(read.at(name)), bytes(tensor))) << name;
  }
}

TEST(WriteSafetensors, LayoutIsPythons) {
  const TempDir folder;
  write_safetensors(folder / "x",
                    {{"z", torch::ones({1}, torch::kFloat32)},
                     {"b", torch::ones({1}, torch::kUInt8)},
                     {"a", torch::ones({2}, torch::kFloat32)},
                     {"q\"", torch::ones({}, torch::kInt64)}},
                    {{"format", "pt"}});
  const std::string bytes = read_file(folder / "x");
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"q\"":{"dtype":"I64","shape":[],"data_offsets":[0,8]},)"
      R"("a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},"z":{"dtype":"F32","shape":[1],"data_offsets":[16,20]},)"
      R"("b":{"dtype":"U8","shape":[1],"data_offsets":[20,21]}})";
  EXPECT_EQ(bytes.substr(8, header.size()), header);
  EXPECT_EQ(static_cast<unsigned char>(bytes[0]) % 8, 0);
  EXPECT_EQ(bytes.substr(8 + header.size()).find_first_not_of(' '), bytes.size() - 21 - 8 - header.size());
}

TEST(WriteSafetensors, RefusesWhatTheFormatCannotHold) {
  const TempDir folder;
  expect_error<UsageError>([&] { write_safetensors(folder / "x", {{"a", torch::Tensor()}}); }, "\"a\"");
  expect_error<UsageError>(
      [&] {
        write_safetensors(folder / "x", {{"a", torch::ones({1}, torch::kComplexDouble)}});
      },
      "\"a\" has no dtype");
  expect_error<UsageError>(
      [&] {
        write_safetensors(folder / "x", {{"\xff", torch::ones({1})}});
      },
      "not UTF-8");
  expect_error<UsageError>(
      [&] {
        write_safetensors(folder / "x", {{"__metadata__", torch::ones({1})}});
      },
      "__metadata__");
  expect_error<UsageError>([&] { write_safetensors(folder / "x", {{"a\tb", torch::ones({1})}}); }, "control");
  EXPECT_FALSE(std::filesystem::exists(folder / "x"));
  expect_error<IoError>([&] { write_safetensors(folder / "no/x", {{"a", torch::ones({1})}}); }, "no/x");
  expect_error<IoError>(
      [&] {
        write_safetensors("/dev/full", {{"a", torch::ones({1})}});
      },
      "/dev/full", "No space");
}

}  // namespace
}  // namespace shallowpi
