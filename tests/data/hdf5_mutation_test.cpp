// Damaged HDF5 files: whatever libhdf5 does with them in its process, ours refuses them or reads what is
// sound. SHALLOWPI_HDF5_MUTATIONS=N: files per layout (scripts/test_long.sh asks for more than the default).
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <random>

#include "data/hdf5_child.h"
#include "data/hdf5_fixtures.h"
#include "shallowpi/data/readers.h"
#include "test_util.h"

namespace shallowpi {
namespace {

using namespace shallowpi::testing;

#ifndef __has_feature  // clang's; GCC says the same with __SANITIZE_ADDRESS__
#define __has_feature(x) 0
#endif

constexpr const char* kLibraryFailed = "the HDF5 library failed";

class Mutator {
 public:
  /// Edits gather where `sound` has something other than zeros: HDF5 files are full of free space.
  Mutator(const std::string& sound, std::uint64_t seed) : sound_(sound), random_(seed) {
    for (std::size_t at = 0; at + 8 < sound.size(); ++at)
      if (sound[at] != 0) places_.push_back(at);
  }

  /// The sound file after one to six edits: bits, bytes, 1 to 8 byte integers at the edges, copied and
  /// cleared blocks, a cut end.
  std::string mutate() {
    std::string bytes = sound_;
    for (std::size_t edits = 1 + below(6); edits > 0; --edits) edit(bytes);
    return bytes;
  }

 private:
  std::size_t below(std::size_t limit) { return random_() % limit; }

  void edit(std::string& bytes) {
    static constexpr std::uint64_t kEdges[] = {0,
                                               1,
                                               0x7f,
                                               0xff,
                                               0x7fff,
                                               0xffff,
                                               0x7fffffff,
                                               0xffffffff,
                                               ~std::uint64_t{0} >> 1,
                                               ~std::uint64_t{0},
                                               0x100000000,
                                               48,
                                               96,
                                               512,
                                               2048};
    const std::size_t at = std::min(places_[below(places_.size())], bytes.size() - 8), length = 1 + below(16);
    switch (below(12)) {
      case 0:
      case 1:
      case 2:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
        break;
      case 3:
      case 4:
        bytes[at] = static_cast<char>(below(256));
        break;
      case 5:
      case 6:
      case 7: {
        const std::uint64_t value = kEdges[below(std::size(kEdges))];
        std::memcpy(&bytes[at], &value, std::size_t{1} << below(4));
        break;
      }
      case 8:
      case 9:
        for (std::size_t i = 0, from = below(bytes.size() - 16); i < length && at + i < bytes.size(); ++i)
          bytes[at + i] = bytes[from + i];
        break;
      case 10:
        for (std::size_t i = 0; i < length && at + i < bytes.size(); ++i) bytes[at + i] = 0;
        break;
      default:
        if (below(8) == 0) bytes.resize(bytes.size() - below(bytes.size() / 4));
    }
  }
  const std::string& sound_;
  std::vector<std::size_t> places_;
  std::mt19937_64 random_;
};

void read_everything(const std::filesystem::path& path) {
  const auto file = open_episodes(path);
  for (std::size_t episode = 0; episode < file->episodes().size(); ++episode) {
    for (std::int64_t step = 0; step < file->episodes()[episode].length; ++step) {
      for (std::size_t camera = 0; camera < file->camera_names().size(); ++camera) {
        try {
          file->frame(static_cast<std::int64_t>(episode), step, {camera});
        } catch (const CorruptError&) {  // the others may be sound
        }
      }
    }
  }
}

void survive(const std::string& sound, std::uint64_t seed) {
  const char* wanted = std::getenv("SHALLOWPI_HDF5_MUTATIONS");
  const int count = wanted != nullptr ? std::atoi(wanted) : 100;
  const TempDir dir;
  Mutator mutator(sound, seed);
  int refused = 0, library_failed = 0;
  for (int i = 0; i < count; ++i) {
    write_text(dir / "damaged.hdf5", mutator.mutate());
    try {
      read_everything(dir / "damaged.hdf5");
    } catch (const CorruptError& error) {
      ++refused;
      const std::string message = error.what();
      EXPECT_NE(message.find("damaged.hdf5"), std::string::npos) << message;
      if (message.find(kLibraryFailed) != std::string::npos) {
        ++library_failed;
        std::cout << "mutation " << i << ": " << message << std::endl;
      }
    } catch (const std::exception& error) {
      ADD_FAILURE() << "mutation " << i << " of seed " << seed << ": " << error.what();
    }
  }
  std::cout << count << " damaged files: " << refused << " refused, in " << library_failed
            << " the library's process died" << std::endl;
  EXPECT_GT(refused, count / 20);
  EXPECT_LT(refused, count);
}

// Files so small that most of their bytes are structure.
TEST(Hdf5Mutations, OfLiberoInChunks) {
  const TempDir dir;
  write_libero(dir / "sound.hdf5", {.demos = 2, .steps = 3, .height = 4, .width = 4});
  survive(read_file(dir / "sound.hdf5"), 1);
}

TEST(Hdf5Mutations, OfLiberoWithCutFrames) {
  const TempDir dir;
  write_libero(dir / "sound.hdf5",
               {.demos = 1,
                .steps = 5,
                .height = 4,
                .width = 4,
                .storage = {.chunk_rows = 2, .gzip = true, .shuffle = true, .whole_frames = false}});
  survive(read_file(dir / "sound.hdf5"), 2);
}

TEST(Hdf5Mutations, OfAlohaWithJpegsOfAnyLength) {
  const TempDir dir;
  write_aloha(dir / "sound.hdf5", {.steps = 3, .height = 8, .width = 8, .jpeg = JpegStorage::kRagged});
  survive(read_file(dir / "sound.hdf5"), 3);
}

TEST(Hdf5Mutations, OfAlohaInBlocksWithTexts) {
  const TempDir dir;
  write_aloha(
      dir / "sound.hdf5",
      {.steps = 3, .height = 4, .width = 4, .cameras = {"cam_high", "torso"}, .spoil = [](hid_t file) {
         write_texts(file, "language_instruction", {"fold it", "fold it", "put it away"});
       }});
  survive(read_file(dir / "sound.hdf5"), 4);
}

TEST(Hdf5Child, ReturnsWhatItsWorkReturnsAndThrowsWhatItThrows) {
  EXPECT_EQ(hdf5::in_child("x.hdf5", [] { return nlohmann::json(std::vector<int>{1, 2}); }).dump(), "[1,2]");
  const auto child = [](std::function<nlohmann::json()> work) {
    return [work = std::move(work)] { hdf5::in_child("x.hdf5", work); };
  };
  expect_error<UsageError>(child([]() -> nlohmann::json { throw UsageError("no such thing"); }),
                           "no such thing");
  expect_error<CorruptError>(child([]() -> nlohmann::json { throw CorruptError("bad"); }), "bad");
}

TEST(Hdf5Child, DeathIsADamagedFile) {
  for (const int signal : {SIGSEGV, SIGABRT, SIGBUS, SIGKILL}) {
    expect_error<CorruptError>(
        [&] {
          hdf5::in_child("x.hdf5", [&] {
            ::raise(signal);
            return nlohmann::json();
          });
        },
        "x.hdf5", kLibraryFailed, ::strsignal(signal), "copy the file again");
  }
#if !defined(__SANITIZE_ADDRESS__) && !__has_feature(address_sanitizer)  // its allocator reports and dies
  const auto exhaust = []() -> nlohmann::json {
    ::operator delete(::operator new(hdf5::kMaxChildBytes + (std::size_t{1} << 30)));
    return {};
  };
  expect_error<CorruptError>([&] { hdf5::in_child("x.hdf5", exhaust); }, "x.hdf5", "out of memory");
#endif
}

}  // namespace
}  // namespace shallowpi
