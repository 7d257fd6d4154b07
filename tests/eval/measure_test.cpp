#include "shallowpi/eval/measure.h"

#include "data/fake_episodes.h"
#include "eval/open_gates.h"
#include "parity_fixture.h"

namespace shallowpi {
namespace {

using testing::FakeEpisodes;

/// A small policy for the fake episodes.
Policy fake_policy(std::int64_t depth, std::uint64_t seed) {
  PolicyConfig config;
  config.vision = {1, 16, 16, 4, 2, FakeEpisodes::kSide};
  config.backbone = {depth, 16, 32, 2, 1, 8};
  config.expert = {depth, 16, 32, 2, 1, 8};
  config.vocab = 512;
  Policy policy(config);
  policy->initialize(seed);
  testing::open_gates(policy);
  return policy;
}

struct FakeData {
  Dataset dataset = testing::fake_dataset();
  SamplePipeline pipeline{dataset, testing::fake_spec(), testing::identity_stats(),
                          std::make_shared<Tokenizer>(testing::small_tokenizer()), 512};
  std::vector<Dataset::Sample> samples = dataset.split(0.0, 1).train;
};

MeasureOptions fast_options() {
  MeasureOptions options;
  options.steps = 2;
  options.latency_repetitions = 0;
  return options;
}

TEST(BatchLosses, EqualTheReferenceStudents) {
  torch::NoGradGuard guard;
  for (const std::string kind : {"pi0", "pi05"}) {
    const NamedTensors weights = testing::parity_weights(kind), io = testing::parity_io(kind);
    Policy teacher = testing::parity_policy(weights);
    for (int layers : {9, 6, 4}) {
      const torch::Tensor picked = io.at(str("out.student", layers, "_layers"));
      const std::vector<std::int64_t> kept(picked.data_ptr<std::int64_t>(),
                                           picked.data_ptr<std::int64_t>() + picked.numel());
      MeasuredPolicy student{"student", testing::parity_policy(weights, kept), kept};
      const BatchLosses losses = batch_losses(student, &teacher, testing::parity_observation(io),
                                              io.at("in.actions"), io.at("in.noise"), io.at("in.time"));
      const auto near = [&](double value, const char* name) {
        const double expected = io.at(str("out.student", layers, "_loss_", name)).item<double>();
        EXPECT_NEAR(value, expected, 1e-4 * expected) << kind << " " << layers << " " << name;
      };
      near(losses.loss_task, "task");
      near(losses.loss_kd.value(), "kd");
      near(losses.loss_attn.value(), "attn");
    }
  }
}

TEST(BatchLosses, NeedToKnowWhichLayersWereKept) {
  torch::NoGradGuard guard;
  const NamedTensors weights = testing::parity_weights("pi05"), io = testing::parity_io("pi05");
  Policy teacher = testing::parity_policy(weights);
  MeasuredPolicy student{"mystery", testing::parity_policy(weights, {0, 9}), {}};
  testing::expect_error<UsageError>(
      [&] {
        batch_losses(student, &teacher, testing::parity_observation(io), io.at("in.actions"),
                     io.at("in.noise"), io.at("in.time"));
      },
      "mystery has 2 layers, its teacher 18", "kept_layers");
  student.kept_layers = {0, 18};
  testing::expect_error<UsageError>(
      [&] {
        batch_losses(student, &teacher, testing::parity_observation(io), io.at("in.actions"),
                     io.at("in.noise"), io.at("in.time"));
      },
      "it kept 0, 18: it came from another teacher");
}

TEST(MeasurePolicy, DoesNotDependOnTheBatchSize) {
  FakeData data;
  MeasuredPolicy student{"student", fake_policy(2, 1), {0, 2}};
  Policy teacher = fake_policy(4, 2);
  MeasureOptions options = fast_options();
  options.batch_size = 5;
  const PolicyReport whole =
      measure_policy(student, &teacher, data.dataset, data.pipeline, data.samples, options);
  options.batch_size = 1;
  const PolicyReport single =
      measure_policy(student, &teacher, data.dataset, data.pipeline, data.samples, options);
  ASSERT_EQ(whole.frames.size(), data.samples.size());
  for (std::size_t i = 0; i < whole.frames.size(); ++i) {
    const FrameReport &a = whole.frames[i], &b = single.frames[i];
    EXPECT_NEAR(a.loss_task, b.loss_task, 5e-5);
    EXPECT_NEAR(a.velocity_error_teacher.value(), b.velocity_error_teacher.value(), 5e-5);
    EXPECT_NEAR(a.loss_attn.value(), b.loss_attn.value(), 1e-6);
    EXPECT_NEAR(a.action_error, b.action_error, 5e-5);
  }
  EXPECT_EQ(whole.layers, 2);
  EXPECT_EQ(whole.parameters * 4, static_cast<std::int64_t>(whole.weight_bytes));
  EXPECT_GT(whole.loss_attn.value(), 0.0);
}

TEST(MeasurePolicy, MeansAreThoseOfTheFrames) {
  FakeData data;
  MeasuredPolicy subject{"policy", fake_policy(2, 1), {}};
  const PolicyReport report =
      measure_policy(subject, nullptr, data.dataset, data.pipeline, data.samples, fast_options());
  double task = 0, error = 0;
  for (const FrameReport& frame : report.frames) {
    task += frame.loss_task / static_cast<double>(report.frames.size());
    error += frame.action_error_robot / static_cast<double>(report.frames.size());
    EXPECT_NEAR(frame.action_error, frame.action_error_robot, 1e-5);  // the statistics change nothing
  }
  EXPECT_NEAR(report.loss_task.value(), task, 1e-9);
  EXPECT_NEAR(report.action_error_robot.value(), error, 1e-9);
  ASSERT_EQ(report.action_error_robot_per_dim.size(), 2u);
  EXPECT_NEAR((report.action_error_robot_per_dim[0] + report.action_error_robot_per_dim[1]) / 2, error, 1e-6);
  EXPECT_FALSE(report.loss_kd || report.velocity_error_teacher || report.loss_attn || report.latency_ms);
}

TEST(MeasurePolicy, LossesAreThoseOfTheFixedDraws) {
  torch::NoGradGuard guard;
  FakeData data;
  MeasuredPolicy subject{"policy", fake_policy(2, 1), {}};
  MeasureOptions options = fast_options();
  const PolicyReport report =
      measure_policy(subject, nullptr, data.dataset, data.pipeline, {data.samples[3]}, options);
  const PolicyReport again =
      measure_policy(subject, nullptr, data.dataset, data.pipeline, data.samples, options);
  EXPECT_NEAR(report.frames[0].loss_task, again.frames[3].loss_task, 1e-6);
  options.seed = 43;
  const PolicyReport other =
      measure_policy(subject, nullptr, data.dataset, data.pipeline, {data.samples[3]}, options);
  EXPECT_GT(std::abs(other.frames[0].loss_task - report.frames[0].loss_task), 1e-4);
}

TEST(MeasurePolicy, NoiseOfScaleZeroIsTheSameForEverySeed) {
  FakeData data;
  MeasuredPolicy subject{"policy", fake_policy(2, 1), {}};
  const auto action_error = [&](double noise_scale, std::uint64_t seed) {
    MeasureOptions options = fast_options();
    options.noise_scale = noise_scale;
    options.seed = seed;
    return measure_policy(subject, nullptr, data.dataset, data.pipeline, data.samples, options)
        .action_error.value();
  };
  EXPECT_EQ(action_error(0, 1), action_error(0, 2));
  EXPECT_GT(std::abs(action_error(1, 1) - action_error(1, 2)), 1e-4);
}

TEST(MeasurePolicy, APolicyIsNoWayFromItself) {
  FakeData data;
  Policy policy = fake_policy(3, 5);
  MeasuredPolicy subject{"itself", policy, {}};
  MeasureOptions options = fast_options();
  options.latency_repetitions = 2;
  const PolicyReport report =
      measure_policy(subject, &policy, data.dataset, data.pipeline, data.samples, options);
  EXPECT_EQ(report.velocity_error_teacher.value(), 0.0);
  EXPECT_EQ(report.loss_kd.value(), 0.0);
  EXPECT_NEAR(report.loss_attn.value(), 0.0, 1e-6);
  EXPECT_GT(report.latency_min_ms.value(), 0.0);
  EXPECT_GE(report.latency_ms.value(), report.latency_min_ms.value());
}

TEST(RepeatLastAction, IsTheMeanDistanceToTheActionBefore) {
  FakeData data;  // actions fall by 1/64 per step in every dim; episodes of 5 and 7 steps, chunks of 3
  const PolicyReport report = repeat_last_action(data.dataset, data.pipeline, data.samples);
  ASSERT_EQ(report.frames.size(), 4u + 6u);  // not the first frames
  EXPECT_NEAR(report.frames[0].action_error, (1 + 2 + 3) / 3.0 / 64, 1e-6);
  EXPECT_NEAR(report.frames[3].action_error, (1 + 1 + 1) / 3.0 / 64, 1e-6);  // the last action repeats
  const double expected = ((2 + 2 + 5.0 / 3 + 1) + (2 + 2 + 2 + 2 + 5.0 / 3 + 1)) / 10 / 64;  // both episodes
  EXPECT_NEAR(report.action_error.value(), expected, 1e-6);
  EXPECT_NEAR(report.action_error_robot.value(), report.action_error.value(), 1e-6);
  EXPECT_EQ(report.layers, 0);
}

TEST(ComparisonTable, HasARowPerPolicyAndDashesForWhatDoesNotApply) {
  FakeData data;
  MeasuredPolicy subject{"student", fake_policy(2, 1), {}};
  const std::string table = comparison_table(
      {measure_policy(subject, nullptr, data.dataset, data.pipeline, data.samples, fast_options()),
       repeat_last_action(data.dataset, data.pipeline, data.samples)});
  for (const char* part :
       {"layers", "velocity error", "vs teacher", "action error", "student", "repeat last action", "-"})
    EXPECT_NE(table.find(part), std::string::npos) << table;
}

}  // namespace
}  // namespace shallowpi
