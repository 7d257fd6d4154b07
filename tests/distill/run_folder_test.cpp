#include "distill/run_folder.h"

#include <unistd.h>

#include "distill/training_state.h"
#include "shallowpi/base/manifest.h"
#include "test_util.h"

namespace shallowpi {
namespace {

namespace fs = std::filesystem;
using testing::TempDir;

// A checkpoint with a readable training state and nothing else.
void fill(const fs::path& folder, std::int64_t step) {
  fs::create_directory(folder / "training_state");
  TrainingState state;
  state.step = step;
  write_training_state(folder / "training_state", state, "seed: 1\n", {{"weights", torch::ones({4})}});
}

void publish(RunFolder& run, std::int64_t step, std::int64_t best, const TrainConfig& config) {
  run.publish(step, best, config, [&](const fs::path& folder) { fill(folder, step); });
}

std::vector<std::int64_t> steps_in(const fs::path& run) {
  std::vector<std::int64_t> steps;
  for (const auto& checkpoint : run_checkpoints(run)) steps.push_back(checkpoint.step);
  return steps;
}

TEST(StepsToKeep, AreTheLastEveryAndTheBest) {
  TrainConfig config;
  config.keep_last = 2;
  config.keep_every = 100;
  EXPECT_EQ(steps_to_keep({50, 100, 150, 200, 250, 300, 350}, config, 150),
            (std::set<std::int64_t>{100, 150, 200, 300, 350}));
  config.keep_best = false;
  config.keep_every = 0;
  EXPECT_EQ(steps_to_keep({50, 100, 150}, config, 50), (std::set<std::int64_t>{100, 150}));
  config.keep_last = 0;
  EXPECT_EQ(steps_to_keep({50, 100}, config, -1), (std::set<std::int64_t>{100})) << "never none";
}

TEST(MostCheckpoints, CountsThoseThatAreKeptAndTheOneBeingWritten) {
  TrainConfig config;
  EXPECT_EQ(most_checkpoints(config), 9) << "2 last, 5000 to 25000, best, and 30000";
  config.keep_every = 0;
  EXPECT_EQ(most_checkpoints(config), 4);
  config.keep_best = false;
  EXPECT_EQ(most_checkpoints(config), 3);
  config.steps = 1500;
  EXPECT_EQ(most_checkpoints(config), 2);
  config.steps = 10;
  EXPECT_EQ(most_checkpoints(config), 1);
}

TEST(RunFolder, PublishesMovesTheLinksAndThenForgets) {
  TempDir dir;
  RunFolder run(dir / "run");
  TrainConfig config;
  config.keep_last = 1;
  config.keep_every = 0;
  publish(run, 1, 1, config);
  publish(run, 2, 1, config);
  publish(run, 3, 1, config);
  EXPECT_EQ(steps_in(run.path()), (std::vector<std::int64_t>{1, 3}));
  EXPECT_EQ(fs::read_symlink(run.path() / "last"), fs::path("checkpoints/step_000003"));
  EXPECT_EQ(fs::read_symlink(run.path() / "best"), fs::path("checkpoints/step_000001"));
  EXPECT_NO_THROW(verify_manifest(run.path() / "last"));
}

TEST(RunFolder, HasNoBestWhereItIsNotKept) {
  TempDir dir;
  RunFolder run(dir / "run");
  TrainConfig config;
  config.keep_best = false;
  publish(run, 1, 1, config);
  EXPECT_FALSE(fs::is_symlink(run.path() / "best"));
  config.keep_best = true;
  publish(run, 2, 2, config);
  ASSERT_TRUE(fs::exists(run.path() / "best"));
  config.keep_best = false;
  config.keep_last = 1;
  publish(run, 3, 2, config);
  EXPECT_FALSE(fs::is_symlink(run.path() / "best")) << "a link to a checkpoint that is gone";
}

TEST(RunFolder, MovesALinkAlsoWhereItCouldNotBefore) {
  TempDir dir;
  RunFolder run(dir / "run");
  publish(run, 1, -1, {});
  // What a link that could not be renamed may leave.
  fs::create_directory_symlink("nowhere", run.path() / str("last.tmp-", ::getpid(), "-0"));
  publish(run, 2, -1, {});
  EXPECT_EQ(fs::read_symlink(run.path() / "last"), fs::path("checkpoints/step_000002"));
}

TEST(RunFolder, KeepsTheOldCheckpointWhereANewOneCannotBeWritten) {
  TempDir dir;
  RunFolder run(dir / "run");
  publish(run, 1, -1, {});
  EXPECT_THROW(run.publish(2, -1, {}, [](const fs::path&) { throw IoError("disk full"); }), IoError);
  EXPECT_EQ(steps_in(run.path()), std::vector<std::int64_t>{1});
  EXPECT_EQ(fs::read_symlink(run.path() / "last"), fs::path("checkpoints/step_000001"));
  std::size_t entries = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(run.path() / "checkpoints")) ++entries;
  EXPECT_EQ(entries, 1u) << "nothing half-written is left";
}

TEST(RunFolder, IsForOneProcessAtATime) {
  TempDir dir;
  RunFolder run(dir / "run");
  testing::expect_error<UsageError>([&] { RunFolder second(dir / "run"); }, "in use");
}

TEST(NewestValidCheckpoint, FallsBackToOneThatVerifies) {
  TempDir dir;
  RunFolder run(dir / "run");
  TrainConfig config;
  config.keep_last = 9;
  for (std::int64_t step : {10, 20, 30}) publish(run, step, -1, config);
  EXPECT_EQ(newest_valid_checkpoint(run.path())->step, 30);
  testing::write_text(RunFolder::checkpoint_path(run.path(), 30) / "training_state" / "config.yaml",
                      "seed: 2\n");
  fs::remove(RunFolder::checkpoint_path(run.path(), 20) / "manifest.json");
  EXPECT_EQ(newest_valid_checkpoint(run.path())->step, 10);
  // The damaged, newer ones must not push the good one out.
  config.keep_last = 1;
  config.keep_every = 0;
  publish(run, 15, -1, config);
  EXPECT_EQ(newest_valid_checkpoint(run.path())->step, 15);
}

ResolvedConfig configured(const std::vector<std::string>& settings) {
  return load_distill_config({}, settings, ConfigUse::kAny);
}

TEST(ConfigDifferences, AreNamedUnlessTheyMayChange) {
  const ResolvedConfig before = configured({"seed=1", "output_dir=a", "train.steps=10", "data.files=x"});
  const ResolvedConfig after = configured(
      {"seed=2", "output_dir=b", "train.steps=20", "train.trace_step=5", "data.files=y", "policy.horizon=9"});
  const auto differences = config_differences(before, after);
  ASSERT_EQ(differences.size(), 3u);
  EXPECT_EQ(differences[0], "seed: 1 -> 2");
  EXPECT_EQ(differences[1], "policy.horizon: (unset) -> 9");
  EXPECT_NE(differences[2].find("data.files"), std::string::npos);
  EXPECT_TRUE(config_differences(before, before).empty());
}

// Whether what is there is the same is for the trainer to say.
TEST(ConfigDifferences, LetFilesMoveUnderTheirNames) {
  const auto named = [](const fs::path& folder, const std::string& files) {
    return configured({"student.checkpoint=" + (folder / "start").string(),
                       "data.files=[" + (folder / files).string() + "]", "data.norm_stats=compute"});
  };
  const ResolvedConfig before = named("/before", "a*.hdf5");
  EXPECT_TRUE(config_differences(before, named("now/", "a*.hdf5")).empty());
  EXPECT_EQ(config_differences(before, named("/before", "b*.hdf5")).size(), 1u);
}

TEST(ConfigDifferences, LetATeacherMove) {
  const ResolvedConfig here = configured({"teacher.checkpoint=a"}),
                       there = configured({"teacher.checkpoint=b"});
  EXPECT_TRUE(config_differences(here, there).empty());
  EXPECT_FALSE(config_differences(here, configured({})).empty());
}

TEST(AbsolutePaths, NameTheSameFilesFromEverywhere) {
  const ResolvedConfig relative = configured({"output_dir=runs/a", "teacher.checkpoint=../t/last",
                                              "data.files=[my/*.hdf5, /b.hdf5]", "data.norm_stats=compute"});
  const DistillConfig absolute = with_absolute_paths(relative).config;
  const std::string here = fs::current_path().string() + "/";
  EXPECT_EQ(absolute.output_dir, here + "runs/a");
  EXPECT_EQ(absolute.teacher.checkpoint, here + "../t/last");
  EXPECT_EQ(absolute.data.files[0].path, here + "my/*.hdf5");
  EXPECT_EQ(absolute.data.files[1].path, "/b.hdf5");
  EXPECT_EQ(absolute.data.norm_stats, "compute");
  EXPECT_EQ(absolute.student.checkpoint, "");
  EXPECT_TRUE(config_differences(relative, with_absolute_paths(relative)).empty());
}

}  // namespace
}  // namespace shallowpi
