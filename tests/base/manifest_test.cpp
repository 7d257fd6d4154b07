#include "shallowpi/base/manifest.h"

#include <fcntl.h>

#include "test_util.h"

namespace shallowpi {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::TempDir;
using testing::write_text;

void fill_two(const fs::path& folder) {
  write_text(folder / "a.txt", "alpha");
  write_text(folder / "deep/b.bin", std::string("\0\1\2", 3));
}

TEST(Sha256, KnownAnswers) {
  EXPECT_EQ(sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const TempDir folder;
  const std::string large(3'000'001, 'x');
  write_text(folder / "x", large);
  EXPECT_EQ(sha256_file(folder / "x"), sha256(large));
}

TEST(VerifyManifest, NamesWhatChanged) {
  const TempDir folder;
  const auto out = folder / "out";
  const auto refuse = [&](const std::function<void()>& change, const std::string& file,
                          const std::string& reason) {
    publish_folder(out, fill_two, true);
    change();
    expect_error<CorruptError>([&] { verify_manifest(out); }, file, reason);
  };
  refuse([&] { write_text(out / "a.txt", "alphb"); }, "a.txt", "SHA-256");
  refuse([&] { write_text(out / "a.txt", "alph"); }, "a.txt", "has 4 bytes");
  refuse([&] { fs::remove(out / "deep/b.bin"); }, "b.bin", "missing");
  refuse([&] { fs::remove(out / "manifest.json"); }, "out", "no manifest.json");
  refuse([&] { write_text(out / "manifest.json", "{"); }, "manifest.json", "line 1");
  for (const char* name : {"../a", "/etc/passwd", "a/../../b", ""})
    refuse(
        [&] {
          write_text(out / "manifest.json",
                     str(R"({"files": {")", name, R"(": {"sha256": "", "bytes": 0}}})"));
        },
        "manifest.json", "leaves the folder");
}

TEST(VerifyManifest, NamesTheFirstBadFileWithSeveralThreads) {
  const TempDir folder;
  publish_folder(folder / "out", [](const fs::path& to) {
    for (const char* name : {"a", "b", "c"}) {
      write_text(to / name, "");
      fs::resize_file(to / name, 64 << 20);
    }
  });
  for (const char* name : {"b", "c"}) open_file(folder / "out" / name, O_WRONLY).write("x");
  expect_error<CorruptError>([&] { verify_manifest(folder / "out"); }, "out/b", "SHA-256");
}

TEST(VerifyManifest, DetectsEverySingleBitFlip) {
  const TempDir folder;
  const auto out = folder / "out";
  publish_folder(out, fill_two);
  for (const char* name : {"a.txt", "deep/b.bin", "manifest.json"}) {
    const std::string good = read_file(out / name);
    for (std::size_t bit = 0; bit < good.size() * 8; ++bit) {
      std::string bad = good;
      bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
      write_text(out / name, bad);
      EXPECT_THROW(verify_manifest(out), CorruptError) << name << " bit " << bit;
    }
    write_text(out / name, good);
  }
  EXPECT_NO_THROW(verify_manifest(out));
}

TEST(VerifyManifest, AcceptsAnOptionalFolderThatIsMissingAsAWhole) {
  const TempDir folder;
  const auto out = folder / "out";
  publish_folder(out, fill_two);
  EXPECT_FALSE(verify_manifest(out, "deep"));
  fs::remove(out / "deep/b.bin");
  expect_error<CorruptError>([&] { verify_manifest(out, "deep"); }, "b.bin", "missing");
  fs::remove(out / "deep");
  EXPECT_TRUE(verify_manifest(out, "deep"));
  expect_error<CorruptError>([&] { verify_manifest(out); }, "b.bin", "missing");
}

}  // namespace
}  // namespace shallowpi
