// The two HDF5 layouts as they should be. Broken files are in hdf5_test.cpp.
#include "shallowpi/data/readers.h"

#include <gtest/gtest.h>

#include <cmath>
#include <thread>

#include "data/hdf5_fixtures.h"
#include "shallowpi/data/demonstrations.h"
#include "test_util.h"

namespace shallowpi {
namespace {

using namespace shallowpi::testing;

const std::vector<std::size_t> kBothCameras = {0, 1};

void expect_row(const std::vector<float>& row, double demo, double step, std::size_t columns) {
  ASSERT_EQ(row.size(), columns);
  for (std::size_t column = 0; column < columns; ++column) {
    EXPECT_NEAR(row[column], demo + step / 100 + static_cast<double>(column) / 1e4, 1e-6)
        << "column " << column;
  }
}

// Is `image` the fixture's frame, turned by 180 degrees or not?
void expect_frame(const Image& image, int demo, std::int64_t step, int camera, bool rotated) {
  std::int64_t wrong = 0;
  for (std::int64_t y = 0; y < image.height; ++y) {
    for (std::int64_t x = 0; x < image.width; ++x) {
      for (std::int64_t c = 0; c < 3; ++c) {
        const std::int64_t from_y = rotated ? image.height - 1 - y : y,
                           from_x = rotated ? image.width - 1 - x : x;
        const auto got = image.bytes.at(static_cast<std::size_t>((y * image.width + x) * 3 + c));
        wrong += got != fixture_pixel(demo, step, camera, from_y, from_x, c);
      }
    }
  }
  EXPECT_EQ(wrong, 0) << "demo " << demo << " step " << step << " camera " << camera;
}

TEST(Libero, PairsRawObservationsWithTheNextAction) {
  TempDir dir;
  write_libero(dir / "raw.hdf5");
  const auto file = open_episodes(dir / "raw.hdf5");
  ASSERT_EQ(file->episodes().size(), 2u);
  EXPECT_EQ(file->camera_names(), (std::vector<std::string>{"base_0_rgb", "left_wrist_0_rgb"}));
  EXPECT_EQ(file->state_dim(), 8);
  EXPECT_EQ(file->action_dim(), 7);
  EXPECT_EQ(file->episodes()[1].name, "demo_1");
  EXPECT_EQ(file->episodes()[1].prompt, "pick up the cup");
  ASSERT_EQ(file->episodes()[1].length, 7);
  for (std::int64_t step = 0; step < 7; ++step) {
    expect_row(file->actions(1)[static_cast<std::size_t>(step)], 1, static_cast<double>(step) + 1, 7);
    const std::vector<Image> images = file->frame(1, step, kBothCameras);
    ASSERT_EQ(images.size(), 2u);
    EXPECT_EQ(images[0].height, 16);
    EXPECT_EQ(images[0].width, 12);
    for (int camera = 0; camera < 2; ++camera) {
      expect_frame(images[static_cast<std::size_t>(camera)], 1, step, camera, /*rotated=*/true);
    }
  }
}

TEST(Libero, StateIsPoseThenGripper) {
  TempDir dir;
  write_libero(dir / "raw.hdf5");
  const auto file = open_episodes(dir / "raw.hdf5");
  const std::vector<float>& state = file->states(1)[3];
  expect_row({state.begin(), state.begin() + 6}, 1, 3, 6);
  expect_row({state.begin() + 6, state.end()}, 1, 3, 2);
}

TEST(Libero, AlignedFilesPairWithTheSameAction) {
  TempDir dir;
  write_libero(dir / "aligned.hdf5");
  const auto file = open_episodes(dir / "aligned.hdf5", DataFormat::kLibero, {.raw_alignment = false});
  ASSERT_EQ(file->episodes()[0].length, 8);
  expect_row(file->actions(0)[5], 0, 5, 7);
  expect_frame(file->frame(0, 5, {0})[0], 0, 5, 0, true);
}

TEST(Libero, DemosAreInNumericOrder) {
  TempDir dir;
  write_libero(dir / "many.hdf5", {.demos = 12, .steps = 3, .height = 2, .width = 2});
  const auto file = open_episodes(dir / "many.hdf5");
  ASSERT_EQ(file->episodes().size(), 12u);
  for (std::size_t i = 0; i < 12; ++i) {
    EXPECT_EQ(file->episodes()[i].name, str("demo_", i));
    EXPECT_NEAR(file->states(static_cast<std::int64_t>(i))[0][0], static_cast<double>(i), 1e-6);
  }
}

// Rows 2 and 3 stand still with an unchanged gripper; row 4 stands still but closes the gripper; row 0 has no
// predecessor and stands still.
std::vector<double> actions_with_noops(int) {
  std::vector<double> values;
  for (int row = 0; row < 6; ++row) {
    const bool still = row == 0 || (row >= 2 && row <= 4);
    for (int i = 0; i < 6; ++i) values.push_back(still ? 1e-6 : 0.5);
    values.push_back(row >= 4 ? 1.0 : -1.0);
  }
  return values;
}

TEST(Libero, NoopsAreDroppedWithTheirFrames) {
  TempDir dir;
  write_libero(dir / "noops.hdf5", {.demos = 1, .steps = 6, .actions = actions_with_noops});
  const auto kept = open_episodes(dir / "noops.hdf5", DataFormat::kLibero, {.raw_alignment = false});
  ASSERT_EQ(kept->episodes()[0].length, 3);  // rows 1, 4 and 5
  expect_frame(kept->frame(0, 0, {1})[0], 0, 1, 1, true);
  expect_frame(kept->frame(0, 1, {1})[0], 0, 4, 1, true);
  EXPECT_FLOAT_EQ(kept->states(0)[1][0], 0.04f);
  EXPECT_EQ(kept->actions(0)[1][6], 1.0f);
  const auto all =
      open_episodes(dir / "noops.hdf5", DataFormat::kLibero, {.raw_alignment = false, .drop_noops = false});
  EXPECT_EQ(all->episodes()[0].length, 6);
  const auto raw = open_episodes(dir / "noops.hdf5");
  ASSERT_EQ(raw->episodes()[0].length, 3);  // observations 0, 3 and 4, with actions 1, 4 and 5
  expect_frame(raw->frame(0, 1, {0})[0], 0, 3, 0, true);
}

TEST(Libero, StepsWithRepeatedImagesAreNoSamples) {
  TempDir dir;
  write_libero(dir / "thirds.hdf5", {.demos = 2, .steps = 7, .drawn = {1, 0, 0, 1, 0, 0, 1}});
  std::vector<Dataset::Source> sources;
  sources.push_back({open_episodes(dir / "thirds.hdf5"), 1.0});
  EXPECT_EQ(sources[0].file->episodes()[0].length, 6);  // actions all stay
  const Dataset dataset(std::move(sources));
  std::vector<std::int64_t> steps;
  for (const Dataset::Sample& sample : dataset.split(0.0, 1).train) steps.push_back(sample.step);
  EXPECT_EQ(steps, (std::vector<std::int64_t>{0, 3, 0, 3}));  // the last observation has no next action
  write_libero(dir / "short.hdf5", {.steps = 7, .drawn = {1, 0}});
  expect_error<CorruptError>([&] { open_episodes(dir / "short.hdf5"); }, "drawn has 2 steps");
}

TEST(Libero, EveryStorageGivesTheSameFrames) {
  const std::vector<Storage> storages = {{.chunk_rows = 1},
                                         {.chunk_rows = 3},
                                         {.chunk_rows = 3, .shuffle = true},
                                         {.chunk_rows = 2, .gzip = false},
                                         {.chunk_rows = 0},
                                         {.chunk_rows = 2, .whole_frames = false}};
  for (std::size_t i = 0; i < storages.size(); ++i) {
    SCOPED_TRACE(str("storage ", i));
    TempDir dir;
    write_libero(dir / "file.hdf5", {.demos = 1, .storage = storages[i]});
    const auto file = open_episodes(dir / "file.hdf5");
    for (std::int64_t step : {6, 0, 3}) expect_frame(file->frame(0, step, {1})[0], 0, step, 1, true);
  }
}

TEST(Libero, PromptComesFromTheFileNameWhereNothingElseSaysIt) {
  TempDir dir;
  const auto forget = [](hid_t file) { H5Adelete_by_name(file, "data", "problem_info", H5P_DEFAULT); };
  write_libero(dir / "KITCHEN_SCENE3_turn_on_the_stove_demo.hdf5", {.spoil = forget});
  EXPECT_EQ(open_episodes(dir / "KITCHEN_SCENE3_turn_on_the_stove_demo.hdf5")->episodes()[0].prompt,
            "turn on the stove");
  write_libero(dir / "open_the_drawer_demo.hdf5", {.spoil = forget});
  EXPECT_EQ(open_episodes(dir / "open_the_drawer_demo.hdf5")->episodes()[0].prompt, "open the drawer");
}

TEST(Libero, PoseAndOrientationStandInForEeStates) {
  TempDir dir;
  write_libero(dir / "split.hdf5",
               {.demos = 1, .spoil = [](hid_t file) {
                  H5Ldelete(file, "data/demo_0/obs/ee_states", H5P_DEFAULT);
                  write_doubles(file, "data/demo_0/obs/ee_pos", {8, 3}, fixture_table(5, 8, 3));
                  write_doubles(file, "data/demo_0/obs/ee_ori", {8, 3}, fixture_table(6, 8, 3));
                }});
  const auto file = open_episodes(dir / "split.hdf5");
  EXPECT_EQ(file->state_dim(), 8);
  EXPECT_NEAR(file->states(0)[0][2], 5.0002, 1e-6);
  EXPECT_NEAR(file->states(0)[0][3], 6.0, 1e-6);
}

TEST(Libero, ThreadsReadTheSameFrames) {
  TempDir dir;
  write_libero(dir / "file.hdf5", {.demos = 2, .steps = 20, .height = 32, .width = 32});
  const auto file = open_episodes(dir / "file.hdf5");
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 100; ++i) {
        const std::int64_t step = (i * 7 + t) % 19;
        const std::vector<Image> images = file->frame(t % 2, step, kBothCameras);
        wrong += images[1].bytes[0] != fixture_pixel(t % 2, step, 1, 31, 31, 0);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0);
}

TEST(Libero, UnknownEpisodesStepsAndCamerasAreRefused) {
  TempDir dir;
  write_libero(dir / "file.hdf5");
  const auto file = open_episodes(dir / "file.hdf5");
  expect_error<UsageError>([&] { file->frame(2, 0, {}); }, "file.hdf5", "episode 2");
  expect_error<UsageError>([&] { file->frame(0, 7, {}); }, "demo_0", "step 7");
  expect_error<UsageError>([&] { file->frame(0, 0, {2}); }, "camera 2");
}

TEST(Aloha, RawFramesAndCanonicalCameras) {
  TempDir dir;
  write_aloha(dir / "episode_0.hdf5");
  const auto file = open_episodes(dir / "episode_0.hdf5");
  EXPECT_EQ(file->camera_names(),
            (std::vector<std::string>{"base_0_rgb", "cam_low", "left_wrist_0_rgb", "right_wrist_0_rgb"}));
  ASSERT_EQ(file->episodes().size(), 1u);
  EXPECT_EQ(file->episodes()[0].name, "episode_0");
  EXPECT_EQ(file->episodes()[0].prompt, "fold the towel");
  EXPECT_EQ(file->episodes()[0].length, 6);
  expect_row(file->actions(0)[4], 0, 4, 14);
  const std::size_t index_of[] = {0, 2, 3, 1};
  for (int camera = 0; camera < 4; ++camera) {
    expect_frame(file->frame(0, 4, {index_of[camera]})[0], 0, 4, camera, /*rotated=*/false);
  }
}

TEST(Aloha, JpegFramesPaddedAndRagged) {
  for (JpegStorage jpeg : {JpegStorage::kPadded, JpegStorage::kRagged}) {
    TempDir dir;
    write_aloha(dir / "episode_0.hdf5", {.jpeg = jpeg});
    const auto file = open_episodes(dir / "episode_0.hdf5");
    const Image image = file->frame(0, 5, {3})[0];
    ASSERT_EQ(image.height, 16);
    ASSERT_EQ(image.width, 24);
    double gap = 0;
    for (std::int64_t y = 0; y < 16; ++y)
      for (std::int64_t x = 0; x < 24; ++x)
        for (std::int64_t c = 0; c < 3; ++c)
          gap += std::abs(image.bytes[static_cast<std::size_t>((y * 24 + x) * 3 + c)] -
                          fixture_pixel(0, 5, 2, y, x, c));
    EXPECT_LT(gap / (16 * 24 * 3), 6.0) << "mean difference in grey levels";
  }
}

TEST(Aloha, AnyJointsAndCameras) {
  TempDir dir;
  write_aloha(dir / "humanoid.hdf5", {.state_dim = 43,
                                      .action_dim = 29,
                                      .cameras = {"head_depth", "torso", "cam_right_wrist", "head"},
                                      .prompt = ""});
  const auto file = open_episodes(dir / "humanoid.hdf5");
  EXPECT_EQ(file->camera_names(), (std::vector<std::string>{"head", "right_wrist_0_rgb", "torso"}));
  EXPECT_EQ(file->state_dim(), 43);
  EXPECT_EQ(file->action_dim(), 29);
  EXPECT_EQ(file->episodes()[0].prompt, "");
  expect_frame(file->frame(0, 0, {0})[0], 0, 0, 3, false);
}

TEST(Aloha, AnInstructionPerStep) {
  TempDir dir;
  const auto opened = [&](const std::vector<std::string>& texts, const std::string& prompt) {
    write_aloha(dir / "two.hdf5", {.steps = 4, .prompt = prompt, .spoil = [&](hid_t file) {
                                     write_texts(file, "language_instruction", texts);
                                   }});
    return open_episodes(dir / "two.hdf5")->episodes().at(0);
  };
  const std::vector<std::string> texts{"fold it", "fold it", "put it away \u2192", "put it away \u2192"};
  const EpisodeInfo two = opened(texts, "");
  EXPECT_EQ(two.prompt, "fold it");
  EXPECT_EQ(two.step_prompts, texts);
  EXPECT_EQ(two.prompt_at(1), "fold it");
  EXPECT_EQ(two.prompt_at(2), "put it away \u2192");
  EXPECT_EQ(opened(texts, "tidy up").prompt, "tidy up");
  const EpisodeInfo one = opened({"fold it"}, "");  // a text for the whole episode
  EXPECT_TRUE(one.step_prompts.empty());
  EXPECT_EQ(one.prompt_at(3), "fold it");
  expect_error<CorruptError>(
      [&] {
        opened({"a", "b"}, "");
      },
      "language_instruction has 2 texts", "4 actions");
  write_aloha(dir / "fixed.hdf5", {.steps = 2, .spoil = [](hid_t file) {
                                     const hid_t type = checked(H5Tcopy(H5T_C_S1));
                                     H5Tset_size(type, 4);
                                     write_dataset(file, "language_instruction", type, {2}, "fold\0\0\0");
                                     H5Tclose(type);
                                   }});
  EXPECT_EQ(open_episodes(dir / "fixed.hdf5")->episodes()[0].step_prompts,
            (std::vector<std::string>{"fold", ""}));
  write_aloha(dir / "numbers.hdf5", {.spoil = [](hid_t file) {
                write_doubles(file, "language_instruction", {2}, {1, 2});
              }});
  expect_error<CorruptError>([&] { open_episodes(dir / "numbers.hdf5"); }, "language_instruction",
                             "does not hold texts");
}

TEST(Readers, TellTheControlRate) {
  const TempDir dir;
  const auto with_arguments = [&](const std::string& arguments) {
    write_libero(dir / "libero.hdf5", {.demos = 1, .steps = 3, .spoil = [&](hid_t file) {
                                         const hid_t data = H5Gopen2(file, "data", H5P_DEFAULT);
                                         write_text_attribute(data, "env_args", arguments);
                                         H5Gclose(data);
                                       }});
    return open_episodes(dir / "libero.hdf5")->control_hz();
  };
  EXPECT_EQ(with_arguments(R"({"env_kwargs": {"control_freq": 20}})"), 20);
  for (const char* silent :
       {"{}", "no JSON", "[]", R"({"env_kwargs": {"control_freq": "20"}})",
        R"({"env_kwargs": {"control_freq": -1}})", R"({"env_kwargs": {"control_freq": 1e300}})"})
    EXPECT_EQ(with_arguments(silent), 0) << silent;
  write_aloha(dir / "silent.hdf5", {.steps = 3});
  EXPECT_EQ(open_episodes(dir / "silent.hdf5")->control_hz(), 0);
  write_aloha(dir / "aloha.hdf5", {.steps = 3, .spoil = [](hid_t file) {
                                     const hid_t space = H5Screate(H5S_SCALAR);
                                     const hid_t attribute = H5Acreate2(file, "fps", H5T_NATIVE_INT, space,
                                                                        H5P_DEFAULT, H5P_DEFAULT);
                                     const int fps = 50;
                                     H5Awrite(attribute, H5T_NATIVE_INT, &fps);
                                     H5Aclose(attribute);
                                     H5Sclose(space);
                                   }});
  EXPECT_EQ(open_episodes(dir / "aloha.hdf5")->control_hz(), 50);
  EXPECT_EQ(open_dataset({{(dir / "*t.hdf5").string()}, {(dir / "aloha.hdf5").string()}}, DataFormat::kAuto)
                .control_rates(),
            std::set<double>{50})
      << "of those that say it";
}

TEST(Aloha, TheInstructionIsKeptAsItIs) {
  const TempDir dir;
  write_aloha(dir / "episode.hdf5", {.steps = 3, .prompt = "fold the towel "});
  EXPECT_EQ(open_episodes(dir / "episode.hdf5")->episodes()[0].prompt, "fold the towel ")
      << "LeRobot's pi0 learns from it so";
}

TEST(Readers, DetectTheLayout) {
  TempDir dir;
  write_libero(dir / "libero.hdf5");
  write_aloha(dir / "aloha.hdf5");
  EXPECT_EQ(open_episodes(dir / "libero.hdf5")->layout(), DataFormat::kLibero);
  EXPECT_EQ(open_episodes(dir / "aloha.hdf5")->layout(), DataFormat::kAloha);
}

}  // namespace
}  // namespace shallowpi
