#include "shallowpi/distill/distiller.h"

#include <cmath>

#include "parity_fixture.h"

namespace shallowpi {
namespace {

using namespace shallowpi::testing;
using torch::Tensor;

// The reference's batch, with its teacher of 18 layers and its student of 6 of them.
struct Reference {
  explicit Reference(const std::string& kind) : io(parity_io(kind)) {
    const NamedTensors weights = parity_weights(kind);
    const Tensor layers = io.at("out.student6_layers");
    kept.assign(layers.data_ptr<std::int64_t>(), layers.data_ptr<std::int64_t>() + layers.numel());
    teacher = parity_policy(weights);
    student = parity_policy(weights, kept);
    batch = {parity_observation(io), io.at("in.actions")};
    draw = make_flow(batch.actions_bhd, io.at("in.noise"), io.at("in.time"));
  }

  LossTerms losses(const LossConfig& config, bool teacher_continues = false) const {
    const torch::NoGradGuard no_grad;
    return Distiller(student, teacher, config, kept, 32, teacher_continues).losses(batch, draw);
  }

  Tensor velocity(Policy policy, const Tensor& given_bh, AttentionTap* tap = nullptr) const {
    const torch::NoGradGuard no_grad;
    return policy->velocity(policy->encode(batch.observation, tap), batch.observation.state_bd, draw.x_t,
                            draw.t, tap, given_bh);
  }

  // The attention loss between these layers of student and teacher.
  double attention(std::int64_t layer, std::int64_t teacher_layer, bool all_queries) const {
    AttentionTap ours{.layer = layer, .backbone_queries = all_queries};
    AttentionTap theirs{.layer = teacher_layer, .backbone_queries = all_queries};
    velocity(student, {}, &ours);
    velocity(teacher, {}, &theirs);
    return attention_loss(theirs, ours, all_queries).mean().item<double>();
  }

  // What the reference says of its student.
  double expected(const std::string& name) const { return io.at("out.student6_loss_" + name).item<double>(); }

  NamedTensors io;
  std::vector<std::int64_t> kept;
  Policy teacher{nullptr}, student{nullptr};
  TrainingBatch batch;
  FlowDraw draw;
};

double mean_of(const std::string& name, const LossTerms& terms) {
  for (const LossTerm& term : terms)
    if (term.name == name) return term.loss.mean().item<double>();
  ADD_FAILURE() << "no loss " << name;
  return NAN;
}

TEST(Distiller, HasTheReferencesLosses) {
  for (const std::string kind : {"pi0", "pi05"}) {
    const Reference reference(kind);
    const LossTerms terms = reference.losses({});
    for (const std::string name : {"task", "kd", "attn"}) {
      const double expected = reference.expected(name);
      EXPECT_NEAR(mean_of(name, terms), expected, 1e-4 * expected) << kind << " " << name;
    }
  }
}

TEST(Distiller, WeighsItsLosses) {
  const Reference reference("pi05");
  const double total = objective(reference.losses({.task = 2, .kd = 3, .attn = 5})).item<double>();
  const double expected =
      2 * reference.expected("task") + 3 * reference.expected("kd") + 5 * reference.expected("attn");
  EXPECT_NEAR(total, expected, 1e-4 * expected);
}

TEST(Distiller, ComparesTheAttentionOfTheLayerThatIsPlaced) {
  const Reference reference("pi05");
  const auto loss = [&](AttentionPlacement placement) {
    return mean_of("attn", reference.losses({.attn_placement = placement}));
  };
  EXPECT_NEAR(loss(AttentionPlacement::kFirst), reference.attention(0, 0, false), 1e-5);
  EXPECT_NEAR(loss(AttentionPlacement::kMiddle), reference.attention(3, 9, false), 1e-5);
  const double last = reference.attention(5, 15, false);
  EXPECT_NEAR(loss(AttentionPlacement::kLast), last, 1e-5);
  EXPECT_GT(last, 0.01) << "of the first layer, which is the teacher's, it is 0";
}

TEST(Distiller, ComparesTheAttentionOfTheQueriesThatAreChosen) {
  const Reference reference("pi05");
  const auto loss = [&](AttentionQueries queries) {
    return mean_of("attn", reference.losses({.attn_queries = queries}));
  };
  const double all = reference.attention(3, 9, true), action = reference.attention(3, 9, false);
  EXPECT_GT(std::abs(all - action), 1e-3);
  EXPECT_NEAR(loss(AttentionQueries::kAll), all, 1e-5);
  EXPECT_NEAR(loss(AttentionQueries::kAction), action, 1e-5);
}

// Real-time chunking: the start of a chunk is given.
TEST(Distiller, TellsBothPoliciesWhichActionsAreGiven) {
  Reference reference("pi05");
  const Tensor given = torch::arange(10).expand({3, 10}) < 5;
  reference.draw = make_flow(reference.batch.actions_bhd, reference.draw.noise, reference.draw.t, given);
  const auto loss = [&](const Tensor& velocity, const Tensor& target) {
    return velocity_loss(velocity, target, 32, given).mean().item<double>();
  };
  const Tensor target = reference.draw.target, student = reference.velocity(reference.student, given);
  const LossTerms terms = reference.losses({}, /*teacher_continues=*/true);
  EXPECT_NEAR(mean_of("task", terms), loss(student, target), 1e-5);
  EXPECT_NEAR(mean_of("kd", terms), loss(student, reference.velocity(reference.teacher, given)), 1e-5);
  EXPECT_GT(std::abs(loss(reference.velocity(reference.student, {}), target) - loss(student, target)), 1e-4)
      << "it makes no difference";
}

}  // namespace
}  // namespace shallowpi
