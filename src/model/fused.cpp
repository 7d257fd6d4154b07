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

std::int64_t whole_tiles(std::int64_t tokens) {
  return (tokens + kKeyTile - 1) / kKeyTile * kKeyTile;
}

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
  TORCH_CHECK(factor.stride(-1) == 1 && factor.scalar_type() == torch::kFloat32, "norm factors: ", factor.sizes());
  return factor.expand(x_bsw.sizes());
}

RowStrides strides(const Tensor& rows_bsw) {
  return rows_bsw.defined() ? RowStrides{rows_bsw.stride(0), rows_bsw.stride(1)} : RowStrides{};
}

template <typename Update, typename Out>
void launch_norm(const Tensor& x, const NormInput& input, const Tensor& update, const Normalized& out) {
  const Tensor scale = broadcast(input.scale, x), shift = broadcast(input.shift, x), gate = broadcast(input.gate, x);
  const bool updated = update.defined();
  launch_for(x, NormLaunch<Update, Out>{
                    .first = {data<float>(x), data<Update>(update), data<float>(gate),
                              updated ? data<float>(out.sum) : nullptr, data<float>(scale), data<float>(shift),
                              data<Out>(out.result)},
                    .scale = strides(scale),
                    .shift = strides(shift),
                    .gate = strides(gate),
                    .batch = x.size(0),
                    .tokens = x.size(1),
                    .width = x.size(2)});
}

AttentionLaunch attention_launch(const AttentionInput& input, const Tensor& out) {
  const Tensor &q = input.q_bmk, &k = input.prefix_k_bpk;
  const bool own = input.own_k_bsk.defined();
  return {.q = data<BFloat16>(q),
          .prefix_k = data<BFloat16>(k),
          .prefix_v = data<BFloat16>(input.prefix_v_bpk),
          .own_k = data<BFloat16>(input.own_k_bsk),
          .own_v = data<BFloat16>(input.own_v_bsk),
          .lengths_b = data<std::int64_t>(input.lengths_b),
          .out = data<BFloat16>(out),
          .batch = q.size(0),
          .rows = q.size(1),
          .heads = input.heads,
          .head_dim = q.size(2),
          .prefix = k.size(1),
          .own = own ? input.own_k_bsk.size(1) : 0,
          .prefix_stride = k.stride(0),
          .own_stride = own ? input.own_k_bsk.stride(0) : 0,
          .first_token_alone = input.first_token_alone};
}

/// Are keys and values alike, in the buffer's dtype, and does it hold whole tiles?
bool tiled(const Tensor& k, const Tensor& v, const Tensor& q) {
  return k.scalar_type() == torch::kBFloat16 && v.strides() == k.strides() && v.scalar_type() == k.scalar_type() &&
         k.size(0) == q.size(0) && k.stride(1) == q.size(2) && k.stride(2) == 1 &&
         k.stride(0) >= whole_tiles(k.size(1)) * q.size(2);
}

}  // namespace

bool usable(const Tensor& x) {
  return enabled && x.is_cuda() && !torch::GradMode::is_enabled() && x.size(-1) % 8 == 0 && x.numel() > 0 &&
         (x.scalar_type() == torch::kFloat32 || x.scalar_type() == torch::kBFloat16);
}

Normalized normalize(const NormInput& input, torch::Dtype result) {
  const Tensor x = input.x.contiguous();
  const Tensor update = input.update.defined() ? input.update.contiguous() : input.update;
  Normalized out{update.defined() ? torch::empty_like(x) : x, torch::empty(x.sizes(), x.options().dtype(result))};
  if (result == torch::kBFloat16) {
    launch_norm<BFloat16, BFloat16>(x, input, update, out);
  } else if (update.defined() && update.scalar_type() == torch::kFloat32) {
    launch_norm<float, float>(x, input, update, out);
  } else {
    launch_norm<BFloat16, float>(x, input, update, out);
  }
  return out;
}

std::tuple<Tensor, Tensor, Tensor> split_and_rotate(const Tensor& qkv_bsd, const Tensor& cos, const Tensor& sin,
                                                    std::int64_t heads) {
  const Tensor qkv = qkv_bsd.contiguous();
  const std::int64_t batch = qkv.size(0), tokens = qkv.size(1), head_dim = cos.size(-1), padded = whole_tiles(tokens);
  const Tensor q = torch::empty({batch, tokens, heads, head_dim}, qkv.options());
  const Tensor k = torch::empty({batch, padded, head_dim}, qkv.options()), v = torch::empty_like(k);
  // [S] positions serve all samples.
  const auto strides_of = [](const Tensor& factors) {
    TORCH_CHECK(factors.stride(-1) == 1, "rotary factors must be contiguous");
    return RowStrides{factors.dim() == 3 ? factors.stride(0) : 0, factors.stride(-2)};
  };
  with_type(qkv.scalar_type(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    launch_for(qkv, RotaryLaunch<T>{.first = {data<T>(qkv), data<float>(cos), data<float>(sin), data<T>(q),
                                              data<T>(k), data<T>(v)},
                                    .batch = batch,
                                    .tokens = tokens,
                                    .heads = heads,
                                    .head_dim = head_dim,
                                    .padded_tokens = padded,
                                    .cos = strides_of(cos),
                                    .sin = strides_of(sin)});
  });
  return {q, k.narrow(1, 0, tokens), v.narrow(1, 0, tokens)};
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

bool can_attend(const AttentionInput& input) {
  const Tensor& q = input.q_bmk;
  if (!usable(q) || q.scalar_type() != torch::kBFloat16 || !q.is_contiguous() || q.size(2) % kKeyTile != 0)
    return false;
  if (!tiled(input.prefix_k_bpk, input.prefix_v_bpk, q)) return false;
  if (input.own_k_bsk.defined() && !tiled(input.own_k_bsk, input.own_v_bsk, q)) return false;
  const c10::cuda::CUDAGuard guard(q.device());
  return can_launch(attention_launch(input, {}));
}

Tensor attention(const AttentionInput& input) {
  const Tensor out = torch::empty_like(input.q_bmk);
  launch_for(out, attention_launch(input, out));
  return out;
}
#else
bool usable(const Tensor&) {
  return false;
}
Normalized normalize(const NormInput&, torch::Dtype) {
  TORCH_CHECK(false, "built without CUDA");
}
std::tuple<Tensor, Tensor, Tensor> split_and_rotate(const Tensor&, const Tensor&, const Tensor&, std::int64_t) {
  TORCH_CHECK(false, "built without CUDA");
}
Tensor gate(const Tensor&) {
  TORCH_CHECK(false, "built without CUDA");
}
bool can_attend(const AttentionInput&) {
  return false;
}
Tensor attention(const AttentionInput&) {
  TORCH_CHECK(false, "built without CUDA");
}
#endif

}  // namespace shallowpi::fused
