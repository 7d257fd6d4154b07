// The fused operations against LibTorch's operators: their row functions on the host, themselves where there is
// a GPU.
#include "model/fused.h"

#include "model/fused_rows.h"
#include "model/ops.h"
#include "test_util.h"

namespace shallowpi {
namespace {

using testing::tensor_near;

constexpr std::int64_t kBatch = 2, kTokens = 5, kWidth = 24;

Tensor numbers(at::IntArrayRef shape, torch::Dtype dtype = torch::kFloat32) {
  return torch::randn(shape).to(dtype);
}

/// Half a unit in the last place of bfloat16, relative; the operators round more often than the fused ones.
double tolerance(torch::Dtype dtype) {
  return dtype == torch::kBFloat16 ? 1.0 / 64 : 1e-5;
}

struct NormCase {
  bool update, gate, shift;
};

class FusedTest : public ::testing::Test {
 protected:
  void SetUp() override { torch::manual_seed(3); }
  torch::NoGradGuard no_grad_;
};

template <typename Update, typename Out>
void check_norm_rows(const NormCase& c, torch::Dtype update_dtype, torch::Dtype out_dtype) {
  const Tensor x = numbers({kTokens, kWidth}), scale = numbers({kWidth}), shift = numbers({kWidth}),
               gate = numbers({kWidth}), update = numbers({kTokens, kWidth}, update_dtype);
  Tensor sum = torch::zeros_like(x), out = torch::zeros({kTokens, kWidth}, out_dtype);
  for (std::int64_t s = 0; s < kTokens; ++s) {
    const auto offset = s * kWidth;
    fused::normalize({}, kWidth,
                     fused::NormRow<Update, Out>{x.data_ptr<float>() + offset,
                                                 c.update ? update.data_ptr<Update>() + offset : nullptr,
                                                 c.gate ? gate.data_ptr<float>() : nullptr,
                                                 c.update ? sum.data_ptr<float>() + offset : nullptr,
                                                 scale.data_ptr<float>(),
                                                 c.shift ? shift.data_ptr<float>() : nullptr,
                                                 out.data_ptr<Out>() + offset});
  }
  const Tensor expected = c.update ? add_update(x, update, c.gate ? gate : Tensor()) : x;
  if (c.update) {
    EXPECT_TRUE(tensor_near(sum, expected, 1e-6));
  }
  EXPECT_TRUE(tensor_near(out, norm(expected, {scale, c.shift ? shift : Tensor()}, out_dtype), tolerance(out_dtype),
                          tolerance(out_dtype)));
}

TEST_F(FusedTest, NormRows) {
  for (const NormCase& c : {NormCase{false, false, false}, {true, false, false}, {true, true, true}}) {
    check_norm_rows<float, float>(c, torch::kFloat32, torch::kFloat32);
    check_norm_rows<c10::BFloat16, c10::BFloat16>(c, torch::kBFloat16, torch::kBFloat16);
    check_norm_rows<c10::BFloat16, float>(c, torch::kBFloat16, torch::kFloat32);
  }
}

template <typename T>
void check_rotary_rows(torch::Dtype dtype) {
  constexpr std::int64_t kHeads = 3, kHeadDim = 16;
  const Tensor qkv = numbers({1, kTokens, (kHeads + 2) * kHeadDim}, dtype);
  const Rotation factors = rotation(torch::arange(7, 7 + kTokens), kHeadDim);
  const Heads expected = split_and_rotate(qkv, factors, kHeads);
  Heads got{torch::zeros_like(expected.q_bsnk), torch::zeros_like(expected.k_bsk), torch::zeros_like(expected.v_bsk)};
  for (std::int64_t s = 0; s < kTokens; ++s)
    fused::split_and_rotate({}, kHeads, kHeadDim,
                            fused::RotaryRow<T>{qkv[0][s].data_ptr<T>(), factors.cos[s].data_ptr<float>(),
                                                factors.sin[s].data_ptr<float>(), got.q_bsnk[0][s].data_ptr<T>(),
                                                got.k_bsk[0][s].data_ptr<T>(), got.v_bsk[0][s].data_ptr<T>()});
  EXPECT_TRUE(tensor_near(got.q_bsnk, expected.q_bsnk, tolerance(dtype), tolerance(dtype)));
  EXPECT_TRUE(tensor_near(got.k_bsk, expected.k_bsk, tolerance(dtype), tolerance(dtype)));
  EXPECT_TRUE(torch::equal(got.v_bsk, expected.v_bsk));
}

TEST_F(FusedTest, RotaryRows) {
  check_rotary_rows<float>(torch::kFloat32);
  check_rotary_rows<c10::BFloat16>(torch::kBFloat16);
}

TEST_F(FusedTest, GatePacks) {
  constexpr int kCount = 8;
  const Tensor gate = torch::linspace(-12, 12, kCount), up = numbers({kCount});
  Tensor got = torch::zeros({kCount});
  fused::gate_pack<kCount>(gate.data_ptr<float>(), up.data_ptr<float>(), got.data_ptr<float>());
  EXPECT_TRUE(tensor_near(got, torch::gelu(gate, "tanh") * up, 1e-6, 1e-5));
}

TEST_F(FusedTest, AreNotForCpusOrGradients) {
  EXPECT_FALSE(fused::usable(numbers({2, 8})));
  if (!torch::cuda::is_available()) return;
  const Tensor x = numbers({2, 8}).to(torch::kCUDA);
  EXPECT_TRUE(fused::usable(x));
  EXPECT_FALSE(fused::usable(numbers({2, 12}).to(torch::kCUDA)));
  const torch::AutoGradMode recording(true);
  EXPECT_FALSE(fused::usable(x));
}

class FusedOnGpuTest : public FusedTest {
 protected:
  void SetUp() override {
    FusedTest::SetUp();
    if (!torch::cuda::is_available()) GTEST_SKIP() << "no GPU";
    ASSERT_TRUE(fused::usable(on_gpu(numbers({1, 8}))));
  }
  static Tensor on_gpu(const Tensor& tensor) { return tensor.defined() ? tensor.to(torch::kCUDA) : tensor; }
};

TEST_F(FusedOnGpuTest, Norm) {
  for (const std::int64_t width : {64, 1024, 2048, 4104})
    for (const torch::Dtype dtype : {torch::kFloat32, torch::kBFloat16})
      for (const bool per_row : {false, true}) {
        const Tensor x = numbers({kBatch, kTokens, width}), update = numbers({kBatch, kTokens, width}, dtype);
        // As chunks of one tensor: the factors of a token are not next to those of the following.
        const Tensor all = numbers({per_row ? kBatch : 1, per_row ? kTokens : 1, 3 * width});
        const auto factors = all.chunk(3, -1), gpu_factors = on_gpu(all).chunk(3, -1);
        const Normed expected = add_and_norm(x, update, factors[0], {factors[1], factors[2]}, dtype);
        const Normed got =
            add_and_norm(on_gpu(x), on_gpu(update), gpu_factors[0], {gpu_factors[1], gpu_factors[2]}, dtype);
        EXPECT_TRUE(tensor_near(got.sum, expected.sum, 1e-5));
        EXPECT_TRUE(tensor_near(got.normed, expected.normed, tolerance(dtype), tolerance(dtype)));
        const Tensor weight = numbers({width});
        EXPECT_TRUE(tensor_near(norm(on_gpu(x), {on_gpu(weight)}, dtype), norm(x, {weight}, dtype), tolerance(dtype),
                                tolerance(dtype)));
      }
}

TEST_F(FusedOnGpuTest, SplitAndRotate) {
  for (const torch::Dtype dtype : {torch::kFloat32, torch::kBFloat16})
    for (const std::int64_t heads : {0, 8})
      for (const bool per_sample : {false, true}) {
        const Tensor qkv = numbers({kBatch, kTokens, (heads + 2) * 256}, dtype);
        const Tensor own = torch::arange(kTokens);
        const Rotation factors =
            rotation(per_sample ? torch::tensor({3, 90}).unsqueeze(1) + own : own, 256);
        const Heads expected = split_and_rotate(qkv, factors, heads);
        const Heads got = split_and_rotate(on_gpu(qkv), {on_gpu(factors.cos), on_gpu(factors.sin)}, heads);
        if (heads > 0) {
          EXPECT_TRUE(tensor_near(got.q_bsnk, expected.q_bsnk, tolerance(dtype), tolerance(dtype)));
        }
        EXPECT_TRUE(tensor_near(got.k_bsk, expected.k_bsk, tolerance(dtype), tolerance(dtype)));
        EXPECT_TRUE(torch::equal(got.v_bsk.cpu(), expected.v_bsk));
      }
}

TEST_F(FusedOnGpuTest, Mlp) {
  const Tensor x = numbers({kBatch, kTokens, 64}), gate_up = numbers({2 * 96, 64}) / 8, down = numbers({64, 96}) / 10;
  const Tensor weight = numbers({48, 64}) / 8, bias = numbers({48});
  for (const torch::Dtype dtype : {torch::kFloat32, torch::kBFloat16}) {
    const auto cast = [&](const Tensor& tensor) { return on_gpu(tensor.to(dtype)); };
    EXPECT_TRUE(tensor_near(gated_mlp(cast(x), cast(gate_up), cast(down)), gated_mlp(x, gate_up, down),
                            dtype == torch::kBFloat16 ? 0.05 : 1e-4));
    EXPECT_TRUE(tensor_near(linear_gelu(cast(x), cast(weight), cast(bias)), linear_gelu(x, weight, bias),
                            dtype == torch::kBFloat16 ? 0.05 : 1e-4));
  }
}

struct AttentionCase {
  std::int64_t tokens, prefix, own, head_dim;
  bool ragged, state_alone;
};

TEST_F(FusedOnGpuTest, Attention) {
  constexpr std::int64_t kHeads = 8;
  for (const auto& [tokens, prefix, own, head_dim, ragged, state_alone] :
       {AttentionCase{51, 576, 51, 256, true, true}, {10, 544, 10, 256, true, false}, {576, 576, 0, 256, true, false},
        {2, 17, 2, 16, false, false}, {50, 100, 50, 64, false, true}, {968, 968, 0, 256, true, false}}) {
    SCOPED_TRACE(str(tokens, " tokens, ", prefix, " + ", own, " keys of ", head_dim));
    const auto keys = [&](std::int64_t count) {  // through the operation that gives whole tiles
      const Tensor qkv = numbers({kBatch, count, 2 * head_dim}, torch::kBFloat16);
      const Rotation still = rotation(torch::zeros({count}, torch::kInt64), head_dim);
      return std::make_pair(qkv.chunk(2, -1),
                            split_and_rotate(on_gpu(qkv), {on_gpu(still.cos), on_gpu(still.sin)}, 0));
    };
    const Tensor q = numbers({kBatch, tokens * kHeads, head_dim}, torch::kBFloat16);
    const auto [prefix_kv, gpu_prefix] = keys(prefix);
    const Tensor lengths = ragged ? torch::tensor({prefix, prefix - 7}) : torch::full({kBatch}, prefix, torch::kInt64);
    Tensor allowed = (torch::arange(prefix) < lengths.unsqueeze(1)).unsqueeze(1).expand({-1, tokens, -1});
    Tensor k = prefix_kv[0], v = prefix_kv[1], gpu_own_k, gpu_own_v;
    if (own > 0) {
      const auto [own_kv, gpu_own] = keys(own);
      k = torch::cat({k, own_kv[0]}, 1);
      v = torch::cat({v, own_kv[1]}, 1);
      gpu_own_k = gpu_own.k_bsk;
      gpu_own_v = gpu_own.v_bsk;
      Tensor sees = torch::ones({tokens, own}, torch::kBool);
      if (state_alone) sees[0].narrow(0, 1, own - 1).fill_(false);
      allowed = torch::cat({allowed, sees.expand({kBatch, -1, -1})}, 2);
    }
    const Tensor mask = additive_mask(allowed, torch::kFloat32).repeat_interleave(kHeads, 1);
    const Tensor expected =
        multi_query_attention(q.to(torch::kFloat32), k.to(torch::kFloat32), v.to(torch::kFloat32), mask);
    const Tensor gpu_q = on_gpu(q);
    const fused::AttentionInput input{gpu_q, kHeads, gpu_prefix.k_bsk, gpu_prefix.v_bsk,
                                      ragged ? on_gpu(lengths) : Tensor(), gpu_own_k, gpu_own_v, state_alone};
    ASSERT_TRUE(fused::can_attend(input));
    EXPECT_TRUE(tensor_near(fused::attention(input), expected, 0.02, 0.02));
  }
}

TEST_F(FusedOnGpuTest, AttentionIsRefusedWhereTilesAreNotWhole) {
  const auto on = torch::dtype(torch::kBFloat16).device(torch::kCUDA);
  const Tensor q = torch::randn({1, 64, 64}, on), k = torch::randn({1, 30, 64}, on);
  EXPECT_FALSE(fused::can_attend({q, 8, k, k}));
  const Tensor whole = torch::randn({1, 32, 64}, on);
  EXPECT_TRUE(fused::can_attend({q, 8, whole, whole}));
  EXPECT_FALSE(fused::can_attend({q.to(torch::kFloat32), 8, whole, whole}));
  const Tensor many = torch::randn({1, 1 << 16, 64}, on);
  EXPECT_FALSE(fused::can_attend({q, 8, many, many})) << "more than shared memory holds";
}

}  // namespace
}  // namespace shallowpi
