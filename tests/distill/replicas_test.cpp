#include "distill/replicas.h"

#include "training_fixture.h"

namespace shallowpi {
namespace {

using testing::TrainingFixture;

TEST(Replicas, CompareTheDimsThatAreConfigured) {
  const TrainingFixture fixture;
  const auto counted = [&](const std::string& dims) {
    const TrainingSetup setup = prepare_training(fixture.config("run", {"loss.dims=" + dims}));
    const TrainingBatch batch = setup.pipeline->make_batch({setup.split.train.front()});
    const FlowDraw draw = draw_flow(batch.actions_bhd, {}, 1);
    return Replicas(setup, load_models(setup)).evaluate(batch, draw).at(0).loss.count;
  };
  EXPECT_EQ(counted("real"), 4 * 7) << "of 4 actions of a LIBERO robot";
  EXPECT_EQ(counted("padded"), 4 * 32);
}

// Real-time chunking: the start of a chunk is given, of up to two actions.
TEST(Replicas, AskATeacherThatContinuesChunksAsLongAsTheStudents) {
  const TrainingFixture fixture;
  TrainingSetup setup =
      prepare_training(fixture.config("run", {"teacher.checkpoint=" + fixture.teacher(), "student.layers=2",
                                              "policy.rtc_training_max_delay=2"}));
  const TrainingBatch batch =
      setup.pipeline->make_batch({setup.split.train.begin(), setup.split.train.begin() + 2});
  const FlowDraw draw = draw_flow(batch.actions_bhd, {.draws = 2}, 5, 2);
  const auto kd = [](const LossTerms& terms) { return terms.at(1).loss.mean().item<double>(); };
  const auto expected = [&](bool teacher_continues) {
    const torch::NoGradGuard no_grad;
    const TrainingModels models = load_models(setup).front();
    return kd(Distiller(models.student, models.teacher, setup.config().loss, setup.kept_layers, 32,
                        teacher_continues)
                  .losses(batch, draw));
  };
  ASSERT_GT(expected(true) - expected(false), 1e-4);
  for (const int delay : {1, 2, 3}) {
    setup.teacher->spec.rtc_training_max_delay = delay;
    EXPECT_NEAR(kd(Replicas(setup, load_models(setup)).evaluate(batch, draw)), expected(delay >= 2), 1e-6)
        << delay;
  }
}

}  // namespace
}  // namespace shallowpi
