#include "distill/flat_parameters.h"

#include "test_util.h"

namespace shallowpi {
namespace {

using testing::expect_tensor_near;

ParameterGroup group(const std::string& name, torch::Tensor values) {
  return {values, {{name, 0, values.size(0)}}, false, false};
}

TEST(FlatParameters, AreViewsThatBackwardFills) {
  torch::Tensor a = torch::randn({3, 2}), b = torch::randn({5});
  const torch::Tensor a0 = a.clone();
  FlatParameters flat({group("a", a), group("b", b)});
  EXPECT_EQ(flat.count(), 11);
  EXPECT_EQ(flat.master().numel(), 32) << "each starts on a cache line";
  EXPECT_TRUE(a.equal(a0));
  for (int pass = 0; pass < 2; ++pass) {
    (a.sum() * 2 + (b * b).sum()).backward();
    flat.collect_gradient();
  }
  const NamedTensors gradients = flat.named(flat.gradient());
  expect_tensor_near(gradients.at("a"), torch::full({3, 2}, 4.0), 0);
  expect_tensor_near(gradients.at("b"), 4 * b, 1e-6);
  flat.zero_gradient();
  EXPECT_EQ(a.grad().abs().sum().item<double>(), 0);
  torch::NoGradGuard no_grad;
  flat.master().add_(1);
  expect_tensor_near(a, a0 + 1, 1e-6);
}

TEST(FlatParameters, LetTheModuleComputeWithOtherValues) {
  torch::Tensor a = torch::ones({4});
  FlatParameters flat({group("a", a)});
  const torch::Tensor ema = torch::full_like(flat.master(), 7);
  flat.use(ema);
  EXPECT_EQ(a[0].item<double>(), 7);
  flat.use(flat.master());
  EXPECT_EQ(a[0].item<double>(), 1);
  (a * 3).sum().backward();
  EXPECT_EQ(flat.gradient()[0].item<double>(), 3) << "the gradient still arrives";
}

TEST(FlatParameters, KeepFloat32MasterWeightsOfBfloat16Parameters) {
  torch::Tensor low = torch::full({4}, 1.0, torch::kBFloat16), high = torch::full({2}, 2.0);
  FlatParameters flat({group("low", low), group("high", high)});
  EXPECT_EQ(low.scalar_type(), torch::kBFloat16);
  for (int micro_batch = 0; micro_batch < 3; ++micro_batch) {
    ((low * 0.001).sum() + high.sum()).backward();
    flat.collect_gradient();
  }
  expect_tensor_near(flat.named(flat.gradient()).at("low"), torch::full({4}, 0.003), 1e-5);
  torch::NoGradGuard no_grad;
  for (int step = 0; step < 100; ++step)
    flat.master().add_(1e-3);  // each far below bfloat16's resolution at 1
  flat.use(flat.master());
  expect_tensor_near(low, torch::full({4}, 1.1), 0.005);
  expect_tensor_near(high, torch::full({2}, 2.1), 1e-5);
}

}  // namespace
}  // namespace shallowpi
