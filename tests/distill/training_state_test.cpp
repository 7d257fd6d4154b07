#include "distill/training_state.h"

#include "test_util.h"

namespace shallowpi {
namespace {

using testing::TempDir;

TrainingState some_state() {
  TrainingState state;
  state.step = 17;
  state.updates = 15;
  state.guard.norms = {0.1, 1.0 / 3};
  state.guard.next = 1;
  state.guard.skipped = 5;
  state.guard.in_a_row = 3;
  state.window.add({{"loss", 0.1 + 0.2}});
  state.metrics_bytes = 12345;
  state.demonstrations = "digest";
  return state;
}

TEST(TrainingState, ComesBackExactly) {
  TempDir dir;
  const torch::Tensor weights = torch::randn({5});
  write_training_state(dir.path(), some_state(), "seed: 1\n", {{"weights", weights}});
  const TrainingState state = read_training_state(dir.path());
  EXPECT_EQ(state.step, 17);
  EXPECT_EQ(state.updates, 15);
  EXPECT_EQ(state.guard.norms, some_state().guard.norms);
  EXPECT_EQ(state.guard.next, 1);
  EXPECT_EQ(state.guard.skipped, 5);
  EXPECT_EQ(state.guard.in_a_row, 3);
  EXPECT_EQ(state.window.sums.at("loss"), 0.1 + 0.2);
  EXPECT_EQ(state.window.steps, 1);
  EXPECT_TRUE(std::isinf(state.best_loss));
  EXPECT_EQ(state.best_step, -1);
  EXPECT_EQ(state.metrics_bytes, 12345u);
  EXPECT_EQ(state.demonstrations, "digest");
  torch::Tensor read = torch::zeros({5});
  read_training_tensors(dir.path(), {{"weights", read}});
  EXPECT_TRUE(read.equal(weights));
}

TEST(TrainingState, RefusesWhatDoesNotFit) {
  TempDir dir;
  write_training_state(dir.path(), some_state(), "", {{"a", torch::zeros({2})}, {"b", torch::zeros({3})}});
  const NamedTensors other{{"a", torch::zeros({4})}, {"c", torch::zeros({1})}};
  testing::expect_error<CorruptError>([&] { read_training_tensors(dir.path(), other); },
                                      "a is [2] instead of [4]", "c is missing", "b is unexpected");
  testing::write_text(dir / "state.json", "{\"version\": 1, \"step\": 3}");
  testing::expect_error<CorruptError>([&] { read_training_state(dir.path()); }, "lacks \"updates\"");
  testing::write_text(dir / "state.json", "{\"version\": 1, \"step\": \"three\"}");
  testing::expect_error<CorruptError>([&] { read_training_state(dir.path()); }, "\"step\"");
  testing::write_text(dir / "state.json", "{\"version\": \"one\"}");
  testing::expect_error<CorruptError>([&] { read_training_state(dir.path()); }, "state.json", "version");
  testing::write_text(dir / "state.json", "{}");
  testing::expect_error<CorruptError>([&] { read_training_state(dir.path()); }, "version");
}

}  // namespace
}  // namespace shallowpi
