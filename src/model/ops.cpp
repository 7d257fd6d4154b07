#include "model/ops.h"

#include <cmath>

#include "model/fused.h"

namespace shallowpi {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::Variable;
using torch::autograd::variable_list;

namespace {

constexpr double kEpsilon = 1e-6;
constexpr double kRotaryBase = 10000.0;

// x * rsqrt(mean(x^2) + 1e-6) over the last dim, in float32, as one node: autograd's own graph for it runs
// twice as many kernels.
struct RmsNormalize : Function<RmsNormalize> {
  static Tensor forward(AutogradContext* context, const Tensor& x) {
    const Tensor x32 = x.to(torch::kFloat32);
    const Tensor inverse = x32.square().mean({-1}, /*keepdim=*/true).add_(kEpsilon).rsqrt_();
    const Tensor normalized = x32 * inverse;
    context->save_for_backward({normalized, inverse});
    context->saved_data["dtype"] = static_cast<std::int64_t>(x.scalar_type());
    return normalized;
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor& normalized = saved[0];
    const Tensor& gradient = gradients[0];
    const Tensor projection = (gradient * normalized).mean({-1}, /*keepdim=*/true);
    const Tensor result = torch::addcmul(gradient, normalized, projection, -1).mul_(saved[1]);
    return {result.to(static_cast<torch::Dtype>(context->saved_data["dtype"].toInt()))};
  }
};

/// Rotates x [B, S, n, K] into `out` of the same shape; `sign` -1 rotates back.
void rotate_into(Tensor out, const Tensor& x, const Tensor& cos, const Tensor& sin, double sign) {
  const std::int64_t half = sin.size(-1);
  Tensor result = x * cos.unsqueeze(-2);  // promoted to float32
  const Tensor sin_n = sin.unsqueeze(-2);
  result.narrow(-1, 0, half).addcmul_(x.narrow(-1, half, half), sin_n, -sign);
  result.narrow(-1, half, half).addcmul_(x.narrow(-1, 0, half), sin_n, sign);
  out.copy_(result);
}

struct SplitAndRotate : Function<SplitAndRotate> {
  static variable_list forward(AutogradContext* context, const Tensor& qkv, const Tensor& cos,
                               const Tensor& sin, std::int64_t heads) {
    const std::int64_t head_dim = cos.size(-1);
    const Tensor x = qkv.view({qkv.size(0), qkv.size(1), heads + 2, head_dim});
    context->save_for_backward({cos, sin});
    context->saved_data["heads"] = heads;
    Tensor q = torch::empty({x.size(0), x.size(1), heads, head_dim}, qkv.options());
    Tensor k = torch::empty({x.size(0), x.size(1), 1, head_dim}, qkv.options());
    if (heads > 0) rotate_into(q, x.narrow(2, 0, heads), cos, sin, 1);
    rotate_into(k, x.narrow(2, heads, 1), cos, sin, 1);
    return {q, k.squeeze(2), x.select(2, heads + 1).clone()};
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const std::int64_t heads = context->saved_data["heads"].toInt();
    const Tensor& k = gradients[1];
    Tensor result = torch::empty({k.size(0), k.size(1), heads + 2, k.size(2)}, k.options());
    if (heads > 0) rotate_into(result.narrow(2, 0, heads), gradients[0], saved[0], saved[1], -1);
    rotate_into(result.narrow(2, heads, 1), k.unsqueeze(2), saved[0], saved[1], -1);
    result.select(2, heads + 1).copy_(gradients[2]);
    return {result.flatten(2), Tensor(), Tensor(), Tensor()};
  }
};

/// Keeps a layer's code alive until the backward pass.
struct LayerHolder : torch::CustomClassHolder {
  explicit LayerHolder(std::function<TensorList(const TensorList&)> run) : run(std::move(run)) {}
  std::function<TensorList(const TensorList&)> run;
};

struct Recompute : Function<Recompute> {
  static variable_list forward(AutogradContext* context, const c10::intrusive_ptr<LayerHolder>& layer,
                               std::int64_t activations, at::TensorList inputs) {
    context->save_for_backward(inputs.vec());
    context->saved_data["layer"] = c10::IValue::make_capsule(layer);
    context->saved_data["activations"] = activations;
    return layer->run(inputs.slice(0, activations).vec());
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    variable_list inputs = context->get_saved_variables();
    const auto activations = static_cast<std::size_t>(context->saved_data["activations"].toInt());
    for (std::size_t i = 0; i < activations; ++i)
      inputs[i] = inputs[i].detach().set_requires_grad(inputs[i].requires_grad());
    const auto layer = context->saved_data["layer"].toCapsule();
    torch::AutoGradMode enable(true);
    const variable_list outputs =
        static_cast<LayerHolder*>(layer.get())->run({inputs.begin(), inputs.begin() + activations});
    variable_list wanted, differentiable, output_gradients;
    for (const Tensor& input : inputs)
      if (input.requires_grad()) wanted.push_back(input);
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (!outputs[i].requires_grad()) continue;
      differentiable.push_back(outputs[i]);
      output_gradients.push_back(gradients[i]);
    }
    const variable_list found =
        torch::autograd::grad(differentiable, wanted, output_gradients, /*retain_graph=*/false,
                              /*create_graph=*/false, /*allow_unused=*/true);
    variable_list result(2);  // for `layer` and `activations`
    std::size_t next = 0;
    for (const Tensor& input : inputs) result.push_back(input.requires_grad() ? found[next++] : Tensor());
    return result;
  }
};

/// The explicit form: three matrix products that autograd differentiates with the least work per call.
Tensor explicit_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask) {
  const Tensor scaled = q * (1 / std::sqrt(static_cast<double>(q.size(-1))));
  const Tensor k_transposed = k.transpose(1, 2);
  const Tensor scores =
      mask.defined() ? torch::baddbmm(mask.expand({q.size(0), q.size(1), k.size(1)}), scaled, k_transposed)
                     : torch::bmm(scaled, k_transposed);
  return torch::bmm(torch::softmax(scores, -1), v);
}

}  // namespace

Tensor Residual::sum() const {
  if (!update.defined()) return x;
  const Tensor whole = update.dim() == x.dim() ? update : update.sum(0);
  return gate.defined() ? torch::addcmul(x, whole, gate) : x + whole;
}

Normed norm(const Residual& stream, const NormFactors& factors, torch::Dtype result) {
  if (fused::usable(stream.x)) return fused::rms_norm(stream, factors, result);
  const Tensor sum = stream.sum(), normalized = RmsNormalize::apply(sum), scale = factors.scale + 1;
  const Tensor scaled =
      factors.shift.defined() ? torch::addcmul(factors.shift, normalized, scale) : normalized * scale;
  return {sum, scaled.to(result)};
}

Normed layer_norm(const Residual& stream, const Tensor& weight, const Tensor& bias) {
  if (fused::usable(stream.x)) return fused::layer_norm(stream, weight, bias);
  const Tensor sum = stream.sum();
  return {sum, torch::layer_norm(sum, {sum.size(-1)}, weight, bias, kEpsilon)};
}

Tensor project(const Tensor& x, const Tensor& weight) {
  return fused::can_project(x, weight) ? fused::project(x, weight) : torch::linear(x, weight);
}

Tensor linear_gelu(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  if (fused::usable(x)) {  // cuBLASLt applies bias and GELU as it writes the product
    std::vector<std::int64_t> shape = x.sizes().vec();
    shape.back() = weight.size(0);
    return torch::_addmm_activation(bias, x.flatten(0, -2), weight.t(), 1, 1, /*use_gelu=*/true).view(shape);
  }
  return torch::gelu(torch::linear(x, weight, bias), "tanh");
}

Tensor gated_mlp(const Tensor& x, const Tensor& gate_up, const Tensor& down) {
  if (fused::can_project_and_gate(x, gate_up)) return project(fused::project_and_gate(x, gate_up), down);
  const Tensor both = torch::linear(x, gate_up);
  if (fused::usable(both) && both.size(-1) % 16 == 0) return project(fused::gate(both), down);
  const auto parts = both.chunk(2, -1);
  return project(torch::gelu(parts[0], "tanh") * parts[1], down);
}

Rotation rotation(const Tensor& positions, std::int64_t head_dim) {
  const auto options = torch::dtype(torch::kFloat32).device(positions.device());
  const Tensor exponents = torch::arange(0, head_dim, 2, options) / static_cast<double>(head_dim);
  const Tensor frequencies = torch::pow(kRotaryBase, exponents).reciprocal();
  const Tensor angles = positions.to(torch::kFloat32).unsqueeze(-1) * frequencies;
  const Tensor cos = angles.cos();
  return {torch::cat({cos, cos}, -1), angles.sin()};
}

Heads split_and_rotate(const Tensor& qkv, const Rotation& rotation, std::int64_t heads, torch::Dtype result) {
  if (fused::usable(qkv) && fused::usable(rotation.cos))
    return fused::split_and_rotate(qkv, rotation, heads, result);
  const Tensor whole = qkv.dim() == 4 ? qkv.sum(0).to(result) : qkv;
  const TensorList parts = SplitAndRotate::apply(whole, rotation.cos, rotation.sin, heads);
  return {heads > 0 ? parts[0] : Tensor(), parts[1], parts[2]};
}

Tensor multi_query_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask) {
  // On CPUs the explicit form is the faster one in training, five times in bfloat16, and at most sizes
  // without gradients too. On GPUs the fused kernels are faster, never hold all scores, and
  // keep them in float32.
  if (q.is_cpu()) return explicit_attention(q, k, v, mask);
  std::optional<Tensor> bias;  // not expanded: LibTorch pads it in memory, a row per query otherwise
  if (mask.defined()) bias = mask.unsqueeze(1);
  return torch::scaled_dot_product_attention(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1), bias).squeeze(1);
}

TensorList recompute_in_backward(std::function<TensorList(const TensorList&)> layer,
                                 const TensorList& activations, const TensorList& parameters) {
  TensorList inputs = activations;
  for (const Tensor& parameter : parameters)
    if (parameter.defined()) inputs.push_back(parameter);
  return Recompute::apply(c10::make_intrusive<LayerHolder>(std::move(layer)),
                          static_cast<std::int64_t>(activations.size()), at::TensorList(inputs));
}

}  // namespace shallowpi
