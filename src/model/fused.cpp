#include "model/fused.h"

#include <atomic>

#include "model/fused_launch.h"

#ifdef SHALLOWPI_CUDA
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace shallowpi::fused {

namespace {

std::atomic<bool> enabled = true;

template <typename T>
T* data(const Tensor& tensor) {
  return tensor.defined() ? tensor.data_ptr<T>() : nullptr;
}

}  // namespace

void set_enabled(bool on) {
  enabled = on;
}

#ifdef SHALLOWPI_CUDA
namespace {

/// Launches on x's device, on LibTorch's current stream.
template <typename Work>
void launch_for(const Tensor& x, const Work& work) {
  const c10::cuda::CUDAGuard guard(x.device());
  launch(work, c10::cuda::getCurrentCUDAStream(x.device().index()).stream());
}

/// Calls `work` with a null pointer of the type that `dtype` stands for.
template <typename Work>
void with_type(torch::Dtype dtype, const Work& work) {
  if (dtype == torch::kFloat32) return work(static_cast<float*>(nullptr));
  TORCH_CHECK(dtype == torch::kBFloat16, "fused operations know float32 and bfloat16, not ", dtype);
  work(static_cast<BFloat16*>(nullptr));
}

/// `factor` broadcast to [B, S, W]; undefined stays undefined.
Tensor broadcast(const Tensor& factor, const Tensor& x_bsw) {
  if (!factor.defined()) return factor;
  TORCH_CHECK(factor.stride(-1) == 1 && factor.scalar_type() == torch::kFloat32,
              "norm factors: ", factor.sizes());
  return factor.expand(x_bsw.sizes());
}

RowStrides strides(const Tensor& rows_bsw) {
  return rows_bsw.defined() ? RowStrides{rows_bsw.stride(0), rows_bsw.stride(1)} : RowStrides{};
}

/// `tensor` [B, S, W] as one summand per value, or [parts, B, S, W] as several; undefined as none.
template <typename T>
Summands<T> summands(const Tensor& tensor) {
  if (!tensor.defined()) return {};
  const bool parts = tensor.dim() == 4;
  return {data<T>(tensor), parts ? static_cast<int>(tensor.size(0)) : 1, parts ? tensor.stride(0) : 0};
}

Tensor contiguous(const Tensor& tensor) {
  return tensor.defined() ? tensor.contiguous() : tensor;
}

template <typename Value, typename Update, typename Out>
NormRow<Value, Update, Out> first_row(const Tensor& x, const Tensor& update, const Tensor& gate,
                                      const Normed& out) {
  return {data<Value>(x), summands<Update>(update), data<float>(gate),
          update.defined() ? data<Value>(out.sum) : nullptr, data<Out>(out.normed)};
}

Normed room_for(const Tensor& x, const Tensor& update, torch::Dtype result) {
  return {update.defined() ? torch::empty_like(x) : x, torch::empty(x.sizes(), x.options().dtype(result))};
}

AttentionLaunch attention_launch(const AttentionInput& input, const Tensor& out) {
  const Tensor &q = input.q_bmk, &k = input.prefix_k_bpk;
  return {.q = data<BFloat16>(q),
          .prefix_k = data<BFloat16>(k),
          .prefix_v = data<BFloat16>(input.prefix_v_bpk),
          .own_k = data<BFloat16>(input.own_k_bsk),
          .own_v = data<BFloat16>(input.own_v_bsk),
          .lengths_b = data<std::int64_t>(input.lengths_b),
          .out = data<BFloat16>(out),
          .q_at = {q.size(1) * q.size(2), 0, q.size(2)},
          .prefix_at = {k.size(1) * k.size(2), 0, k.size(2)},
          .out_at = {q.size(1) * q.size(2), 0, q.size(2)},
          .inner_count = 1,
          .partial = nullptr,
          .partial_sums = nullptr,
          .batch = q.size(0),
          .rows = q.size(1),
          .heads = input.heads,
          .head_dim = q.size(2),
          .prefix = k.size(1),
          .own = input.own_k_bsk.defined() ? input.own_k_bsk.size(1) : 0,
          .splits = 1,
          .first_token_alone = input.first_token_alone};
}

/// Splits the keys where that helps, and launches.
void launch_attention(AttentionLaunch work, const Tensor& out) {
  const c10::cuda::CUDAGuard guard(out.device());
  work.splits = attention_splits(work);
  Tensor partial, sums;
  if (work.splits > 1 && !has_clusters()) {
    const auto options = out.options().dtype(torch::kFloat32);
    partial = torch::empty({work.splits, work.batch * work.rows, work.head_dim}, options);
    sums = torch::empty({work.splits, work.batch * work.rows, 2}, options);
    work.partial = data<float>(partial);
    work.partial_sums = data<float>(sums);
  }
  launch_for(out, work);
}

std::int64_t rows_of(const Tensor& x) {
  return x.numel() / x.size(-1);
}

constexpr std::int64_t kAnyParts = 64;

/// Of a product of x's rows with `weight`; 0 where it does not suit the kernel.
std::int64_t parts_of(const Tensor& x, const Tensor& weight, std::int64_t most) {
  if (!usable(x) || weight.scalar_type() != torch::kBFloat16) return 0;
  const c10::cuda::CUDAGuard guard(x.device());
  return linear_parts(rows_of(x), weight.size(1), weight.size(0), most);
}

/// Of x [B, S, I] with `weight`; input and output are still to be named.
LinearLaunch linear_launch(const Tensor& x, const Tensor& weight, std::int64_t most) {
  return {.weight = data<BFloat16>(weight),
          .rows = rows_of(x),
          .tokens = x.size(-2),
          .inner = weight.size(1),
          .columns = weight.size(0),
          .parts = parts_of(x, weight, most)};
}

/// Of the stream x, which must be contiguous and live until the launch.
NormInput norm_input(const Tensor& x, const NormFactors& factors) {
  const Tensor scales = broadcast(factors.scale, x), shifts = broadcast(factors.shift, x);
  return {data<float>(x), data<float>(scales), data<float>(shifts), strides(scales), strides(shifts)};
}

Heads room_for_heads(const Tensor& x, std::int64_t heads, std::int64_t head_dim, torch::Dtype dtype) {
  const std::int64_t batch = x.size(-3), tokens = x.size(-2);
  const auto options = x.options().dtype(dtype);
  const Tensor k = torch::empty({batch, tokens, head_dim}, options);
  return {torch::empty({batch, tokens, heads, head_dim}, options), k, torch::empty_like(k)};
}

/// [S, ..] positions serve all samples.
RowStrides position_strides(const Tensor& factors) {
  TORCH_CHECK(factors.stride(-1) == 1, "rotary factors must be contiguous");
  return {factors.dim() == 3 ? factors.stride(0) : 0, factors.stride(-2)};
}

}  // namespace

bool usable(const Tensor& x) {
#ifdef SHALLOWPI_CUDA_ON_CPU  // the kernels' tests without a GPU
  const bool has_kernels = true;
#else
  const bool has_kernels = x.is_cuda();
#endif
  return enabled && has_kernels && !torch::GradMode::is_enabled() && runs_on(x.device().index()) &&
         x.size(-1) % 8 == 0 && x.numel() > 0 &&
         (x.scalar_type() == torch::kFloat32 || x.scalar_type() == torch::kBFloat16);
}

Normed rms_norm(const Residual& stream, const NormFactors& factors, torch::Dtype result) {
  const Tensor x = stream.x.contiguous(), update = contiguous(stream.update),
               gate = broadcast(stream.gate, x);
  const Tensor scales = broadcast(factors.scale, x), shifts = broadcast(factors.shift, x);
  const Normed out = room_for(x, update, result);
  with_type(update.defined() ? update.scalar_type() : result, [&](auto* update_type) {
    with_type(result, [&](auto* result_type) {
      using Update = std::remove_pointer_t<decltype(update_type)>;
      using Out = std::remove_pointer_t<decltype(result_type)>;
      launch_for(x, RmsNormLaunch<Update, Out>{.first = first_row<float, Update, Out>(x, update, gate, out),
                                               .first_scale = data<float>(scales),
                                               .first_shift = data<float>(shifts),
                                               .scale = strides(scales),
                                               .shift = strides(shifts),
                                               .gate = strides(gate),
                                               .batch = x.size(0),
                                               .tokens = x.size(1),
                                               .width = x.size(2)});
    });
  });
  return out;
}

Normed layer_norm(const Residual& stream, const Tensor& weight, const Tensor& bias) {
  const Tensor x = stream.x.contiguous(), update = contiguous(stream.update);
  const Normed out = room_for(x, update, x.scalar_type());
  with_type(x.scalar_type(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    launch_for(x, LayerNormLaunch<T>{first_row<T, T, T>(x, update, {}, out), data<T>(weight), data<T>(bias),
                                     rows_of(x), x.size(-1)});
  });
  return out;
}

Heads split_and_rotate(const Tensor& qkv, const Rotation& rotation, std::int64_t heads, torch::Dtype result) {
  const auto& [cos, sin] = rotation;
  const Tensor input = qkv.contiguous();
  const std::int64_t head_dim = cos.size(-1);
  const auto [q, k, v] = room_for_heads(input, heads, head_dim, result);
  const auto launch_as = [&](auto* in, auto* out) {
    using In = std::remove_pointer_t<decltype(in)>;
    using Out = std::remove_pointer_t<decltype(out)>;
    launch_for(input, RotaryLaunch<In, Out>{.first = {summands<In>(input), data<float>(cos), data<float>(sin),
                                                      data<Out>(q), data<Out>(k), data<Out>(v)},
                                            .batch = k.size(0),
                                            .tokens = k.size(1),
                                            .heads = heads,
                                            .head_dim = head_dim,
                                            .cos = position_strides(cos),
                                            .sin = position_strides(sin)});
  };
  with_type(result, [&](auto* out) {
    if (input.scalar_type() == result) {
      launch_as(out, out);
    } else {
      launch_as(static_cast<float*>(nullptr), out);
    }
  });
  return {heads > 0 ? q : Tensor(), k, v};
}

Tensor gate(const Tensor& gate_up) {
  const Tensor input = gate_up.contiguous();
  const std::int64_t width = input.size(-1) / 2, rows = input.numel() / (2 * width);
  std::vector<std::int64_t> shape = input.sizes().vec();
  shape.back() = width;
  const Tensor out = torch::empty(shape, input.options());
  with_type(input.scalar_type(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    launch_for(input, GateLaunch<T>{data<T>(input), data<T>(out), rows, width});
  });
  return out;
}

bool can_project(const Tensor& x, const Tensor& weight) {
  return x.scalar_type() == torch::kBFloat16 && parts_of(x, weight, kAnyParts) > 0;
}

bool can_project_and_gate(const Tensor& x, const Tensor& gate_up) {
  return x.scalar_type() == torch::kBFloat16 && parts_of(x, gate_up, 1) > 0;
}

Tensor project(const Tensor& x, const Tensor& weight) {
  const Tensor input = x.contiguous();
  LinearLaunch work = linear_launch(x, weight, kAnyParts);
  const Tensor out =
      torch::empty({work.parts, x.size(0), x.size(1), work.columns}, x.options().dtype(torch::kFloat32));
  work.x = data<BFloat16>(input);
  work.out = data<float>(out);
  launch_for(x, work);
  return out;
}

Tensor project_and_gate(const Tensor& x, const Tensor& gate_up) {
  const Tensor input = x.contiguous();
  const Tensor out = torch::empty({x.size(0), x.size(1), gate_up.size(0) / 2}, x.options());
  LinearLaunch work = linear_launch(x, gate_up, 1);
  work.x = data<BFloat16>(input);
  work.gated = data<BFloat16>(out);
  launch_for(x, work);
  return out;
}

bool can_run_layer(const Tensor& x, const Tensor& qkv, const Tensor& o, const Tensor& gate_up,
                   const Tensor& down, std::int64_t head_dim) {
  if (!usable(x) || x.scalar_type() != torch::kFloat32 || head_dim % 64 != 0) return false;
  const c10::cuda::CUDAGuard guard(x.device());
  return has_clusters() && rows_of(x) <= kFewRows && parts_of(x, qkv, kMaxCluster) > 0 &&
         parts_of(x, o, kMaxCluster) > 0 && parts_of(x, gate_up, 1) > 0 && parts_of(x, down, kMaxCluster) > 0;
}

Heads norm_project_and_rotate(const Tensor& x, const NormFactors& factors, const Tensor& qkv,
                              const Rotation& rotation, std::int64_t heads) {
  const Tensor input = x.contiguous();
  const auto& [cos, sin] = rotation;
  const std::int64_t head_dim = cos.size(-1);
  const auto [q, k, v] = room_for_heads(x, heads, head_dim, qkv.scalar_type());
  LinearLaunch work = linear_launch(x, qkv, kMaxCluster);
  work.norm = norm_input(input, factors);
  work.heads = {data<BFloat16>(q),     data<BFloat16>(k),       data<BFloat16>(v),
                data<float>(cos),      data<float>(sin),        position_strides(cos),
                position_strides(sin), static_cast<int>(heads), static_cast<int>(head_dim)};
  launch_for(x, work);
  return {q, k, v};
}

Tensor norm_project_and_gate(const Tensor& x, const NormFactors& factors, const Tensor& gate_up) {
  const Tensor input = x.contiguous();
  const Tensor out = torch::empty({x.size(0), x.size(1), gate_up.size(0) / 2}, gate_up.options());
  LinearLaunch work = linear_launch(x, gate_up, 1);
  work.norm = norm_input(input, factors);
  work.gated = data<BFloat16>(out);
  launch_for(x, work);
  return out;
}

Tensor project_and_add(const Tensor& y, const Tensor& weight, const Tensor& x, const Tensor& gate) {
  const Tensor input = y.contiguous(), stream = x.contiguous(), gates = broadcast(gate, x);
  const Tensor sum = torch::empty_like(stream);
  LinearLaunch work = linear_launch(y, weight, kMaxCluster);
  work.x = data<BFloat16>(input);
  work.added = {data<float>(stream), data<float>(gates), data<float>(sum), strides(gates)};
  launch_for(y, work);
  return sum;
}

bool has_attention(const Tensor& x, std::int64_t head_dim) {
  return usable(x) && x.scalar_type() == torch::kBFloat16 && is_attention_head_dim(head_dim);
}

Tensor attention(const AttentionInput& input) {
  for (const Tensor* tensor :
       {&input.q_bmk, &input.prefix_k_bpk, &input.prefix_v_bpk, &input.own_k_bsk, &input.own_v_bsk})
    TORCH_CHECK(!tensor->defined() || tensor->is_contiguous(), "fused attention needs contiguous tensors");
  const Tensor out = torch::empty_like(input.q_bmk);
  launch_attention(attention_launch(input, out), out);
  return out;
}

bool can_self_attend(const Tensor& qkv, std::int64_t heads) {
  constexpr std::int64_t kMostMatrices = 65535;  // of a grid's last dimension
  return has_attention(qkv, qkv.size(2) / (3 * heads)) && qkv.is_contiguous() &&
         qkv.size(0) * heads <= kMostMatrices;
}

Tensor self_attention(const Tensor& qkv, std::int64_t heads) {
  const std::int64_t images = qkv.size(0), tokens = qkv.size(1), width = qkv.size(2) / 3,
                     head_dim = width / heads;
  const Tensor out = torch::empty({images, tokens, width}, qkv.options());
  const BFloat16* first = data<BFloat16>(qkv);
  const Placement packed{tokens * 3 * width, head_dim, 3 * width};
  launch_attention({.q = first,
                    .prefix_k = first + width,
                    .prefix_v = first + 2 * width,
                    .own_k = nullptr,
                    .own_v = nullptr,
                    .lengths_b = nullptr,
                    .out = data<BFloat16>(out),
                    .q_at = packed,
                    .prefix_at = packed,
                    .out_at = {tokens * width, head_dim, width},
                    .inner_count = heads,
                    .partial = nullptr,
                    .partial_sums = nullptr,
                    .batch = images * heads,
                    .rows = tokens,
                    .heads = 1,
                    .head_dim = head_dim,
                    .prefix = tokens,
                    .own = 0,
                    .splits = 1,
                    .first_token_alone = false},
                   out);
  return out;
}
#else
void allow_clusters(bool) {}

namespace {
[[noreturn]] void without_cuda() {
  TORCH_CHECK(false, "fused operations: this program was built without CUDA");
}
}  // namespace

bool usable(const Tensor&) {
  return false;
}
Normed rms_norm(const Residual&, const NormFactors&, torch::Dtype) {
  without_cuda();
}
Normed layer_norm(const Residual&, const Tensor&, const Tensor&) {
  without_cuda();
}
Heads split_and_rotate(const Tensor&, const Rotation&, std::int64_t, torch::Dtype) {
  without_cuda();
}
Tensor gate(const Tensor&) {
  without_cuda();
}
bool can_project(const Tensor&, const Tensor&) {
  return false;
}
bool can_project_and_gate(const Tensor&, const Tensor&) {
  return false;
}
Tensor project(const Tensor&, const Tensor&) {
  without_cuda();
}
Tensor project_and_gate(const Tensor&, const Tensor&) {
  without_cuda();
}
bool can_run_layer(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, std::int64_t) {
  return false;
}
Heads norm_project_and_rotate(const Tensor&, const NormFactors&, const Tensor&, const Rotation&,
                              std::int64_t) {
  without_cuda();
}
Tensor norm_project_and_gate(const Tensor&, const NormFactors&, const Tensor&) {
  without_cuda();
}
Tensor project_and_add(const Tensor&, const Tensor&, const Tensor&, const Tensor&) {
  without_cuda();
}
bool has_attention(const Tensor&, std::int64_t) {
  return false;
}
Tensor attention(const AttentionInput&) {
  without_cuda();
}
bool can_self_attend(const Tensor&, std::int64_t) {
  return false;
}
Tensor self_attention(const Tensor&, std::int64_t) {
  without_cuda();
}
#endif

}  // namespace shallowpi::fused
