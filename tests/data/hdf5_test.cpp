// Broken demonstration files: each is refused with one message that names the file, the
// demonstration and the dataset.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "data/hdf5_fixtures.h"
#include "data/hdf5_rows.h"
#include "shallowpi/data/readers.h"
#include "test_util.h"

namespace shallowpi {
namespace {

using namespace shallowpi::testing;

constexpr const char* kFrames = "data/demo_1/obs/agentview_rgb";

void remove_link(hid_t file, const std::string& name) {
  checked(H5Ldelete(file, name.c_str(), H5P_DEFAULT));
}

// Writes a LIBERO file, spoils it, and expects open_episodes to name the file, `parts`,
// and nothing but a CorruptError.
template <typename... Parts>
void expect_refused(std::function<void(hid_t)> spoil, const Parts&... parts) {
  TempDir dir;
  LiberoFixture fixture;
  fixture.spoil = std::move(spoil);
  write_libero(dir / "broken.hdf5", fixture);
  expect_error<CorruptError>([&] { open_episodes(dir / "broken.hdf5"); }, "broken.hdf5", parts...);
}

// Replaces a dataset by one of doubles.
std::function<void(hid_t)> with_doubles(const std::string& name, const Dims& dims, double value = 0.5) {
  return [=](hid_t file) {
    remove_link(file, name);
    write_doubles(file, name, dims, std::vector<double>(element_count(dims), value));
  };
}

std::function<void(hid_t)> with_bytes(const std::string& name, const Dims& dims) {
  return [=](hid_t file) {
    remove_link(file, name);
    write_bytes(file, name, dims, std::vector<std::uint8_t>(element_count(dims)), {.chunk_rows = 0});
  };
}

TEST(BrokenHdf5, MissingFile) {
  expect_error<UsageError>([] { open_episodes("/nonexistent/demo.hdf5"); }, "/nonexistent/demo.hdf5",
                           "no such file");
  TempDir dir;
  expect_error<UsageError>([&] { open_episodes(dir.path()); }, "is a folder; name its files");
  expect_error<UsageError>([&] { open_episodes(dir / "file-000.parquet"); }, "convert_lerobot.py DATASET");
  testing::write_text(dir / "meta/info.json", "{}");
  expect_error<UsageError>([&] { open_episodes(dir.path()); }, "convert_lerobot.py " + dir.path().string());
}

TEST(BrokenHdf5, EmptyAndForeignFiles) {
  TempDir dir;
  std::ofstream(dir / "empty.hdf5").flush();
  expect_error<CorruptError>([&] { open_episodes(dir / "empty.hdf5"); }, "empty.hdf5", "is empty", "copy");
  std::ofstream(dir / "text.hdf5") << std::string(4000, 'x');
  expect_error<CorruptError>([&] { open_episodes(dir / "text.hdf5"); }, "text.hdf5", "HDF5", "copy");
}

TEST(BrokenHdf5, TruncatedAtAnyPlace) {
  TempDir dir;
  write_libero(dir / "whole.hdf5", {.demos = 1, .steps = 4});
  const auto bytes = std::filesystem::file_size(dir / "whole.hdf5");
  for (int part = 1; part < 40; ++part) {
    std::filesystem::copy_file(dir / "whole.hdf5", dir / "cut.hdf5",
                               std::filesystem::copy_options::overwrite_existing);
    std::filesystem::resize_file(dir / "cut.hdf5", bytes * static_cast<std::uintmax_t>(part) / 40);
    expect_error<CorruptError>([&] { open_episodes(dir / "cut.hdf5"); }, "cut.hdf5", "copy the file again");
  }
}

TEST(BrokenHdf5, NoData) {
  expect_refused([](hid_t file) { remove_link(file, "data"); }, "data", "neither LIBERO's group 'data'",
                 "docs/data.md");
  expect_refused(
      [](hid_t file) {
        remove_link(file, "data/demo_0");
        remove_link(file, "data/demo_1");
      },
      "data", "no demonstration");
  expect_refused([](hid_t file) { remove_link(file, "data/demo_1/actions"); }, "data/demo_1/actions",
                 "missing");
  expect_refused([](hid_t file) { remove_link(file, kFrames); }, kFrames, "missing", "remove it");
}

TEST(BrokenHdf5, NeitherLayout) {
  TempDir dir;
  write_libero(dir / "odd.hdf5", {.spoil = [](hid_t file) { remove_link(file, "data"); }});
  expect_error<CorruptError>([&] { open_episodes(dir / "odd.hdf5"); }, "odd.hdf5", "LIBERO", "ALOHA");
}

TEST(BrokenHdf5, ZeroSteps) {
  expect_refused(with_doubles("data/demo_1/actions", {0, 7}), "data/demo_1/actions", "zero steps", "remove");
  expect_refused(with_bytes(kFrames, {0, 16, 12, 3}), kFrames, "zero steps");
  TempDir dir;
  write_libero(dir / "one.hdf5", {.demos = 1, .steps = 1});
  expect_error<CorruptError>([&] { open_episodes(dir / "one.hdf5"); }, "data/demo_0", "no usable step");
}

TEST(BrokenHdf5, RobotThatNeverMoves) {
  TempDir dir;
  write_libero(dir / "still.hdf5", {.demos = 1, .actions = [](int) { return std::vector<double>(56, 0.0); }});
  expect_error<CorruptError>([&] { open_episodes(dir / "still.hdf5"); }, "data/demo_0", "no usable step");
}

TEST(BrokenHdf5, WrongShapes) {
  expect_refused(with_bytes(kFrames, {8, 16, 12}), kFrames, "[8, 16, 12]", "height, width, 3");
  expect_refused(with_bytes(kFrames, {8, 16, 12, 4}), kFrames, "[8, 16, 12, 4]");
  expect_refused(with_bytes(kFrames, {7, 16, 12, 3}), kFrames, "7 steps", "8 actions");
  expect_refused(with_bytes(kFrames, {8, 0, 12, 3}), kFrames, "[8, 0, 12, 3]");
  expect_refused(with_doubles("data/demo_0/actions", {8, 6}), "data/demo_0/actions", "[8, 6]", "7");
  expect_refused(with_doubles("data/demo_0/actions", {56}), "data/demo_0/actions", "[56]");
  expect_refused(with_doubles("data/demo_0/obs/ee_states", {7, 6}), "data/demo_0", "different lengths");
}

TEST(BrokenHdf5, WrongTypes) {
  expect_refused(with_doubles(kFrames, {8, 16, 12, 3}), kFrames, "uint8");
  expect_refused(with_bytes("data/demo_1/actions", {8, 7}), "data/demo_1/actions", "floating-point");
  expect_refused(
      [](hid_t file) {
        remove_link(file, kFrames);
        H5Gclose(create_group(file, kFrames));
      },
      kFrames, "not a dataset");
}

TEST(BrokenHdf5, NanAndInfinity) {
  for (double bad : {std::nan(""), static_cast<double>(INFINITY), 1e300}) {
    expect_refused(
        [=](hid_t file) {
          remove_link(file, "data/demo_1/actions");
          std::vector<double> values(56, 0.5);
          values[3 * 7 + 2] = bad;
          write_doubles(file, "data/demo_1/actions", {8, 7}, values);
        },
        "data/demo_1/actions", "not finite", "step 3");
  }
}

TEST(BrokenHdf5, LinksOutOfTheFile) {
  TempDir dir;
  write_libero(dir / "other.hdf5");
  const std::string other = (dir / "other.hdf5").string();
  expect_refused(
      [&](hid_t file) {
        remove_link(file, "data/demo_1");
        checked(
            H5Lcreate_external(other.c_str(), "data/demo_1", file, "data/demo_1", H5P_DEFAULT, H5P_DEFAULT));
      },
      "data/demo_1", "external link", "copy the data into the file");
  expect_refused(
      [&](hid_t file) {
        remove_link(file, "data");
        checked(H5Lcreate_external(other.c_str(), "data", file, "data", H5P_DEFAULT, H5P_DEFAULT));
      },
      "data", "external link");
  expect_refused(
      [](hid_t file) {
        remove_link(file, kFrames);
        checked(H5Lcreate_soft("/data/demo_0/obs/agentview_rgb", file, kFrames, H5P_DEFAULT, H5P_DEFAULT));
      },
      kFrames, "soft link");
}

// A dataset of frames with the given creation properties.
std::function<void(hid_t)> with_frames(std::function<void(hid_t plist)> configure) {
  return [=](hid_t file) {
    remove_link(file, kFrames);
    const Dims dims = {8, 16, 12, 3}, chunk = {1, 16, 12, 3};
    const hid_t space = checked(H5Screate_simple(4, dims.data(), nullptr));
    const hid_t plist = checked(H5Pcreate(H5P_DATASET_CREATE));
    configure(plist);
    const hid_t set =
        checked(H5Dcreate2(file, kFrames, H5T_NATIVE_UINT8, space, H5P_DEFAULT, plist, H5P_DEFAULT));
    H5Dclose(set);
    H5Pclose(plist);
    H5Sclose(space);
  };
}

TEST(BrokenHdf5, StorageOutsideTheFile) {
  TempDir dir;
  const std::string raw = (dir / "frames.bin").string();
  std::ofstream(raw) << std::string(8 * 16 * 12 * 3, 'x');
  expect_refused(
      with_frames([&](hid_t plist) { checked(H5Pset_external(plist, raw.c_str(), 0, H5F_UNLIMITED)); }),
      kFrames, "another file");
  expect_refused(with_frames([&](hid_t plist) {
                   const Dims dims = {8, 16, 12, 3};
                   const hid_t space = checked(H5Screate_simple(4, dims.data(), nullptr));
                   checked(H5Pset_virtual(plist, space, raw.c_str(), "frames", space));
                   H5Sclose(space);
                 }),
                 kFrames, "virtual");
}

TEST(BrokenHdf5, OtherFilters) {
  expect_refused(with_frames([](hid_t plist) {
                   const Dims chunk = {1, 16, 12, 3};
                   H5Pset_chunk(plist, 4, chunk.data());
                   H5Pset_fletcher32(plist);
                 }),
                 kFrames, "filter 3", "h5repack");
}

TEST(BrokenHdf5, MoreClaimedThanStored) {
  expect_refused(with_frames([](hid_t plist) {
                   const Dims chunk = {1, 16, 12, 3};
                   H5Pset_chunk(plist, 4, chunk.data());
                 }),
                 kFrames, "claims more data");
}

TEST(BrokenHdf5, FrameThatWasNeverWritten) {
  TempDir dir;
  write_libero(
      dir / "gap.hdf5", {.spoil = [](hid_t file) {
        remove_link(file, kFrames);
        const Dims dims = {8, 16, 12, 3}, chunk = {1, 16, 12, 3}, one = {1, 16, 12, 3}, zero = {0, 0, 0, 0};
        const hid_t space = checked(H5Screate_simple(4, dims.data(), nullptr));
        const hid_t memory = checked(H5Screate_simple(4, one.data(), nullptr));
        const hid_t plist = checked(H5Pcreate(H5P_DATASET_CREATE));
        H5Pset_chunk(plist, 4, chunk.data());
        const hid_t set =
            checked(H5Dcreate2(file, kFrames, H5T_NATIVE_UINT8, space, H5P_DEFAULT, plist, H5P_DEFAULT));
        const std::vector<std::uint8_t> frame(element_count(one));
        H5Sselect_hyperslab(space, H5S_SELECT_SET, zero.data(), nullptr, one.data(), nullptr);
        checked(H5Dwrite(set, H5T_NATIVE_UINT8, memory, space, H5P_DEFAULT, frame.data()));
        H5Dclose(set);
        H5Pclose(plist);
        H5Sclose(memory);
        H5Sclose(space);
      }});
  const auto file = open_episodes(dir / "gap.hdf5");
  EXPECT_EQ(file->frame(1, 0, {0})[0].bytes[0], 0);
  expect_error<CorruptError>([&] { file->frame(1, 5, {0}); }, "gap.hdf5", kFrames, "step 5", "never written");
}

// Overwrites the stored bytes of every frame's chunk; the structure of the file stays sound.
TEST(BrokenHdf5, DamagedCompressedFrames) {
  TempDir dir;
  write_libero(dir / "damaged.hdf5",
               {.demos = 2, .steps = 4, .spoil = [](hid_t file) {
                  const hid_t set = checked(H5Dopen2(file, kFrames, H5P_DEFAULT));
                  const std::vector<std::uint8_t> junk(40, 0xee);
                  for (hsize_t step = 0; step < 4; ++step) {
                    const Dims at = {step, 0, 0, 0};
                    checked(H5Dwrite_chunk(set, H5P_DEFAULT, 0, at.data(), junk.size(), junk.data()));
                  }
                  H5Dclose(set);
                }});
  const auto file = open_episodes(dir / "damaged.hdf5");
  expect_error<CorruptError>([&] { file->frame(1, 2, {0}); }, "damaged.hdf5", kFrames, "step 2", "damaged");
  EXPECT_NO_THROW(file->frame(1, 2, {1})) << "the other camera is sound";
}

TEST(BrokenHdf5, ChunksLargerThanTheirContent) {
  TempDir dir;
  write_libero(dir / "bomb.hdf5", {.spoil = [](hid_t file) {
                 const hid_t set = checked(H5Dopen2(file, kFrames, H5P_DEFAULT));
                 const std::vector<std::uint8_t> junk(100'000, 0);
                 const Dims at = {0, 0, 0, 0};
                 checked(H5Dwrite_chunk(set, H5P_DEFAULT, 0, at.data(), junk.size(), junk.data()));
                 H5Dclose(set);
               }});
  const auto file = open_episodes(dir / "bomb.hdf5");
  expect_error<CorruptError>([&] { file->frame(1, 0, {0}); }, kFrames, "step 0", "larger than its content");
}

TEST(BrokenHdf5, BrokenInstruction) {
  expect_refused(
      [](hid_t file) {
        const hid_t data = checked(H5Gopen2(file, "data", H5P_DEFAULT));
        H5Adelete(data, "problem_info");
        write_text_attribute(data, "problem_info", "{not json", /*variable_length=*/false);
        H5Gclose(data);
      },
      "problem_info");
}

// Texts and byte strings of variable length lie in heaps, marked GCOL; libhdf5 1.10
// itself crashes on such damage.
TEST(BrokenHdf5, DamagedHeaps) {
  struct Damage {
    std::size_t offset;  // from the mark; the first object's header is at 16, its size at 24
    char byte;
  };
  TempDir dir;
  write_aloha(dir / "sound.hdf5", {.jpeg = JpegStorage::kRagged});
  const std::string sound = read_file(dir / "sound.hdf5");
  for (const Damage& damage :
       {Damage{0, 'X'}, Damage{9, 0}, Damage{16, 99}, Damage{25, 127}, Damage{31, 127}}) {
    std::string bytes = sound;
    for (std::size_t at = bytes.find("GCOL"); at != std::string::npos; at = bytes.find("GCOL", at + 1)) {
      bytes[at + damage.offset] = damage.byte;
    }
    write_text(dir / "damaged.hdf5", bytes);
    const auto read_all = [&] {
      const auto file = open_episodes(dir / "damaged.hdf5");
      for (std::int64_t step = 0; step < 6; ++step) file->frame(0, step, {0, 1, 2});
    };
    SCOPED_TRACE(str("byte ", damage.offset));
    expect_error<CorruptError>(read_all, "damaged.hdf5", "copy the file again");
  }
}

TEST(BrokenHdf5, AlohaFiles) {
  TempDir dir;
  const auto refused = [&](AlohaFixture fixture, std::initializer_list<std::string> parts) {
    write_aloha(dir / "episode_3.hdf5", fixture);
    for (const std::string& part : parts) {
      expect_error<CorruptError>([&] { open_episodes(dir / "episode_3.hdf5"); }, "episode_3.hdf5", part);
    }
  };
  AlohaFixture fixture;
  fixture.cameras = {"depth"};
  refused(fixture, {"observations/images", "no camera"});
  fixture.cameras = {"cam_high", "top"};
  refused(fixture, {"two cameras", "base_0_rgb"});
  fixture = {};
  fixture.action_dim = 33;
  refused(fixture, {"action", "[6, 33]", "1..32"});
  fixture = {};
  fixture.spoil = [](hid_t file) { remove_link(file, "observations/images"); };
  refused(fixture, {"observations/images", "missing"});
  fixture.spoil = with_doubles("observations/qpos", {5, 14});
  refused(fixture, {"observations/qpos", "5 steps", "6 actions"});
  fixture.spoil = with_bytes("observations/images/cam_high", {6, 16, 24});
  refused(fixture, {"observations/images/cam_high", "[6, 16, 24]"});
}

TEST(BrokenHdf5, AlohaJpegThatIsNone) {
  TempDir dir;
  write_aloha(dir / "episode_3.hdf5", {.spoil = with_bytes("observations/images/cam_high", {6, 100})});
  const auto file = open_episodes(dir / "episode_3.hdf5");
  expect_error<CorruptError>([&] { file->frame(0, 4, {0}); }, "episode_3.hdf5", "cam_high", "step 4", "JPEG");
}

}  // namespace
}  // namespace shallowpi
