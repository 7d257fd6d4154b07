#include "distill/trainer.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <limits>

#include "distill/schedule.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/manifest.h"
#include "shallowpi/base/problems.h"
#include "training_fixture.h"

namespace shallowpi {
namespace {

#ifndef __has_feature  // clang's; GCC says the same with __SANITIZE_ADDRESS__
#define __has_feature(x) 0
#endif

namespace fs = std::filesystem;
using testing::expect_error;
using testing::expect_tensor_near;
using testing::metric_lines;
using testing::TrainingFixture;

const std::string kFrozenTower = "optimizer.freeze=['*vision_tower*', '*multi_modal_projector*']";

// A trainer without the run around it.
struct Bench {
  explicit Bench(const ResolvedConfig& resolved)
      : folder(resolved.config.output_dir),
        setup(prepare_training(resolved)),
        trainer(setup, load_models(setup), read_run_inputs(setup), folder, {}, /*quiet=*/true) {}
  RunFolder folder;
  TrainingSetup setup;
  Trainer trainer;
  StopSignal stop;
};

TEST(Trainer, LearnsFromScratchAndLeavesACompleteFolder) {
  const TrainingFixture fixture;
  ASSERT_EQ(fixture.run("run", {"train.steps=60", "train.log_every=10", "train.eval_every=30",
                                "train.save_every=30"}),
            0);
  const fs::path run = fixture / "run";
  const auto lines = metric_lines(run, "loss");
  ASSERT_EQ(lines.size(), 6u);
  EXPECT_LT(lines.back()["loss"].get<double>(), 0.7 * lines.front()["loss"].get<double>());
  EXPECT_EQ(lines.back()["skipped"], 0);
  EXPECT_EQ(lines.back()["loss"], lines.back()["loss_task"]) << "without a teacher there is no other term";
  EXPECT_EQ(metric_lines(run, "held_out_loss").size(), 2u);
  for (const char* name : {"config.yaml", "timing.jsonl", "tensorboard", "last", "best"})
    EXPECT_TRUE(fs::exists(run / name)) << name;
  EXPECT_NO_THROW(verify_manifest(run / "last"));
  const CheckpointInfo info = read_checkpoint_info(run / "last");
  EXPECT_EQ(info.config.depth(), 4);
  EXPECT_EQ(info.spec.horizon, 4);
  EXPECT_EQ(info.spec.demo_image_size, 16) << "of images that are 16 high and 12 wide";
  EXPECT_TRUE(std::filesystem::exists(fixture / "run/first_batch.jpg"));
  EXPECT_TRUE(info.stats.has_value());
  EXPECT_NO_THROW(load_policy(info));
}

TEST(Trainer, SavesAConfigurationForEveryDirectory) {
  const TrainingFixture fixture;
  const fs::path relative = fs::relative(fixture / "demos.hdf5");
  ASSERT_EQ(fixture.run("run", {"data.files=" + relative.string()}), 0);
  for (const char* file : {"run/config.yaml", "run/last/training_state/config.yaml"}) {
    const fs::path saved = load_distill_config(fixture / file, {}).config.data.files.at(0).path;
    EXPECT_EQ(saved, fs::absolute(relative)) << file;
  }
}

TEST(Trainer, DoesNothingWhereTheRunIsComplete) {
  const TrainingFixture fixture;
  ASSERT_EQ(fixture.run("run"), 0);
  const auto written = fs::last_write_time(fixture / "run/config.yaml");
  ASSERT_EQ(fixture.run("run"), 0);
  EXPECT_EQ(fs::last_write_time(fixture / "run/config.yaml"), written);
  ASSERT_EQ(fixture.run("run", {"train.steps=8"}), 0) << "a longer run goes on";
  EXPECT_EQ(read_training_state(fixture / "run/last/training_state").step, 8);
}

TEST(Trainer, SavesTheAverageOfTheWeights) {
  const TrainingFixture fixture;
  ASSERT_EQ(fixture.run("run"), 0);
  const SafetensorsFolder model(fixture / "run/last");
  const auto names = canonical_names(model);
  std::size_t averages = 0, differing = 0;
  const NamedTensors state = load_safetensors(fixture / "run/last/training_state/optimizer.safetensors");
  for (const auto& [key, average] : state) {
    if (!key.starts_with("ema/")) continue;
    const std::string name = key.substr(4);
    const torch::Tensor saved = model.read(names.at(name));
    EXPECT_TRUE(saved.equal(average.to(saved.scalar_type()))) << name;
    differing += !saved.equal(state.at("master/" + name).to(saved.scalar_type()));
    ++averages;
  }
  EXPECT_GT(averages, 50u);
  EXPECT_GT(differing, 0u);
}

double last_held_out_loss(const fs::path& run) {
  return metric_lines(run, "held_out_loss").back()["held_out_loss"].get<double>();
}

TEST(Trainer, HeldOutLossIsThatOfTheWeightsItSaves) {
  const TrainingFixture fixture;
  ASSERT_EQ(fixture.run("run"), 0);
  ASSERT_EQ(fixture.run("raw", {"optimizer.ema_decay=0"}), 0);
  const double loss = last_held_out_loss(fixture / "run");
  EXPECT_GT(std::abs(last_held_out_loss(fixture / "raw") - loss), 0.02) << "of the same training";
  // A run that leaves what it starts from as it is.
  ASSERT_EQ(fixture.run("again", {"student.checkpoint=" + (fixture / "run/last").string(), "train.steps=1",
                                  "optimizer.peak_lr=1e-30", "optimizer.end_lr=0", "optimizer.warmup_steps=0",
                                  "optimizer.ema_decay=0"}),
            0);
  EXPECT_NEAR(last_held_out_loss(fixture / "again"), loss, 1e-3) << "but for rounding to bfloat16";
}

TEST(Trainer, BestIsTheCheckpointWithTheLeastHeldOutLoss) {
  const TrainingFixture fixture;
  // The learning rate rises until what was learned is lost.
  ASSERT_EQ(fixture.run("run", {"optimizer.peak_lr=1", "optimizer.warmup_steps=10", "train.steps=12",
                                "train.eval_every=2", "train.save_every=2"}),
            0);
  const auto lines = metric_lines(fixture / "run", "held_out_loss");
  ASSERT_EQ(lines.size(), 6u);
  const auto loss = [](const Json& line) { return line["held_out_loss"].get<double>(); };
  const Json& least = *std::ranges::min_element(lines, {}, loss);
  ASSERT_LT(loss(least), loss(lines.back()));
  EXPECT_EQ(fs::canonical(fixture / "run/best"),
            fs::canonical(RunFolder::checkpoint_path(fixture / "run", least["step"].get<std::int64_t>())));
}

TEST(Trainer, UpdatesByTheClippedGradientAtTheRateOfTheStep) {
  const TrainingFixture fixture;
  std::vector<std::map<std::string, torch::Tensor>> states;  // after 0, 1 and 2 steps
  for (const int steps : {1, 2}) {
    Bench bench(fixture.config(str("run", steps), {"optimizer.clip_norm=1e-3", str("train.steps=", steps)}));
    if (states.empty()) states.push_back(bench.trainer.replicas().state());
    bench.trainer.run(bench.stop);
    states.push_back(bench.trainer.replicas().state());
  }
  const OptimizerConfig config = fixture.config("run").config.optimizer;
  const torch::Tensor master = states[0].at("master").clone();
  AdamW adam(config, master);
  for (const int step : {0, 1}) {
    const auto &before = states[step], &after = states[step + 1];
    // The first moment's change tells which gradient was used.
    const torch::Tensor gradient =
        (after.at("exp_avg") - config.beta1 * before.at("exp_avg")) / (1 - config.beta1);
    EXPECT_NEAR(gradient.norm().item<double>(), 1e-3, 1e-5) << step;
    adam.step(master, gradient, learning_rate(config, step));
    expect_tensor_near(after.at("master"), master, 1e-5, 0, str("step ", step));
  }
}

TEST(Trainer, ChangesImagesAndStatesAsConfigured) {
  const TrainingFixture fixture;
  const auto first_loss = [&](const std::string& name, std::vector<std::string> settings) {
    // pi0: a fresh pi0.5's velocity does not depend on the observation yet.
    settings.insert(settings.end(), {"student.architecture.kind=pi0", "policy.prompt_mode=pi0_plain",
                                     "train.steps=1", "train.eval_every=0"});
    EXPECT_EQ(fixture.run(name, settings), 0);
    return metric_lines(fixture / name, "loss").at(0)["loss"].get<double>();
  };
  const std::string plain = "data.augment=false";
  const double loss = first_loss("plain", {plain});
  EXPECT_NE(first_loss("augmented", {}), loss);
  EXPECT_NE(first_loss("noisy", {plain, "data.state_noise=[0, 0, 0, 0, 0, 0, 0, 0.5]"}), loss);
  EXPECT_EQ(first_loss("noiseless", {plain, "data.state_noise=[0, 0, 0, 0, 0, 0, 0, 0]"}), loss);
}

TEST(Trainer, DistilsWithThreeLossesAndOneTower) {
  const TrainingFixture fixture;
  const std::string teacher = "teacher.checkpoint=" + fixture.teacher();
  Bench bench(fixture.config("run", {teacher, "student.layers=2", kFrozenTower, "train.steps=30"}));
  EXPECT_TRUE(bench.trainer.replicas().shares_tower());
  bench.trainer.run(bench.stop);
  const auto lines = metric_lines(fixture / "run", "loss_kd");
  ASSERT_FALSE(lines.empty());
  EXPECT_LT(lines.back()["loss_kd"].get<double>(), lines.front()["loss_kd"].get<double>());
  const Json& line = lines.back();
  EXPECT_NEAR(
      line["loss"].get<double>(),
      line["loss_task"].get<double>() + line["loss_kd"].get<double>() + line["loss_attn"].get<double>(),
      1e-6);
  const CheckpointInfo student = read_checkpoint_info(fixture / "run/last");
  EXPECT_EQ(student.kept_layers, (std::vector<std::int64_t>{0, 2}));
  EXPECT_EQ(student.teacher_fingerprint, weights_fingerprint(read_checkpoint_info(fixture.teacher(), 4)));
}

TEST(Trainer, RefusesPromptsThatItsTeacherDoesNotUnderstand) {
  const TrainingFixture fixture;
  const std::vector<std::string> run = {"teacher.checkpoint=" + fixture.teacher(), "student.layers=2",
                                        "policy.prompt_mode=pi05_state", "policy.max_token_len=100"};
  expect_error<UsageError>([&] { fixture.run("run", run); }, "policy.prompt_mode: pi05_state, but",
                           "says pi05_no_state, and the teacher would not understand another");
  expect_error<UsageError>(
      [&] {
        fixture.run("run", {run[0], run[1], "policy.prompt_mode=pi0_plain"});
      },
      "prompt_mode pi0_plain makes a pi05 policy useless");
  EXPECT_FALSE(fs::exists(fixture / "run"));
}

TEST(Trainer, NeedsNoFileOfTheCheckpointThatItStartedFrom) {
  const TrainingFixture fixture;
  const fs::path start = fixture / "start";  // such as one that another run prunes
  fs::copy(fs::canonical(fixture.teacher()), start, fs::copy_options::recursive);
  const std::string tokenizer = read_file(start / "tokenizer.model");
  Bench bench(fixture.config("run", {"student.checkpoint=" + start.string(), "data.tokenizer="}));
  fs::remove_all(start);
  bench.trainer.run(bench.stop);
  EXPECT_NO_THROW(verify_manifest(fixture / "run/last"));
  EXPECT_EQ(read_file(fixture / "run/last/tokenizer.model"), tokenizer);
}

TEST(Trainer, SharedTowerChangesNothing) {
  const TrainingFixture fixture;
  const std::string teacher = "teacher.checkpoint=" + fixture.teacher();
  const TrainingSetup setup =
      prepare_training(fixture.config("a", {teacher, "student.layers=2", kFrozenTower}));
  const TrainingBatch batch =
      setup.pipeline->make_batch({setup.split.train.begin(), setup.split.train.begin() + 3});
  const FlowDraw draw = draw_flow(batch.actions_bhd, {.draws = 2}, 5);
  std::vector<double> values;
  for (const bool shared : {false, true}) {
    TrainingModels models = load_models(setup).front();
    trainable_groups(models.student, setup.config().optimizer.freeze);
    Distiller distiller(models.student, models.teacher, setup.config().loss, setup.kept_layers, 32);
    if (shared) distiller.share_tower();
    const torch::Tensor total = objective(distiller.losses(batch, draw));
    total.backward();
    values.push_back(total.item<double>());
  }
  EXPECT_EQ(values[0], values[1]);
}

TEST(Trainer, ATeacherMayCutImagesIntoOtherPatches) {
  const TrainingFixture fixture;
  const std::string teacher = "teacher.checkpoint=" + fixture.teacher();
  const TrainingSetup setup = prepare_training(fixture.config("a", {teacher, "student.layers=2"}));
  const TrainingBatch batch =
      setup.pipeline->make_batch({setup.split.train.begin(), setup.split.train.begin() + 2});
  PolicyConfig finer = setup.teacher->config;
  finer.vision.patch /= 2;
  Policy other(finer);
  other->initialize(1);
  LossConfig loss = setup.config().loss;
  loss.attn = 0;  // which compares attention over the same tokens
  Distiller distiller(load_models(setup).front().student, other, loss, setup.kept_layers, 32);
  const torch::Tensor total = objective(distiller.losses(batch, draw_flow(batch.actions_bhd, {}, 5)));
  EXPECT_TRUE(std::isfinite(total.item<double>()));
}

// Real-time chunking: with the start of a chunk given, at any position of the draw.
TEST(Trainer, GivenActionsAreInNoLossAndNewToATeacherThatHasSeenNone) {
  const TrainingFixture fixture;
  const std::string teacher = "teacher.checkpoint=" + fixture.teacher();
  const TrainingSetup setup = prepare_training(fixture.config("a", {teacher, "student.layers=2"}));
  const TrainingBatch batch =
      setup.pipeline->make_batch({setup.split.train.begin(), setup.split.train.begin() + 2});
  FlowDraw draw = draw_flow(batch.actions_bhd, {.draws = 2}, 5, 2);
  const TrainingModels models = load_models(setup).front();
  const auto losses = [&](bool teacher_continues) {
    Distiller distiller(models.student, models.teacher, setup.config().loss, setup.kept_layers, 32,
                        teacher_continues);
    std::map<std::string, double> values;
    torch::NoGradGuard no_grad;
    for (const LossTerm& term : distiller.losses(batch, draw))
      values[term.name] = term.loss.mean().item<double>();
    return values;
  };
  const auto unknown = losses(false), known = losses(true);
  EXPECT_EQ(unknown.at("task"), known.at("task"));
  EXPECT_LT(unknown.at("kd"), known.at("kd"));
  EXPECT_LT(unknown.at("attn"), known.at("attn"));
  // What the loss would have of a given action is not there: its target may be anything.
  draw.target = draw.target.masked_fill(draw.given_mask_bh.unsqueeze(2), 1e6);
  EXPECT_EQ(losses(false).at("task"), unknown.at("task"));
  draw.given_mask_bh = torch::ones_like(draw.given_mask_bh).narrow(1, 0, 1).expand_as(draw.given_mask_bh);
  EXPECT_EQ(losses(false).at("kd"), 0);
  EXPECT_EQ(losses(false).at("attn"), 0);
}

TEST(Trainer, SharesNoTowerThatIsTrainedOrDiffers) {
  const TrainingFixture fixture;
  const std::string teacher = "teacher.checkpoint=" + fixture.teacher();
  const TrainingSetup setup = prepare_training(fixture.config("a", {teacher, "student.layers=2"}));
  TrainingModels models = load_models(setup).front();
  const auto can_share = [&] {
    Distiller distiller(models.student, models.teacher, setup.config().loss, setup.kept_layers, 32);
    distiller.share_tower();
    return distiller.shares_tower();
  };
  EXPECT_FALSE(can_share());
  trainable_groups(models.student, {"*vision_tower*", "*multi_modal_projector*"});
  torch::NoGradGuard no_grad;
  for (const ParameterGroup& group : models.student->parameter_groups()) {
    if (group.parts.front().name.find("multi_modal_projector") == std::string::npos) continue;
    torch::Tensor parameter = group.parameter;
    parameter.view(-1)[0] += 1e-3;
  }
  EXPECT_FALSE(can_share());
}

// Weights, moments and EMA of two runs that differ in the order of their sums only.
void expect_same_training(const fs::path& a, const fs::path& b) {
  const NamedTensors expected = load_safetensors(a / "last/training_state/optimizer.safetensors");
  const NamedTensors tensors = load_safetensors(b / "last/training_state/optimizer.safetensors");
  ASSERT_EQ(tensors.size(), expected.size());
  for (const auto& [name, tensor] : tensors) expect_tensor_near(tensor, expected.at(name), 2e-4, 0, name);
  const auto lines = metric_lines(b, "loss"), expected_lines = metric_lines(a, "loss");
  ASSERT_EQ(lines.size(), expected_lines.size());
  for (std::size_t i = 0; i < lines.size(); ++i)
    for (const auto& [key, value] : lines[i].items())
      EXPECT_NEAR(value.get<double>(), expected_lines[i][key].get<double>(), 1e-3) << key;
}

TEST(Trainer, AccumulationLeavesTheResult) {
  const TrainingFixture fixture;
  ASSERT_EQ(fixture.run("whole", {"flow.draws=2"}), 0);
  ASSERT_EQ(fixture.run("parts", {"flow.draws=2", "train.accumulate=4"}), 0);
  expect_same_training(fixture / "whole", fixture / "parts");
}

TEST(Trainer, SeveralDevicesLeaveTheResult) {
  const TrainingFixture fixture;
  std::vector<std::string> settings = {"teacher.checkpoint=" + fixture.teacher(), "student.layers=2",
                                       "flow.draws=2", "train.batch_size=12",
                                       "policy.rtc_training_max_delay=2"};
  ASSERT_EQ(fixture.run("one", settings), 0);
  settings.insert(settings.end(), {"device=cpu,cpu,cpu", "train.accumulate=2"});
  ASSERT_EQ(fixture.run("three", settings), 0);
  expect_same_training(fixture / "one", fixture / "three");
  const auto held_out = metric_lines(fixture / "three", "held_out_loss");
  const auto expected = metric_lines(fixture / "one", "held_out_loss");
  ASSERT_EQ(held_out.size(), 2u);
  for (int i = 0; i < 2; ++i)
    EXPECT_NEAR(held_out[i]["held_out_loss"].get<double>(), expected[i]["held_out_loss"].get<double>(), 1e-4);
  // The same sums in the same order, whichever device ends first.
  ASSERT_EQ(fixture.run("again", settings), 0);
  EXPECT_EQ(read_file(fixture / "three/last/training_state/optimizer.safetensors"),
            read_file(fixture / "again/last/training_state/optimizer.safetensors"));
  EXPECT_EQ(read_checkpoint_info(fixture / "three/last").spec.rtc_training_max_delay, 2);
}

TEST(Trainer, GoesOnWithOtherDevices) {
  const TrainingFixture fixture;
  const std::string two = "device=cpu,cpu", log = "train.log_every=3";
  ASSERT_EQ(fixture.run("whole", {two, log}), 0);
  ASSERT_EQ(fixture.run("stopped", {two, log, "train.steps=3"}), 0);
  fs::copy(fixture / "stopped", fixture / "other",
           fs::copy_options::recursive | fs::copy_options::copy_symlinks);
  ASSERT_EQ(fixture.run("stopped", {two, log}), 0);
  EXPECT_EQ(read_file(fixture / "whole/last/training_state/optimizer.safetensors"),
            read_file(fixture / "stopped/last/training_state/optimizer.safetensors"));
  ASSERT_EQ(fixture.run("other", {"device=cpu", log}), 0);
  expect_same_training(fixture / "whole", fixture / "other");
}

// The same with two GPUs, or with one that holds two replicas.
TEST(Trainer, SeveralGpusLeaveTheResult) {
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no GPU";
  const TrainingFixture fixture;
  const torch::Device first(torch::kCUDA, 0);
  const torch::Device second(torch::kCUDA, torch::cuda::device_count() > 1 ? 1 : 0);
  const auto run = [&](const std::string& name, const std::vector<torch::Device>& devices) {
    const ResolvedConfig config = fixture.config(name, {"device=cuda:0", "dtype=float32"});
    RunFolder folder(config.config.output_dir);
    TrainingSetup setup = prepare_training(config);
    setup.devices = devices;
    Trainer trainer(setup, load_models(setup), read_run_inputs(setup), folder, {}, /*quiet=*/true);
    const StopSignal stop;
    trainer.run(stop);
  };
  run("one", {first});
  run("two", {first, second});
  expect_same_training(fixture / "one", fixture / "two");
}

TEST(Trainer, RefusesABatchThatDevicesCannotDivide) {
  const TrainingFixture fixture;
  expect_error<UsageError>([&] { fixture.run("run", {"device=cpu,cpu,cpu"}); },
                           "train.batch_size: 4 cannot be divided among 3 devices", "a multiple of 3");
  expect_error<UsageError>([&] { fixture.config("run", {"device=cpu,gpu"}); }, "'cpu,gpu' is not auto, cpu");
}

TEST(Trainer, ATimelineOfOneStepLeavesTheResult) {
  const TrainingFixture fixture;
  ASSERT_EQ(fixture.run("plain"), 0);
  ASSERT_EQ(fixture.run("traced", {"train.trace_step=2"}), 0);
  EXPECT_FALSE(fs::exists(fixture / "plain/trace.json"));
  EXPECT_NE(read_file(fixture / "traced/trace.json").find("autograd::engine"), std::string::npos);
  EXPECT_EQ(read_file(fixture / "plain/last/model.safetensors"),
            read_file(fixture / "traced/last/model.safetensors"));
}

TEST(Trainer, FrozenAndDeadParametersStayAndHaveNoState) {
  const TrainingFixture fixture;
  const std::string teacher = fixture.teacher();
  Bench bench(fixture.config("run", {"teacher.checkpoint=" + teacher, "student.layers=2", kFrozenTower}));
  for (const ParameterGroup& group : bench.trainer.replicas().student()->parameter_groups()) {
    const bool in_tower = group.parts.front().name.find("vision_tower") != std::string::npos;
    if (in_tower || group.dead) EXPECT_FALSE(group.parameter.requires_grad()) << group.parts.front().name;
  }
  bench.trainer.run(bench.stop);
  const NamedTensors state = load_safetensors(fixture / "run/last/training_state/optimizer.safetensors");
  const NamedTensors before = load_safetensors(fs::path(teacher) / "model.safetensors");
  const NamedTensors after = load_safetensors(fixture / "run/last/model.safetensors");
  std::size_t frozen = 0;
  for (const auto& [name, tensor] : after) {
    const bool is_frozen =
        name.find("vision_tower") != std::string::npos || name.find("multi_modal") != std::string::npos;
    EXPECT_EQ(state.count("master/" + name) == 0,
              is_frozen || name.find("language_model.layers.1.mlp") != std::string::npos ||
                  bench.trainer.replicas()
                          .parameters()
                          .named(bench.trainer.replicas().state().at("ema"))
                          .count(name) == 0)
        << name;
    if (!is_frozen) continue;
    EXPECT_TRUE(tensor.equal(before.at(name))) << name;
    ++frozen;
  }
  EXPECT_GT(frozen, 10u);
  std::int64_t trained = 0;
  for (const auto& [name, tensor] : state)
    if (name.starts_with("exp_avg/")) trained += tensor.numel();
  EXPECT_EQ(trained, bench.trainer.replicas().parameters().count());
}

TEST(Trainer, SkipsWhatIsNotFiniteAndGivesUp) {
  const TrainingFixture fixture;
  Bench bench(fixture.config("run", {"train.max_skipped=3", "train.steps=10"}));
  torch::Tensor master = bench.trainer.replicas().parameters().master();
  master[0] = std::numeric_limits<float>::quiet_NaN();
  const torch::Tensor before = master.clone();
  expect_error<DivergedError>([&] { bench.trainer.run(bench.stop); }, "step 3", "3 steps in a row", "demo_",
                              "peak_lr");
  EXPECT_EQ(bench.trainer.state().guard.skipped, 3);
  EXPECT_EQ(bench.trainer.replicas().updates(), 0);
  EXPECT_TRUE(torch::equal(master.view(torch::kInt32), before.view(torch::kInt32)))
      << "unchanged bit for bit";
  EXPECT_EQ(bench.trainer.replicas().state().at("exp_avg").abs().sum().item<double>(), 0);
}

TEST(Trainer, GivesUpWhereEveryStepOfAShortRunIsSkipped) {
  const TrainingFixture fixture;
  Bench bench(fixture.config("run", {"train.steps=2"}));
  torch::Tensor master = bench.trainer.replicas().parameters().master();
  master[0] = std::numeric_limits<float>::quiet_NaN();
  expect_error<DivergedError>([&] { bench.trainer.run(bench.stop); }, "step 2", "2 steps in a row",
                              "no checkpoint was saved yet");
  EXPECT_TRUE(run_checkpoints(fixture / "run").empty());
}

TEST(Trainer, NamesAWayOnAfterADivergence) {
  const TrainingFixture fixture;
  std::vector<std::string> settings = {"teacher.checkpoint=" + fixture.teacher(), "student.layers=2",
                                       "train.max_skipped=3"};
  ASSERT_EQ(fixture.run("run", settings), 0);
  Bench bench(fixture.config("run", settings));
  torch::Tensor master = bench.trainer.replicas().parameters().master();
  master[0] = std::numeric_limits<float>::quiet_NaN();
  const std::string start = "student.checkpoint=" + (fixture / "run/checkpoints/step_000006").string();
  expect_error<DivergedError>([&] { bench.trainer.run(bench.stop); }, "peak_lr in a new output_dir", start);
  settings.insert(settings.end(), {start, "optimizer.peak_lr=1e-3"});
  EXPECT_EQ(fixture.run("again", settings), 0);
}

TEST(Trainer, NamesTheFramesOfASkippedStep) {
  const TrainingFixture fixture;
  testing::write_text(fixture / "stats.json",
                      norm_stats_json(*read_checkpoint_info(fixture.teacher()).stats));
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(fixture.run("run", {fixture.extreme_demos(),
                                "data.norm_stats=" + (fixture / "stats.json").string(), "train.steps=20",
                                "train.save_every=20", "train.eval_every=0", "train.max_skipped=20"}),
            0);
  const std::string shown = ::testing::internal::GetCapturedStderr();
  const std::string frames = "; extreme actions: " + (fixture / "extreme.hdf5").string() + " demo_";
  EXPECT_NE(shown.find(frames), std::string::npos) << shown;
  EXPECT_EQ(shown.find(frames), shown.rfind(frames)) << "only the first time";
  EXPECT_NE(shown.find(" of 20 steps were skipped"), std::string::npos) << shown;
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !__has_feature(address_sanitizer) && \
    !__has_feature(thread_sanitizer)
TEST(Trainer, SaysWhatHelpsWhereMemoryRunsOut) {
  const TrainingFixture fixture;
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_AS, &before), 0);
  std::int64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  rlimit tight = before;
  tight.rlim_cur = static_cast<rlim_t>(pages * ::sysconf(_SC_PAGESIZE)) + (rlim_t{1} << 30);
  ASSERT_EQ(::setrlimit(RLIMIT_AS, &tight), 0);
  expect_error<Error>(  // the images of a batch take 3 GiB for each camera
      [&] {
        fixture.run("run", {"train.batch_size=1048576", "data.workers=1", "data.prefetch=1"});
      },
      "out of memory; lower data.prefetch or raise train.accumulate", "a smaller train.batch_size");
  ::setrlimit(RLIMIT_AS, &before);
}
#endif

TEST(Trainer, SavesAndExitsWhenAskedTo) {
  const TrainingFixture fixture;
  {
    StopSignal stop;
    std::raise(SIGINT);
    EXPECT_TRUE(stop.requested());
    EXPECT_EQ(stop.exit_code(), 130);
  }
  std::signal(SIGHUP, SIG_DFL);  // which may have been ignored for the tests
  for (const int signal : {SIGTERM, SIGUSR1, SIGHUP}) {
    StopSignal stop;
    EXPECT_FALSE(stop.requested());
    std::raise(signal);
    EXPECT_EQ(stop.exit_code(), 143);
  }
}

TEST(TrainableGroups, RefusesPatternsThatSplitAFusedTensorOrMatchNothing) {
  const TrainingFixture fixture;
  const TrainingSetup setup = prepare_training(fixture.config("run"));
  TrainingModels models = load_models(setup).front();
  expect_error<UsageError>(
      [&] { trainable_groups(models.student, {"*gemma_expert*layers.0.self_attn.q_proj*"}); }, "q_proj",
      "k_proj", "stored as one");
  expect_error<UsageError>([&] { trainable_groups(models.student, {"*lora*"}); },
                           "'*lora*' matches no tensor");
  EXPECT_NO_THROW(trainable_groups(models.student, {"*layers.0.self_attn.?_proj*"}));
  expect_error<UsageError>([&] { fixture.run("nothing", {"optimizer.freeze=['*']"}); },
                           "nothing left to train");
}

TEST(MatchesPattern, KnowsStarsAndQuestionMarks) {
  EXPECT_TRUE(matches_pattern("*", ""));
  EXPECT_TRUE(matches_pattern("a.*.c", "a.b.b.c"));
  EXPECT_TRUE(matches_pattern("layers.?.", "layers.1."));
  EXPECT_FALSE(matches_pattern("layers.?.", "layers.11."));
  EXPECT_FALSE(matches_pattern("vision", "vision_tower"));
  EXPECT_FALSE(matches_pattern("*tower", "vision_tower.x"));
  EXPECT_FALSE(matches_pattern("*a*a*a*a*a*a*a*a*a*a*a*a*b", std::string(200, 'a'))) << "in no time";
}

TEST(PrepareTraining, ReportsAllProblemsAtOnce) {
  const TrainingFixture fixture;
  ResolvedConfig config = fixture.config("run");
  config.config.data.files = {{(fixture / "missing.hdf5").string(), 1.0}};
  config.config.data.tokenizer = (fixture / "no.model").string();
  config.config.teacher.checkpoint = (fixture / "no_teacher").string();
  expect_error<ManyProblems>([&] { prepare_training(config); }, "3 problems", "missing.hdf5", "no.model",
                             "no_teacher");
  EXPECT_FALSE(fs::exists(fixture / "run")) << "nothing is written";
}

}  // namespace
}  // namespace shallowpi
