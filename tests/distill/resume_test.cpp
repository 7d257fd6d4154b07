// Runs that stop and go on are, byte for byte, those that never stopped.
#include <csignal>
#include <regex>
#include <thread>

#include "shallowpi/base/manifest.h"
#include "training_fixture.h"

namespace shallowpi {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::expect_same_folder;
using testing::TrainingFixture;

// The run folder as a kill right after the checkpoint of `step` would leave it.
void cut_back(const fs::path& run, std::int64_t step) {
  for (const RunCheckpoint& checkpoint : run_checkpoints(run))
    if (checkpoint.step > step) fs::remove_all(checkpoint.folder);
  fs::remove(run / "last");
}

const std::vector<std::string> kRun = {"train.steps=9", "train.keep_last=9"};

TEST(Resume, IsBitExact) {
  const TrainingFixture fixture;
  ASSERT_EQ(fixture.run("straight", kRun), 0);
  fs::copy(fixture / "straight", fixture / "resumed",
           fs::copy_options::recursive | fs::copy_options::copy_symlinks);
  const std::string metrics = read_file(fixture / "straight/metrics.jsonl");
  for (const std::int64_t step : {6, 3}) {
    cut_back(fixture / "resumed", step);
    ASSERT_EQ(fixture.run("resumed", kRun), 0);
    EXPECT_EQ(read_file(fixture / "resumed/metrics.jsonl"), metrics);
    const fs::path a = fixture / "straight/last", b = fixture / "resumed/last";
    EXPECT_EQ(read_file(a / "model.safetensors"), read_file(b / "model.safetensors"));
    EXPECT_EQ(read_file(a / "training_state/optimizer.safetensors"),
              read_file(b / "training_state/optimizer.safetensors"));
    EXPECT_EQ(read_file(a / "training_state/state.json"), read_file(b / "training_state/state.json"));
  }
}

TEST(Resume, HoldsForADistillationWithSkippedSteps) {
  const TrainingFixture fixture;
  const std::vector<std::string> run = {"teacher.checkpoint=" + fixture.teacher(),
                                        "student.layers=2",
                                        "flow.draws=2",
                                        "train.steps=12",
                                        "train.keep_last=9",
                                        "train.max_skipped=20",
                                        fixture.extreme_demos()};
  ASSERT_EQ(fixture.run("run", run), 0);
  const fs::path copy = fixture / "copy";
  fs::copy(fixture / "run", copy, fs::copy_options::recursive | fs::copy_options::copy_symlinks);
  cut_back(fixture / "run", 9);
  const TrainingState begun = read_training_state(fixture / "run/checkpoints/step_000009/training_state");
  ASSERT_GT(begun.guard.skipped, 0);
  ASSERT_GT(read_training_state(copy / "last/training_state").updates, begun.updates);
  ASSERT_EQ(fixture.run("run", run), 0);
  expect_same_folder(copy / "last", fixture / "run/last");
  EXPECT_EQ(read_file(copy / "metrics.jsonl"), read_file(fixture / "run/metrics.jsonl"));
}

TEST(Resume, WhereTheDemonstrationsSayTheirRateOnlyNow) {
  const TrainingFixture fixture;
  ASSERT_EQ(fixture.run("run", {"train.steps=3"}), 0);
  EXPECT_EQ(read_checkpoint_info(fixture / "run/last").spec.control_hz, 0);
  fixture.write_demos("demos.hdf5", 20);
  ASSERT_EQ(fixture.run("run"), 0);
  EXPECT_EQ(read_checkpoint_info(fixture / "run/last").spec.control_hz, 20);
}

TEST(Resume, AfterASignalToo) {
  const TrainingFixture fixture;
  const std::vector<std::string> run = {"train.steps=60", "train.save_every=30"};
  ASSERT_EQ(fixture.run("straight", run), 0);
  std::thread sender([&] {
    while (!fs::exists(fixture / "stopped/metrics.jsonl") ||
           fs::file_size(fixture / "stopped/metrics.jsonl") < 500)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    kill(getpid(), SIGTERM);
  });
  const int code = fixture.run("stopped", run);
  sender.join();
  ASSERT_EQ(code, 143);
  EXPECT_NO_THROW(verify_manifest(fixture / "stopped/last"));
  const std::int64_t step = read_training_state(fixture / "stopped/last/training_state").step;
  EXPECT_LT(step, 60);
  ASSERT_EQ(fixture.run("stopped", run), 0);
  EXPECT_EQ(read_file(fixture / "straight/metrics.jsonl"), read_file(fixture / "stopped/metrics.jsonl"));
  EXPECT_EQ(read_file(fixture / "straight/last/model.safetensors"),
            read_file(fixture / "stopped/last/model.safetensors"));
}

TEST(Resume, TakesTheStateOfAnotherRunsFolder) {
  const TrainingFixture fixture;
  ASSERT_EQ(fixture.run("straight", kRun), 0);
  ASSERT_EQ(fixture.run("branch", kRun, (fixture / "straight/checkpoints/step_000003").string()), 0);
  EXPECT_EQ(read_file(fixture / "straight/metrics.jsonl"), read_file(fixture / "branch/metrics.jsonl"));
  EXPECT_EQ(read_file(fixture / "straight/last/model.safetensors"),
            read_file(fixture / "branch/last/model.safetensors"));
  EXPECT_EQ(run_checkpoints(fixture / "branch").front().step, 6);
  // A link, and a path as the shell completes it.
  const std::vector<std::string> longer = {"train.steps=12", "train.keep_last=9"};
  ASSERT_EQ(fixture.run("long", longer), 0);
  cut_back(fixture / "long", 9);
  fs::create_directory_symlink("checkpoints/step_000009", fixture / "long/last");
  ASSERT_EQ(fixture.run("from_link", longer, (fixture / "long/last").string()), 0);
  ASSERT_EQ(fixture.run("from_folder", longer, (fixture / "long/checkpoints/step_000003").string() + "/"), 0);
  EXPECT_EQ(read_file(fixture / "from_link/metrics.jsonl"), read_file(fixture / "from_folder/metrics.jsonl"));
  // A checkpoint whose run is gone is refused before the new run's folder appears.
  fs::create_directories(fixture / "alone");
  fs::copy(fixture / "long/checkpoints/step_000003", fixture / "alone/step_000003",
           fs::copy_options::recursive);
  expect_error<UsageError>([&] { fixture.run("other", longer, (fixture / "alone/step_000003").string()); },
                           "metrics.jsonl is missing");
  EXPECT_FALSE(fs::exists(fixture / "other"));
  expect_error<UsageError>([&] { fixture.run("other", {}, (fixture / "nowhere").string()); }, "nowhere");
  const fs::path untrained = fixture / "untrained";
  run_init_only(load_distill_config({}, {"teacher.checkpoint=" + (fixture / "long/last").string()},
                                    ConfigUse::kInitOnly),
                untrained);
  expect_error<UsageError>([&] { fixture.run("other", {}, untrained.string()); },
                           "untrained is not a training checkpoint",
                           "student.checkpoint=" + untrained.string());
}

TEST(Resume, TakesAFinishedRunAsItIs) {
  const TrainingFixture fixture;
  ASSERT_EQ(fixture.run("finished", kRun), 0);
  ASSERT_EQ(fixture.run("new", kRun, (fixture / "finished").string()), 0);
  EXPECT_NO_THROW(verify_manifest(fixture / "new/last"));
  for (const char* file : {"last/model.safetensors", "last/training_state/state.json", "metrics.jsonl"})
    EXPECT_EQ(read_file(fixture / "finished" / file), read_file(fixture / "new" / file)) << file;
}

TEST(Resume, KeysThatAnOlderProgramDidNotHaveGetTheirDefaults) {
  const TrainingFixture fixture;
  ASSERT_EQ(fixture.run("run"), 0);
  const fs::path checkpoint = fixture / "run/last", file = checkpoint / "training_state/config.yaml";
  const std::string old = std::regex_replace(read_file(file), std::regex("\n *outlier_sigma:[^\n]*"), "");
  ASSERT_NE(old, read_file(file));
  testing::write_text(file, old);
  fs::remove(checkpoint / "manifest.json");
  write_manifest(checkpoint);
  expect_error<UsageError>(
      [&] {
        fixture.run("run", {"train.steps=8", "train.outlier_sigma=5"});
      },
      "train.outlier_sigma: 0 -> 5");
  EXPECT_EQ(fixture.run("run", {"train.steps=8"}), 0);
}

TEST(Resume, RefusesAFolderOfAnotherConfiguration) {
  const TrainingFixture fixture;
  ASSERT_EQ(fixture.run("run"), 0);
  expect_error<UsageError>(
      [&] {
        fixture.run("run", {"seed=2", "optimizer.peak_lr=1e-3"});
      },
      "seed: 1 -> 2", "optimizer.peak_lr", "choose another output_dir");
  expect_error<UsageError>([&] { fixture.run("new", {"seed=2"}, (fixture / "run").string()); },
                           "seed: 1 -> 2", "student.checkpoint=" + (fixture / "run/checkpoints").string());
  expect_error<UsageError>([&] { fixture.run("run", {}, "never"); }, "holds checkpoints");
}

TEST(Resume, RefusesOtherDemonstrationsBehindTheSamePattern) {
  const TrainingFixture fixture;
  const std::vector<std::string> run = {"data.files=" + (fixture / "*.hdf5").string()};
  ASSERT_EQ(fixture.run("run", run), 0);
  const std::string config = read_file(fixture / "run/config.yaml");
  const std::size_t checkpoints = run_checkpoints(fixture / "run").size();
  ASSERT_GT(checkpoints, 1u);
  fs::copy(fixture / "demos.hdf5", fixture / "more.hdf5");
  const auto go_on = [&] { fixture.run("run", {run[0], "train.steps=9", "train.keep_last=1"}); };
  expect_error<UsageError>(go_on, "these are not the demonstrations", "student.checkpoint=");
  EXPECT_EQ(read_file(fixture / "run/config.yaml"), config) << "who is refused changes nothing";
  EXPECT_EQ(run_checkpoints(fixture / "run").size(), checkpoints);
  expect_error<UsageError>(
      [&] {
        run_distill(fixture.config("run", {run[0], "train.steps=9"}), {.dry_run = true});
      },
      "these are not the demonstrations");
  expect_error<UsageError>([&] { fixture.run("new", {run[0]}, (fixture / "run").string()); },
                           "these are not the demonstrations");
  EXPECT_FALSE(fs::exists(fixture / "new"));
  fs::remove(fixture / "more.hdf5");
  EXPECT_NO_THROW(go_on());
}

TEST(Resume, RefusesOtherActionsOfTheSameLength) {
  const TrainingFixture fixture;
  const std::vector<std::string> run = {"teacher.checkpoint=" + fixture.teacher(), "student.layers=2"};
  ASSERT_EQ(fixture.run("run", run), 0);  // with the teacher's statistics
  testing::write_libero(fixture / "demos.hdf5", {.demos = 4, .steps = 12});
  expect_error<UsageError>(
      [&] {
        fixture.run("run", {run[0], run[1], "train.steps=9"});
      },
      "these are not the demonstrations");
}

TEST(Resume, AnotherRunsFolderIsNotMissedOnceThereAreOwnCheckpoints) {
  const TrainingFixture fixture;
  ASSERT_EQ(fixture.run("first"), 0);
  const std::string first = (fixture / "first").string();
  ASSERT_EQ(fixture.run("second", {"train.steps=9"}, first), 0);
  fs::remove_all(first);
  EXPECT_EQ(fixture.run("second", {"train.steps=12"}, first), 0);
}

TEST(Resume, GoesOnWhereTheStepsToKeepAreNotThoseSaved) {
  const TrainingFixture fixture;
  const std::vector<std::string> run = {"train.keep_every=5"};  // save_every is 3
  ASSERT_EQ(fixture.run("run", run), 0);
  EXPECT_EQ(fixture.run("run", {run[0], "train.steps=9"}), 0);
}

TEST(Resume, RefusesAnotherTeacherBehindTheSameLink) {
  const TrainingFixture fixture;
  fixture.teacher();
  ASSERT_EQ(fixture.run("other", {"train.steps=3"}), 0);
  fs::create_directory_symlink(fixture.teacher(), fixture / "link");
  const std::vector<std::string> run = {"teacher.checkpoint=" + (fixture / "link").string(),
                                        "student.layers=2"};
  ASSERT_EQ(fixture.run("run", run), 0);
  fs::remove(fixture / "link");
  fs::create_directory_symlink(fixture / "other/last", fixture / "link");
  expect_error<UsageError>(
      [&] {
        fixture.run("run", {run[0], run[1], "train.steps=9"});
      },
      "had another teacher than");
}

TEST(Resume, GoesOnWithATeacherThatHasMoved) {
  const TrainingFixture fixture;
  const fs::path first = fs::canonical(fixture.teacher()), second = fixture / "moved";
  const std::vector<std::string> run = {"teacher.checkpoint=" + first.string(), "student.layers=2"};
  ASSERT_EQ(fixture.run("run", run), 0);
  fs::copy(first, second, fs::copy_options::recursive);
  EXPECT_EQ(fixture.run("run", {"teacher.checkpoint=" + second.string(), run[1], "train.steps=9"}), 0);
  expect_error<UsageError>([&] { fixture.run("run", {run[1], "train.steps=9"}); }, "teacher.checkpoint: ");
  // As a shell completes it.
  EXPECT_EQ(fixture.run("run", {"teacher.checkpoint=" + second.string() + "/", run[1], "train.steps=12"}), 0);
  // Damage is not taken for another teacher.
  std::string weights = read_file(second / "model.safetensors");
  weights.back() ^= 1;
  testing::write_text(second / "model.safetensors", weights);
  expect_error<CorruptError>(
      [&] {
        fixture.run("run", {"teacher.checkpoint=" + second.string(), run[1], "train.steps=15"});
      },
      "manifest.json");
}

TEST(Resume, RefusesATeacherWithOtherSettings) {
  const TrainingFixture fixture;
  const fs::path teacher = fixture / "settings";
  fs::copy(fs::canonical(fixture.teacher()), teacher, fs::copy_options::recursive);
  fs::remove(teacher / "manifest.json");
  const std::vector<std::string> run = {"teacher.checkpoint=" + teacher.string(), "student.layers=2"};
  ASSERT_EQ(fixture.run("run", run), 0);
  Json policy = read_json(teacher / "shallowpi.json");
  policy["resize_mode"] = "torch";
  testing::write_text(teacher / "shallowpi.json", policy.dump());
  expect_error<UsageError>(
      [&] {
        fixture.run("run", {run[0], run[1], "train.steps=9"});
      },
      "another policy's settings", "resize_mode: \"pillow\" -> \"torch\"");
}

TEST(Resume, AnotherRunsBestIsNotThisOnes) {
  const TrainingFixture fixture;
  ASSERT_EQ(fixture.run("run", kRun), 0);
  ASSERT_EQ(fixture.run("branch", {"train.steps=12"}, (fixture / "run").string()), 0);
  EXPECT_EQ(fs::read_symlink(fixture / "branch/best"), fs::path("checkpoints/step_000012"));
}

TEST(Resume, ComparesWithTheCheckpointAndNotWithTheRunsOwnConfiguration) {
  const TrainingFixture fixture;
  ASSERT_EQ(fixture.run("run"), 0);
  const fs::path file = fixture / "run/config.yaml";
  const std::string edited = std::regex_replace(read_file(file), std::regex("\nseed: 1 "), "\nseed: 2 ");
  ASSERT_NE(edited, read_file(file));
  testing::write_text(file, edited);
  const auto go_on = [&] { run_distill(load_distill_config(file, {"train.steps=9"}), {.quiet = true}); };
  expect_error<UsageError>(go_on, "seed: 1 -> 2");
  EXPECT_EQ(read_file(file), edited);
}

TEST(Resume, RefusesAStartWithOtherWeights) {
  const TrainingFixture fixture;
  const fs::path start = fixture / "start";
  fs::copy(fs::canonical(fixture.teacher()), start, fs::copy_options::recursive);
  const std::vector<std::string> run = {"student.checkpoint=" + start.string(),
                                        "optimizer.freeze=[\"*vision_tower*\"]"};
  ASSERT_EQ(fixture.run("run", run), 0);
  fs::remove_all(start);
  ASSERT_EQ(fixture.run("other", {"train.steps=3"}), 0);
  fs::copy(fs::canonical(fixture / "other/last"), start, fs::copy_options::recursive);
  expect_error<UsageError>(
      [&] {
        fixture.run("run", {run[0], run[1], "train.steps=9"});
      },
      "start has other weights than when");
}

TEST(Resume, GoesOnWhereTheStartHasGoneOnAndNothingOfItIsFrozen) {
  const TrainingFixture fixture;
  ASSERT_EQ(fixture.run("first", {"train.steps=3"}), 0);
  const std::vector<std::string> run = {"student.checkpoint=" + (fixture / "first/last").string()};
  ASSERT_EQ(fixture.run("second", run), 0);
  ASSERT_EQ(fixture.run("first", {"train.steps=6"}), 0);
  EXPECT_EQ(fixture.run("second", {run[0], "train.steps=9"}), 0);
}

TEST(Resume, GoesOnWithDemonstrationsThatHaveMoved) {
  const TrainingFixture fixture;
  ASSERT_EQ(fixture.run("run"), 0);
  fs::create_directory(fixture / "moved");
  fs::rename(fixture / "demos.hdf5", fixture / "moved/demos.hdf5");
  const std::string moved = "data.files=" + (fixture / "moved/demos.hdf5").string();
  EXPECT_EQ(fixture.run("run", {moved, "train.steps=9"}), 0);
  testing::write_libero(fixture / "moved/demos.hdf5", {.demos = 5, .steps = 12});
  expect_error<UsageError>([&] { fixture.run("run", {moved, "train.steps=12"}); }, "not the demonstrations");
}

TEST(Resume, KeepsWhatWasLearnedBeforeADamagedFrame) {
  const TrainingFixture fixture;
  testing::write_libero(
      fixture / "damaged.hdf5",
      {.demos = 4, .steps = 12, .spoil = [](hid_t file) {
         const hid_t set = testing::checked(H5Dopen2(file, "data/demo_3/obs/agentview_rgb", H5P_DEFAULT));
         const std::vector<std::uint8_t> junk(40, 0xee);
         const testing::Dims at = {9, 0, 0, 0};
         testing::checked(H5Dwrite_chunk(set, H5P_DEFAULT, 0, at.data(), junk.size(), junk.data()));
         H5Dclose(set);
       }});
  const std::vector<std::string> run = {"data.files=" + (fixture / "damaged.hdf5").string(),
                                        "data.held_out_fraction=0", "train.eval_every=0", "train.steps=50",
                                        "train.save_every=50"};
  expect_error<CorruptError>([&] { fixture.run("run", run); }, "damaged.hdf5", "step 9");
  ASSERT_TRUE(fs::exists(fixture / "run/last")) << "the step before was not saved";
  EXPECT_NO_THROW(verify_manifest(fixture / "run/last"));
  const std::int64_t step = read_training_state(fixture / "run/last/training_state").step;
  EXPECT_GT(step, 0);
  EXPECT_LT(step, 12) << "each frame is read once in 12 batches of 4";
}

TEST(Resume, GoesOnWithoutItsConfigurationAndNotWithoutItsLog) {
  const TrainingFixture fixture;
  ASSERT_EQ(fixture.run("run"), 0);
  fs::remove(fixture / "run/config.yaml");
  EXPECT_EQ(fixture.run("run", {"train.steps=9"}), 0);
  fs::remove(fixture / "run/metrics.jsonl");
  expect_error<UsageError>([&] { fixture.run("run", {"train.steps=12"}); }, "metrics.jsonl is missing",
                           "student.checkpoint=");
  EXPECT_FALSE(fs::exists(fixture / "run/metrics.jsonl"));
}

TEST(Resume, ARunThatHasMovedIsNotBegunAnewWhereItWas) {
  const TrainingFixture fixture;
  ASSERT_EQ(fixture.run("run"), 0);
  const fs::path before = fixture / "run", now = fixture / "moved";
  EXPECT_NO_THROW(check_place_of_run(before / "config.yaml", before));
  EXPECT_NO_THROW(check_place_of_run("configs/some.yaml", before));
  fs::rename(before, now);
  expect_error<UsageError>([&] { check_place_of_run(now / "config.yaml", before); },
                           "the configuration of the run in " + now.string(), "output_dir=" + now.string());
}

TEST(Resume, AStartThatFailedDoesNotBindTheNext) {
  const TrainingFixture fixture;
  expect_error<UsageError>([&] { fixture.run("run", {"optimizer.freeze=['*']"}); },
                           "freezes every parameter");
  EXPECT_EQ(fixture.run("run"), 0);
}

TEST(Resume, RefusesAFolderInUse) {
  const TrainingFixture fixture;
  ASSERT_EQ(fixture.run("run"), 0);
  const FolderLock lock(fixture / "run");
  expect_error<UsageError>([&] { fixture.run("run", {"train.steps=9"}); }, "in use");
}

TEST(Resume, FallsBackToAnIntactCheckpoint) {
  const TrainingFixture fixture;
  ASSERT_EQ(fixture.run("run", kRun), 0);
  const std::string metrics = read_file(fixture / "run/metrics.jsonl");
  const std::string weights = read_file(fixture / "run/last/model.safetensors");
  testing::write_text(fixture / "run/checkpoints/step_000009/model.safetensors", "damaged");
  ASSERT_EQ(fixture.run("run", kRun), 0);
  EXPECT_EQ(read_file(fixture / "run/metrics.jsonl"), metrics);
  EXPECT_EQ(read_file(fixture / "run/last/model.safetensors"), weights);
  for (const RunCheckpoint& checkpoint : run_checkpoints(fixture / "run"))
    fs::remove(checkpoint.folder / "manifest.json");
  expect_error<CorruptError>([&] { fixture.run("run", kRun); }, "none of the checkpoints");
}

}  // namespace
}  // namespace shallowpi
