// The fused operations against LibTorch's operators. As part of model_tests they need a GPU;
// fused_on_cpu_tests is the same tests with the kernels translated for a CPU (tests/cuda_on_cpu), where they
// are slow: it leaves large sizes out.
#include "model/fused.h"

#include "model/fused_launch.h"
#include "model/ops.h"
#include "shallowpi/model/policy.h"
#include "test_util.h"

namespace shallowpi {
namespace {

using testing::tensor_near;

#ifdef SHALLOWPI_CUDA_ON_CPU
constexpr bool kOnCpu = true;
#else
constexpr bool kOnCpu = false;
#endif

constexpr std::int64_t kBatch = 2, kTokens = 5;

Tensor numbers(at::IntArrayRef shape, torch::Dtype dtype = torch::kFloat32) {
  return torch::randn(shape).to(dtype);
}

/// Half a unit in the last place of bfloat16, relative; the operators round more often than the fused ones.
double tolerance(torch::Dtype dtype) {
  return dtype == torch::kBFloat16 ? 1.0 / 64 : 1e-5;
}

/// What LibTorch's operators make.
template <typename Make>
auto by_operators(const Make& make) {
  fused::set_enabled(false);
  auto result = make();
  fused::set_enabled(true);
  return result;
}

struct NormCase {
  int parts;  // of the update; 0: none
  bool gate, shift;
};
constexpr NormCase kNormCases[] = {{0, false, false}, {1, false, false}, {1, true, true}, {3, true, false}};

/// A stream of `dtype` with an update as the case wants it.
Residual stream_of(const NormCase& c, torch::Dtype dtype, torch::Dtype update_dtype, std::int64_t width) {
  Residual stream{numbers({kBatch, kTokens, width}, dtype)};
  if (c.parts == 1) stream.update = numbers({kBatch, kTokens, width}, update_dtype);
  if (c.parts > 1) stream.update = numbers({c.parts, kBatch, kTokens, width}, update_dtype);
  return stream;
}

void expect_same(const Normed& got, const Normed& expected, bool updated, torch::Dtype dtype) {
  if (updated) {
    EXPECT_TRUE(tensor_near(got.sum, expected.sum, tolerance(expected.sum.scalar_type()),
                            tolerance(expected.sum.scalar_type())));
  }
  EXPECT_TRUE(tensor_near(got.normed, expected.normed, tolerance(dtype), tolerance(dtype)));
}

class FusedTest : public ::testing::Test {
 protected:
  void SetUp() override {
    torch::manual_seed(3);
    if (!kOnCpu && !torch::cuda::is_available()) GTEST_SKIP() << "no GPU";
    ASSERT_TRUE(fused::usable(on_gpu(numbers({1, 8}))));
  }
  void TearDown() override { fused::allow_clusters(true); }
  static Tensor on_gpu(const Tensor& tensor) {
    return !tensor.defined() ? tensor : kOnCpu ? tensor.clone() : tensor.to(torch::kCUDA);
  }
  torch::NoGradGuard no_grad_;
};

TEST(Fused, IsNotForCpus) {
  const torch::NoGradGuard no_grad;
  if (kOnCpu) GTEST_SKIP() << "here it is";
  EXPECT_FALSE(fused::usable(numbers({2, 8})));
}

TEST_F(FusedTest, AreNotForGradientsAndOddWidths) {
  EXPECT_FALSE(fused::usable(on_gpu(numbers({2, 12}))));
  const torch::AutoGradMode recording(true);
  EXPECT_FALSE(fused::usable(on_gpu(numbers({2, 8}))));
}

TEST_F(FusedTest, RmsNorm) {
  for (const std::int64_t width : {64, 1024, 2048, 4104})
    for (const torch::Dtype dtype : {torch::kFloat32, torch::kBFloat16})
      for (const bool per_row : {false, true})
        for (const NormCase& c : kNormCases) {
          const torch::Dtype update_dtype = c.parts > 1 ? torch::kFloat32 : dtype;
          Residual stream = stream_of(c, torch::kFloat32, update_dtype, width), gpu_stream = stream;
          // As chunks of one tensor: the factors of a token are not next to those of the following.
          const Tensor all = numbers({per_row ? kBatch : 1, per_row ? kTokens : 1, 3 * width});
          const auto factors = all.chunk(3, -1), gpu_factors = on_gpu(all).chunk(3, -1);
          if (c.gate) stream.gate = factors[2];
          gpu_stream = {on_gpu(stream.x), on_gpu(stream.update), c.gate ? gpu_factors[2] : Tensor()};
          const Tensor shift = c.shift ? factors[1] : Tensor(),
                       gpu_shift = c.shift ? gpu_factors[1] : Tensor();
          expect_same(norm(gpu_stream, {gpu_factors[0], gpu_shift}, dtype), by_operators([&] {
                        return norm(stream, {factors[0], shift}, dtype);
                      }),
                      c.parts > 0, dtype);
        }
}

TEST_F(FusedTest, LayerNorm) {
  for (const std::int64_t width : {64, 1152})
    for (const torch::Dtype dtype : {torch::kFloat32, torch::kBFloat16})
      for (const bool updated : {false, true}) {
        const Residual stream = stream_of({updated, false, false}, dtype, dtype, width);
        const Tensor weight = numbers({width}, dtype), bias = numbers({width}, dtype);
        expect_same(layer_norm({on_gpu(stream.x), on_gpu(stream.update)}, on_gpu(weight), on_gpu(bias)),
                    by_operators([&] { return layer_norm(stream, weight, bias); }), updated, dtype);
      }
}

TEST_F(FusedTest, SplitAndRotate) {
  for (const torch::Dtype dtype : {torch::kFloat32, torch::kBFloat16})
    for (const std::int64_t heads : {0, 8})
      for (const int parts : {1, 4})
        for (const bool per_sample : {false, true}) {
          const torch::Dtype in_dtype = parts > 1 ? torch::kFloat32 : dtype;
          const Tensor all = numbers({parts, kBatch, kTokens, (heads + 2) * 256}, in_dtype);
          const Tensor qkv = parts > 1 ? all : all[0], own = torch::arange(kTokens);
          const Rotation factors =
              rotation(per_sample ? torch::tensor({3, 90}).unsqueeze(1) + own : own, 256);
          const Heads expected = by_operators([&] { return split_and_rotate(qkv, factors, heads, dtype); });
          const Heads got =
              split_and_rotate(on_gpu(qkv), {on_gpu(factors.cos), on_gpu(factors.sin)}, heads, dtype);
          // The operators round the sum of the parts before they rotate it.
          const double near = parts * tolerance(dtype);
          if (heads > 0) {
            EXPECT_TRUE(tensor_near(got.q_bsnk, expected.q_bsnk, near, near));
          }
          EXPECT_TRUE(tensor_near(got.k_bsk, expected.k_bsk, near, near));
          EXPECT_TRUE(tensor_near(got.v_bsk, expected.v_bsk, near, near));
        }
}

TEST_F(FusedTest, Project) {
  const std::vector<std::int64_t> all_tokens{1, 10, 17, 33, 51, 64}, some_tokens{10, 51};
  for (const std::int64_t tokens : kOnCpu ? some_tokens : all_tokens)
    for (const auto& [inner, columns] : {std::pair<std::int64_t, std::int64_t>{1024, 2560},
                                         {2048, 1024},
                                         {4096, 1024},
                                         {128, 64},
                                         {1024, 8192}}) {
      SCOPED_TRACE(str(tokens, " x ", inner, " x ", columns));
      const Tensor x = numbers({1, tokens, inner}, torch::kBFloat16);
      const Tensor weight =
          (numbers({columns, inner}) / std::sqrt(static_cast<double>(inner))).to(torch::kBFloat16);
      const Tensor expected = torch::linear(x.to(torch::kFloat32), weight.to(torch::kFloat32));
      const Tensor x_gpu = on_gpu(x), weight_gpu = on_gpu(weight);
      // What a block's shared memory cannot hold is left to LibTorch; the expert's own sizes fit everywhere.
      if (fused::can_project(x_gpu, weight_gpu)) {
        EXPECT_TRUE(tensor_near(fused::project(x_gpu, weight_gpu).sum(0), expected, 1e-4));
      } else {
        EXPECT_GT(tokens, 48);
      }
      if (fused::can_project_and_gate(x_gpu, weight_gpu)) {
        const auto halves = expected.chunk(2, -1);
        EXPECT_TRUE(tensor_near(fused::project_and_gate(x_gpu, weight_gpu),
                                torch::gelu(halves[0], "tanh") * halves[1], 0.02, 0.02));
      } else {
        EXPECT_GT(inner, 1024);
      }
    }
  const Tensor many = on_gpu(numbers({1, 65, 64}, torch::kBFloat16)),
               weight = on_gpu(numbers({64, 64}, torch::kBFloat16));
  EXPECT_FALSE(fused::can_project(many, weight));
  EXPECT_FALSE(fused::can_project(many.narrow(1, 0, 3), on_gpu(numbers({60, 64}, torch::kBFloat16))));
  const Tensor few = many.narrow(1, 0, 16).to(torch::kFloat32);
  const bool runs = fused::can_run_layer(few, weight, weight, weight, weight, 64);
  fused::allow_clusters(false);
  EXPECT_FALSE(fused::can_run_layer(few, weight, weight, weight, weight, 64));
  fused::allow_clusters(true);
  EXPECT_EQ(fused::can_run_layer(few, weight, weight, weight, weight, 64), runs);
  EXPECT_FALSE(
      fused::can_run_layer(many.narrow(1, 0, 17).to(torch::kFloat32), weight, weight, weight, weight, 64));
}

/// What the products of a layer start from: a stream, and the factors of its norm as chunks of one tensor.
struct LayerInput {
  Tensor x;
  TensorList factors;  ///< scale, shift, gate
  Tensor normed;       ///< as the product reads it
};
LayerInput layer_input(std::int64_t batch, std::int64_t tokens, std::int64_t width, bool per_row) {
  LayerInput input{numbers({batch, tokens, width}),
                   numbers({per_row ? batch : 1, per_row ? tokens : 1, 3 * width}).chunk(3, -1),
                   {}};
  input.normed =
      by_operators([&] {
        return norm(Residual{input.x}, {input.factors[0], input.factors[1]}, torch::kBFloat16).normed;
      }).to(torch::kFloat32);
  return input;
}
Tensor weight_of(std::int64_t columns, std::int64_t inner) {
  return (numbers({columns, inner}) / std::sqrt(static_cast<double>(inner))).to(torch::kBFloat16);
}

class FusedLayerTest : public FusedTest {
 protected:
  /// Calls `check(batch, tokens, per_row)` for the numbers of rows that the kernels know.
  template <typename Check>
  void for_rows_of_a_layer(const Check& check) {
    const Tensor some = on_gpu(numbers({1, 8, 64})), square = on_gpu(weight_of(64, 64));
    if (!fused::can_run_layer(some, on_gpu(weight_of(256, 64)), square, square, square, 64))
      GTEST_SKIP() << "this GPU has no clusters";
    for (const auto& [batch, tokens] :
         {std::pair<std::int64_t, std::int64_t>{1, 1}, {1, 10}, {1, 16}, {3, 5}})
      for (const bool per_row : {false, true}) {
        SCOPED_TRACE(str(batch, " x ", tokens, per_row ? " rows, each with its factors" : " rows"));
        check(batch, tokens, per_row);
      }
  }
};

TEST_F(FusedLayerTest, NormProjectAndRotate) {
  for_rows_of_a_layer([&](std::int64_t batch, std::int64_t tokens, bool per_row) {
    for (const auto& [width, heads, head_dim] : {std::array<std::int64_t, 3>{1024, 8, 256}, {128, 2, 64}}) {
      const LayerInput in = layer_input(batch, tokens, width, per_row);
      const Tensor weight = weight_of((heads + 2) * head_dim, width);
      const Rotation factors =
          rotation(torch::arange(batch).unsqueeze(1) * 40 + torch::arange(tokens), head_dim);
      const Heads expected = by_operators([&] {
        return split_and_rotate(torch::linear(in.normed, weight.to(torch::kFloat32)), factors, heads,
                                torch::kFloat32);
      });
      const auto [q, k, v] =
          fused::norm_project_and_rotate(on_gpu(in.x), {on_gpu(in.factors[0]), on_gpu(in.factors[1])},
                                         on_gpu(weight), {on_gpu(factors.cos), on_gpu(factors.sin)}, heads);
      EXPECT_TRUE(tensor_near(q, expected.q_bsnk, 0.02, 0.02));
      EXPECT_TRUE(tensor_near(k, expected.k_bsk, 0.02, 0.02));
      EXPECT_TRUE(tensor_near(v, expected.v_bsk, 0.02, 0.02));
    }
  });
}

TEST_F(FusedLayerTest, NormProjectAndGate) {
  for_rows_of_a_layer([&](std::int64_t batch, std::int64_t tokens, bool per_row) {
    for (const auto& [width, columns] : {std::pair<std::int64_t, std::int64_t>{1024, 8192}, {128, 64}}) {
      const LayerInput in = layer_input(batch, tokens, width, per_row);
      const Tensor weight = weight_of(columns, width);
      const auto halves = torch::linear(in.normed, weight.to(torch::kFloat32)).chunk(2, -1);
      EXPECT_TRUE(
          tensor_near(fused::norm_project_and_gate(
                          on_gpu(in.x), {on_gpu(in.factors[0]), on_gpu(in.factors[1])}, on_gpu(weight)),
                      torch::gelu(halves[0], "tanh") * halves[1], 0.02, 0.02));
    }
  });
}

TEST_F(FusedLayerTest, ProjectAndAdd) {
  for_rows_of_a_layer([&](std::int64_t batch, std::int64_t tokens, bool per_row) {
    for (const auto& [inner, columns] :
         {std::pair<std::int64_t, std::int64_t>{2048, 1024}, {4096, 1024}, {128, 64}}) {
      const LayerInput in = layer_input(batch, tokens, columns, per_row);
      const Tensor y = numbers({batch, tokens, inner}, torch::kBFloat16), weight = weight_of(columns, inner);
      const Tensor product = torch::linear(y.to(torch::kFloat32), weight.to(torch::kFloat32));
      for (const bool gated : {false, true})
        EXPECT_TRUE(tensor_near(fused::project_and_add(on_gpu(y), on_gpu(weight), on_gpu(in.x),
                                                       gated ? on_gpu(in.factors[2]) : Tensor()),
                                in.x + (gated ? in.factors[2] * product : product), 1e-4));
    }
  });
}

TEST_F(FusedTest, Gate) {
  const Tensor gate = torch::linspace(-12, 12, 8), up = numbers({8});
  EXPECT_TRUE(tensor_near(fused::gate(on_gpu(torch::cat({gate, up}).unsqueeze(0)))[0],
                          torch::gelu(gate, "tanh") * up, 1e-6, 1e-5));
}

TEST_F(FusedTest, Mlp) {
  const Tensor x = numbers({kBatch, kTokens, 64}), gate_up = numbers({2 * 96, 64}) / 8,
               down = numbers({64, 96}) / 10;
  const Tensor weight = numbers({48, 64}) / 8, bias = numbers({48});
  for (const torch::Dtype dtype : {torch::kFloat32, torch::kBFloat16}) {
    const auto cast = [&](const Tensor& tensor) { return on_gpu(tensor.to(dtype)); };
    const Tensor mlp = gated_mlp(cast(x), cast(gate_up), cast(down));
    const double near = dtype == torch::kBFloat16 ? 0.05 : 1e-4;
    EXPECT_TRUE(tensor_near(mlp.dim() == 4 ? mlp.sum(0) : mlp,
                            by_operators([&] { return gated_mlp(x, gate_up, down); }), near));
    if (kOnCpu) continue;  // the next is cuBLASLt's
    EXPECT_TRUE(tensor_near(linear_gelu(cast(x), cast(weight), cast(bias)),
                            by_operators([&] { return linear_gelu(x, weight, bias); }), near));
  }
}

struct AttentionCase {
  std::int64_t tokens, prefix, own, head_dim;
  bool ragged, state_alone;
};

TEST_F(FusedTest, Attention) {
  constexpr std::int64_t kHeads = 8;
  for (const auto& [tokens, prefix, own, head_dim, ragged, state_alone] :
       {AttentionCase{51, 576, 51, 256, true, true},
        {10, 544, 10, 256, true, false},
        {576, 576, 0, 256, true, false},
        {10, 1500, 10, 256, true, false},
        {30, 70, 0, 256, true, false},
        {2, 17, 2, 16, false, false},
        {50, 100, 50, 64, false, true},
        {968, 968, 0, 256, true, false},
        {21, 140, 21, 32, true, true},
        {3, 8, 3, 128, false, false}}) {
    SCOPED_TRACE(str(tokens, " tokens, ", prefix, " + ", own, " keys of ", head_dim));
    if (kOnCpu && tokens * prefix > 30'000) continue;
    const auto keys = [&](std::int64_t count) {
      return std::make_pair(numbers({kBatch, count, head_dim}, torch::kBFloat16),
                            numbers({kBatch, count, head_dim}, torch::kBFloat16));
    };
    const Tensor q = numbers({kBatch, tokens * kHeads, head_dim}, torch::kBFloat16);
    const auto [prefix_k, prefix_v] = keys(prefix);
    const Tensor lengths =
        ragged ? torch::tensor({prefix, prefix - 7}) : torch::full({kBatch}, prefix, torch::kInt64);
    Tensor allowed = (torch::arange(prefix) < lengths.unsqueeze(1)).unsqueeze(1).expand({-1, tokens, -1});
    Tensor k = prefix_k, v = prefix_v, gpu_own_k, gpu_own_v;
    if (own > 0) {
      const auto [own_k, own_v] = keys(own);
      k = torch::cat({k, own_k}, 1);
      v = torch::cat({v, own_v}, 1);
      gpu_own_k = on_gpu(own_k);
      gpu_own_v = on_gpu(own_v);
      Tensor sees = torch::ones({tokens, own}, torch::kBool);
      if (state_alone) sees[0].narrow(0, 1, own - 1).fill_(false);
      allowed = torch::cat({allowed, sees.expand({kBatch, -1, -1})}, 2);
    }
    const Tensor mask = additive_mask(allowed, torch::kFloat32).repeat_interleave(kHeads, 1);
    const Tensor expected =
        multi_query_attention(q.to(torch::kFloat32), k.to(torch::kFloat32), v.to(torch::kFloat32), mask);
    const Tensor gpu_q = on_gpu(q), gpu_k = on_gpu(prefix_k), gpu_v = on_gpu(prefix_v);
    const fused::AttentionInput input{
        gpu_q, kHeads, gpu_k, gpu_v, ragged ? on_gpu(lengths) : Tensor(), gpu_own_k, gpu_own_v, state_alone};
    ASSERT_TRUE(fused::has_attention(gpu_q, head_dim));
    for (const bool clusters : {true, false}) {
      SCOPED_TRACE(clusters ? "with clusters" : "without clusters");
      fused::allow_clusters(clusters);
      EXPECT_TRUE(tensor_near(fused::attention(input), expected, 0.02, 0.02));
    }
  }
}

TEST_F(FusedTest, SelfAttention) {
  for (const auto& [images, tokens, heads, head_dim] :
       {std::array<std::int64_t, 4>{2, 256, 16, 72}, {1, 64, 4, 64}, {3, 16, 4, 16}, {2, 37, 2, 32}}) {
    SCOPED_TRACE(str(images, " x ", tokens, " tokens, ", heads, " heads of ", head_dim));
    const Tensor qkv = numbers({images, tokens, 3 * heads * head_dim}, torch::kBFloat16);
    const auto parts =
        qkv.to(torch::kFloat32).view({images, tokens, 3, heads, head_dim}).permute({2, 0, 3, 1, 4}).unbind(0);
    const Tensor expected = torch::scaled_dot_product_attention(parts[0], parts[1], parts[2])
                                .transpose(1, 2)
                                .reshape({images, tokens, heads * head_dim});
    const Tensor gpu_qkv = on_gpu(qkv);
    ASSERT_TRUE(fused::can_self_attend(gpu_qkv, heads));
    EXPECT_TRUE(tensor_near(fused::self_attention(gpu_qkv, heads), expected, 0.02, 0.02));
  }
}

TEST_F(FusedTest, AttentionIsRefusedForOtherShapes) {
  const Tensor q = on_gpu(numbers({1, 64, 64}, torch::kBFloat16));
  EXPECT_TRUE(fused::has_attention(q, 64));
  EXPECT_FALSE(fused::has_attention(q.to(torch::kFloat32), 64));
  EXPECT_FALSE(fused::has_attention(q, 48));
  const Tensor wide = on_gpu(numbers({1, 30, 128}, torch::kBFloat16)).narrow(2, 0, 64);
  EXPECT_THROW(fused::attention({q, 8, wide, wide}), c10::Error) << "not contiguous";
}

/// Of sizes that all kernels take.
Policy policy_with_kernels(PolicyKind kind, torch::Dtype dtype) {
  PolicyConfig config;
  config.kind = kind;
  config.vision = {.depth = 2, .width = 64, .mlp = 128, .heads = 4, .patch = 7, .image_size = 28};
  config.backbone = {.depth = 3, .width = 128, .mlp = 192, .heads = 4, .kv_heads = 1, .head_dim = 64};
  config.expert = {.depth = 3, .width = 64, .mlp = 128, .heads = 4, .kv_heads = 1, .head_dim = 64};
  config.vocab = 50;
  const torch::Device device(kOnCpu ? torch::kCPU : torch::kCUDA);
  Policy policy(config, dtype, device);
  policy->initialize(3);
  torch::manual_seed(4);
  for (auto& [name, tensor] : policy->named_tensors())  // zeros would hide the time and half of the expert
    if (name.find(".dense.") != std::string::npos) tensor.copy_(torch::randn(tensor.sizes()) * 0.3);
  return policy;
}

/// Samples of which the first lacks nothing, the second the end of its prompt, the third a camera.
Observation observation_of(std::int64_t batch) {
  torch::manual_seed(5);
  Observation o;
  for (int camera = 0; camera < 2; ++camera) {
    o.images_bcyx.push_back(torch::rand({batch, 3, 28, 28}) * 2 - 1);
    o.image_masks_b.push_back(torch::arange(batch) < (camera == 0 ? batch : 2));
  }
  o.tokens_bt = torch::randint(3, 50, {batch, 6}, torch::kInt64);
  o.token_mask_bt = torch::arange(6) < torch::tensor({6, 2, 4}).narrow(0, 0, batch).unsqueeze(1);
  o.tokens_bt.masked_fill_(o.token_mask_bt.logical_not(), 0);
  o.state_bd = torch::randn({batch, 32});
  return o;
}

class FusedPolicyTest : public FusedTest, public ::testing::WithParamInterface<PolicyKind> {};
INSTANTIATE_TEST_SUITE_P(Kinds, FusedPolicyTest, ::testing::Values(PolicyKind::kPi0, PolicyKind::kPi05));

// One sample takes the kernels of few rows, three take those of many.
TEST_P(FusedPolicyTest, SamplesAsTheOperatorsDo) {
  const Policy exact = policy_with_kernels(GetParam(), torch::kFloat32);
  const Policy policy = policy_with_kernels(GetParam(), torch::kBFloat16);
  const torch::Device device(kOnCpu ? torch::kCPU : torch::kCUDA);
  for (const std::int64_t batch : {1, 3}) {
    const Observation observation = observation_of(batch).to(device);
    const Tensor noise = on_gpu(numbers({batch, 10, 32}));
    const auto gap = [](const Tensor& got, const Tensor& expected) {
      return ((got - expected).norm() / expected.norm()).item<double>();
    };
    const auto sample = [&](const Policy& which) {
      return Policy(which)->sample_actions(observation, noise, 2).to(torch::kFloat32);
    };
    const Tensor expected = by_operators([&] { return sample(exact); });
    const double rounding = gap(by_operators([&] { return sample(policy); }), expected);
    EXPECT_LT(gap(sample(exact), expected), kOnCpu ? 3e-4 : 1e-4);  // a CPU's linear_gelu takes erf here
    EXPECT_LT(gap(sample(policy), expected), 1.5 * rounding);
    EXPECT_LT(rounding, 0.03);
    fused::allow_clusters(false);
    EXPECT_LT(gap(sample(policy), expected), 1.5 * rounding);
    fused::allow_clusters(true);
  }
}

}  // namespace
}  // namespace shallowpi
