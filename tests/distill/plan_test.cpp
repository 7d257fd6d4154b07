#include "shallowpi/distill/plan.h"

#include "training_fixture.h"

namespace shallowpi {
namespace {

namespace fs = std::filesystem;
using testing::TrainingFixture;

std::uint64_t folder_bytes(const fs::path& folder) {
  std::uint64_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(fs::canonical(folder)))
    if (entry.is_regular_file()) bytes += entry.file_size();
  return bytes;
}

TEST(Plan, CountsParametersAndTheCheckpoint) {
  const TrainingFixture fixture;
  const std::string teacher = "teacher.checkpoint=" + fixture.teacher();
  const std::vector<std::string> settings = {teacher, "student.layers=2",
                                             "optimizer.freeze=['*vision_tower*']"};
  const TrainingSetup setup = prepare_training(fixture.config("run", settings));
  const TrainingPlan plan = plan_training(setup);
  EXPECT_FALSE(fs::exists(fixture / "run")) << "a plan writes nothing";
  TrainingModels models = load_models(setup);
  std::int64_t trained = 0, all = 0;
  for (const ParameterGroup& group : trainable_groups(models.student, setup.config().optimizer.freeze))
    trained += group.parameter.numel();
  for (const ParameterGroup& group : models.student->parameter_groups()) all += group.parameter.numel();
  EXPECT_EQ(plan.trained, trained);
  EXPECT_EQ(plan.trained + plan.frozen + plan.dead, all);
  EXPECT_EQ(plan.dead, count_parameters(setup.policy).dead - setup.policy.vocab * setup.policy.expert.width)
      << "all but the expert's lm_head, which no module holds";
  EXPECT_EQ(plan.kept_layers, (std::vector<std::int64_t>{0, 2}));
  EXPECT_EQ(plan.teacher_layers, 4);
  ASSERT_EQ(fixture.run("run", settings), 0);
  const auto measured = static_cast<double>(folder_bytes(fixture / "run/last"));
  EXPECT_NEAR(static_cast<double>(plan.checkpoint_bytes), measured, 0.1 * measured);
}

TEST(Plan, GrowsAsItShould) {
  const TrainingFixture fixture;
  const auto plan = [&](const std::vector<std::string>& more) {
    return plan_training(prepare_training(fixture.config("run", more)));
  };
  const TrainingPlan base = plan({});
  EXPECT_GT(plan({"train.batch_size=16"}).activation_bytes, 3 * base.activation_bytes);
  EXPECT_LT(plan({"train.batch_size=16", "train.accumulate=4"}).activation_bytes, 2 * base.activation_bytes);
  EXPECT_LT(plan({"train.activation_checkpointing=true"}).activation_bytes, base.activation_bytes);
  EXPECT_GT(plan({"train.activation_checkpointing=true"}).flops, base.flops);
  EXPECT_LT(plan({"optimizer.freeze=['*vision_tower*']"}).optimizer_bytes, base.optimizer_bytes);
  EXPECT_EQ(plan({"optimizer.ema_decay=0"}).optimizer_bytes, base.optimizer_bytes / 16 * 12);
  EXPECT_LT(plan({"flow.draws=4"}).flops, 4 * base.flops);
}

TEST(Plan, SaysItAllInWords) {
  const TrainingFixture fixture;
  const std::string text = plan_text(plan_training(prepare_training(fixture.config("run"))));
  for (const char* part : {"pi05, 4 layers", "parameters trained", "dead", "memory, peak", "checkpoint",
                           "disk left", "base_0_rgb, left_wrist_0_rgb", "FLOP"})
    EXPECT_NE(text.find(part), std::string::npos) << part << " in\n" << text;
}

TEST(DryRun, WritesNothing) {
  const TrainingFixture fixture;
  ::testing::internal::CaptureStdout();
  EXPECT_EQ(run_distill(fixture.config("run"), {.dry_run = true}), 0);
  EXPECT_NE(::testing::internal::GetCapturedStdout().find("memory, peak"), std::string::npos);
  EXPECT_FALSE(fs::exists(fixture / "run"));
}

}  // namespace
}  // namespace shallowpi
