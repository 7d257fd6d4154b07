#include "shallowpi/distill/losses.h"

#include "parity_fixture.h"

namespace shallowpi {
namespace {

using namespace shallowpi::testing;
using torch::Tensor;

class StudentLosses : public ::testing::TestWithParam<std::string> {};

TEST_P(StudentLosses, EqualTheReference) {
  const NamedTensors weights = parity_weights(GetParam()), io = parity_io(GetParam());
  const Observation observation = parity_observation(io);
  const Tensor t = io.at("in.time"), noise = io.at("in.noise"), actions = io.at("in.actions");
  const Tensor x_t = t.view({-1, 1, 1}) * noise + (1 - t.view({-1, 1, 1})) * actions;
  Policy teacher = parity_policy(weights);
  torch::NoGradGuard no_grad;
  const PrefixCache teacher_cache = teacher->encode(observation);
  for (const int layers : {9, 6, 4}) {
    const std::string out = str("out.student", layers, "_");
    const Tensor kept_tensor = io.at(out + "layers");
    const std::vector<std::int64_t> kept(kept_tensor.data_ptr<std::int64_t>(),
                                         kept_tensor.data_ptr<std::int64_t>() + layers);
    Policy student = parity_policy(weights, kept);
    AttentionTap student_tap{.layer = layers / 2}, teacher_tap{.layer = kept[layers / 2]};
    const Tensor teacher_v = teacher->velocity(teacher_cache, observation.state_bd, x_t, t, &teacher_tap);
    const Tensor v =
        student->velocity(student->encode(observation), observation.state_bd, x_t, t, &student_tap);
    EXPECT_TRUE(
        tensor_near(velocity_loss(v, noise - actions, 32).mean().view(1), io.at(out + "loss_task"), 0, 1e-4));
    EXPECT_TRUE(tensor_near(velocity_loss(v, teacher_v, 32).mean().view(1), io.at(out + "loss_kd"), 0, 1e-4));
    EXPECT_TRUE(tensor_near(attention_loss(teacher_tap, student_tap).mean().view(1), io.at(out + "loss_attn"),
                            0, 1e-4));
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, StudentLosses, ::testing::Values("pi0", "pi05"),
                         [](const auto& info) { return info.param; });

TEST(VelocityLoss, CountsOnlyTheGivenDims) {
  const Tensor v = torch::ones({2, 3, 32}), target = torch::zeros({2, 3, 32});
  target.narrow(2, 7, 25).fill_(100);
  const LossSum loss = velocity_loss(v, target, 7);
  EXPECT_EQ(loss.count, 2 * 3 * 7);
  EXPECT_FLOAT_EQ(loss.mean().item<float>(), 1);
}

TEST(VelocityLoss, CountsSkippedActionsAsRight) {
  const Tensor v = torch::ones({2, 3, 4}), target = torch::zeros({2, 3, 4});
  const Tensor action = torch::tensor({{true, true, false}, {false, false, false}});
  const LossSum loss = velocity_loss(v, target, 4, action);
  EXPECT_FLOAT_EQ(loss.sum.item<float>(), 4 * 4);
  EXPECT_EQ(loss.count, 2 * 3 * 4);
  const Tensor row = torch::tensor({{true}, {false}});
  EXPECT_FLOAT_EQ(velocity_loss(v, target, 4, row).sum.item<float>(), 3 * 4);
}

AttentionTap random_tap(std::int64_t batch, std::int64_t draws, std::int64_t prefix) {
  AttentionTap tap;
  tap.action_queries_bnhk = torch::randn({batch * draws, 2, 3, 4});
  tap.prefix_queries_bnpk = torch::randn({batch, 2, prefix, 4});
  tap.prefix_keys_bpk = torch::randn({batch, prefix, 4});
  tap.mask_bp = torch::ones({batch, prefix}, torch::kBool);
  return tap;
}

TEST(AttentionLoss, IsZeroForEqualTaps) {
  const AttentionTap tap = random_tap(2, 1, 5);
  EXPECT_NEAR(attention_loss(tap, tap, true).sum.item<double>(), 0, 1e-5);
}

TEST(AttentionLoss, IsTheMeanOfTheDraws) {
  torch::manual_seed(1);
  const AttentionTap teacher = random_tap(2, 3, 5), student = random_tap(2, 3, 5);
  double mean = 0;
  for (int r = 0; r < 3; ++r) {
    AttentionTap one_teacher = teacher, one_student = student;
    const Tensor rows = torch::tensor({r, 3 + r}, torch::kInt64);
    one_teacher.action_queries_bnhk = teacher.action_queries_bnhk.index_select(0, rows);
    one_student.action_queries_bnhk = student.action_queries_bnhk.index_select(0, rows);
    mean += attention_loss(one_teacher, one_student).mean().item<double>() / 3;
  }
  EXPECT_NEAR(attention_loss(teacher, student).mean().item<double>(), mean, 1e-6);
}

TEST(AttentionLoss, CountsSkippedDrawsAsEqual) {
  torch::manual_seed(3);
  const AttentionTap teacher = random_tap(2, 2, 5), student = random_tap(2, 2, 5);
  const Tensor skipped = torch::tensor({false, true, false, false});
  const LossSum all = attention_loss(teacher, student, true);
  const LossSum some = attention_loss(teacher, student, true, skipped);
  EXPECT_EQ(some.count, all.count);
  AttentionTap one_teacher = teacher, one_student = student;  // that draw alone
  for (AttentionTap* tap : {&one_teacher, &one_student}) {
    tap->action_queries_bnhk = tap->action_queries_bnhk.narrow(0, 1, 1);
    tap->prefix_keys_bpk = tap->prefix_keys_bpk.narrow(0, 0, 1);
    tap->mask_bp = tap->mask_bp.narrow(0, 0, 1);
  }
  EXPECT_NEAR(all.sum.item<double>() - some.sum.item<double>(),
              attention_loss(one_teacher, one_student).sum.item<double>(), 1e-4);
}

TEST(AttentionLoss, IgnoresMaskedKeysAndQueries) {
  torch::manual_seed(2);
  AttentionTap teacher = random_tap(2, 1, 5), student = random_tap(2, 1, 5);
  teacher.mask_bp[1][4] = false;
  student.mask_bp[1][4] = false;
  const LossSum before = attention_loss(teacher, student, true);
  EXPECT_EQ(before.count, 2 * 2 * 3 + 2 * (5 + 4));
  student.prefix_keys_bpk = student.prefix_keys_bpk.clone();
  student.prefix_keys_bpk[1][4].fill_(50);
  student.prefix_queries_bnpk.select(0, 1).select(1, 4).fill_(7);
  EXPECT_FLOAT_EQ(attention_loss(teacher, student, true).sum.item<float>(), before.sum.item<float>());
}

TEST(AttentionLoss, GivesGradientsToTheStudentOnly) {
  AttentionTap teacher = random_tap(1, 1, 5), student = random_tap(1, 1, 5);
  for (AttentionTap* tap : {&teacher, &student}) {
    tap->action_queries_bnhk.set_requires_grad(true);
    tap->prefix_keys_bpk.set_requires_grad(true);
  }
  student.mask_bp[0][0] = teacher.mask_bp[0][0] = false;
  attention_loss(teacher, student).sum.backward();
  EXPECT_FALSE(teacher.action_queries_bnhk.grad().defined());
  EXPECT_FALSE(teacher.prefix_keys_bpk.grad().defined());
  EXPECT_GT(student.action_queries_bnhk.grad().abs().max().item<double>(), 0);
  const Tensor keys = student.prefix_keys_bpk.grad();
  EXPECT_TRUE(keys.isfinite().all().item<bool>());
  EXPECT_EQ(keys[0][0].abs().max().item<double>(), 0);
  EXPECT_GT(keys[0][1].abs().max().item<double>(), 0);
}

TEST(AttentionLoss, RefusesTapsOfDifferentObservations) {
  EXPECT_ANY_THROW(attention_loss(random_tap(1, 1, 5), random_tap(1, 1, 6)));
  EXPECT_ANY_THROW(attention_loss(AttentionTap{}, random_tap(1, 1, 6)));
}

}  // namespace
}  // namespace shallowpi
