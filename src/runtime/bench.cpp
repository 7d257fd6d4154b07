#include "shallowpi/runtime/bench.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <optional>
#include <set>

#include "model/fused.h"
#include "runtime/device_info.h"
#include "shallowpi/base/cli.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/log.h"
#include "shallowpi/base/memory.h"
#include "shallowpi/base/stopwatch.h"
#include "shallowpi/base/text.h"
#include "shallowpi/base/trace.h"
#include "shallowpi/data/image.h"
#include "shallowpi/model/checkpoint.h"
#include "shallowpi/model/cost.h"
#include "shallowpi/model/layer_map.h"
#include "shallowpi/runtime/engine.h"

namespace shallowpi {
namespace {

constexpr std::int64_t kCameraHeight = 480, kCameraWidth = 640;  // of the images that are prepared

double milliseconds(const std::function<void()>& work) {
  const Stopwatch watch;
  work();
  return watch.milliseconds();
}

/// One combination of the sweeps.
struct Variant {
  std::optional<std::int64_t> layers, vision_tokens;
};

std::vector<Variant> variants(const BenchOptions& options) {
  std::vector<Variant> result{{}};
  std::set<std::string> axes;
  for (const std::string& text : options.sweeps) {
    const SweepAxis axis = parse_sweep(text);
    if (!axes.insert(axis.name).second)
      throw UsageError(str("--sweep ", axis.name, " is given twice; join the two"));
    std::vector<Variant> next;
    for (const Variant& variant : result)
      for (const std::int64_t value : axis.values) {
        next.push_back(variant);
        (axis.name == "layers" ? next.back().layers : next.back().vision_tokens) = value;
      }
    result = std::move(next);
  }
  return result;
}

PolicyConfig random_config(const BenchOptions& options, std::int64_t layers) {
  PolicyConfig config;
  config.kind = options.model;
  if (options.size == BenchSize::kTiny) {
    config.vision = {2, 64, 128, 4, 14, 56};
    config.backbone = {layers, 64, 128, 8, 1, 16};
    config.expert = {layers, 32, 64, 8, 1, 16};
    config.vocab = 256;
  }
  config.set_depth(layers);
  return config;
}

Policy make_policy(const BenchOptions& options, const Variant& variant) {
  if (options.checkpoint.empty())
    return random_policy(random_config(options, variant.layers.value_or(*options.layers)), options.dtype,
                         options.device, options.seed);
  const CheckpointInfo info = read_checkpoint_info(options.checkpoint);
  if (!variant.layers) return load_policy(info, options.dtype, options.device);
  return load_student(info, layer_map(LayerMapRule::kUniform, *variant.layers, info.config.depth()),
                      options.dtype, options.device);
}

/// An observation of random pixels and tokens.
Observation random_observation(const BenchOptions& options, const PolicyConfig& config, std::int64_t cameras,
                               std::int64_t tokens) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(options.seed);
  const std::int64_t side = config.vision.image_size;
  Observation observation;
  for (std::int64_t camera = 0; camera < cameras; ++camera) {
    observation.images_bcyx.push_back(torch::rand({options.batch, 3, side, side}, generator) * 2 - 1);
    observation.image_masks_b.push_back(torch::ones({options.batch}, torch::kBool));
  }
  observation.tokens_bt = torch::randint(0, config.vocab, {options.batch, tokens}, generator, torch::kInt64);
  observation.token_mask_bt = torch::ones({options.batch, tokens}, torch::kBool);
  observation.state_bd = torch::rand({options.batch, config.action_dim}, generator) * 2 - 1;
  return observation;
}

/// Times of each stage, one value per iteration (per step for `step`).
struct Samples {
  std::vector<double> host, vision, prefix, step, total, plain;
};

/// With the layers, the cameras, the horizon and the engine that nobody gave.
BenchOptions with_defaults(BenchOptions options) {
  for (const std::string& sweep : options.sweeps) {
    const std::string axis = parse_sweep(sweep).name;
    if (axis == "layers" && options.layers)
      throw UsageError("--layers and --sweep layers contradict each other: leave one out");
    if (axis != "vision-tokens") continue;
    if (options.engine == EngineKind::kGraph)
      throw UsageError("--sweep vision-tokens needs the time of each stage: give --engine eager");
    options.engine = EngineKind::kEager;
  }
  PolicySpec spec;
  spec.image_keys.resize(2);
  spec.horizon = 10;
  if (!options.checkpoint.empty()) {
    const CheckpointInfo info = read_checkpoint_info(options.checkpoint, options.horizon);
    if (!info.horizon_known)
      log::warning(unknown_horizon(info), "; chunks of ", info.spec.horizon,
                   " are timed: give --horizon if that is wrong");
    spec = info.spec;
  }
  options.layers = options.layers.value_or(18);
  options.cameras = options.cameras.value_or(static_cast<std::int64_t>(spec.image_keys.size()));
  options.horizon = options.horizon.value_or(spec.horizon);
  return options;
}

class Measurement {
 public:
  Measurement(const BenchOptions& options, const Variant& variant)
      : options_(options),
        policy_(make_policy(options, variant)),
        engine_(make_engine(policy_, options.device, options.engine)),
        tokens_(variant.vision_tokens.value_or(config().vision.tokens())) {
    if (tokens_ > config().vision.tokens())
      throw UsageError(
          str("--sweep vision-tokens: ", tokens_, " of ", config().vision.tokens(), " tokens per camera"));
    reset_peak_memory(options.device);
    full_.observation = random_observation(options, config(), *options.cameras, options.prompt_tokens);
    full_.steps = options.steps;
    full_.noise_bhd = torch::randn({options.batch, *options.horizon, config().action_dim});
    // To the backbone a kept image token is a token like any other, so pruning is measured in two calls: the
    // tower on all pixels, then a chunk whose prompt stands for the tokens that were kept.
    pruned_ = full_;
    pruned_.observation =
        random_observation(options, config(), 0, options.prompt_tokens + *options.cameras * tokens_);
    const std::size_t bytes = kCameraHeight * kCameraWidth * 3;
    camera_ = {kCameraHeight, kCameraWidth, std::vector<std::uint8_t>(bytes, 100)};
  }

  Json run() {
    for (std::int64_t i = 0; i < options_.warmup; ++i) iterate();
    samples_ = {};
    for (std::int64_t i = 0; i < options_.iterations; ++i) iterate();
    if (!options_.trace.empty()) trace(options_.trace, options_.device, [&] { engine_->sample(full_); });
    return json();
  }

 private:
  const PolicyConfig& config() const { return policy_->config(); }

  void iterate() {
    samples_.host.push_back(milliseconds([&] { prepare_images(); }));
    StageTimes times;
    double total = milliseconds([&] { engine_->sample(full_, &times); });
    if (tokens_ < config().vision.tokens()) {
      const double vision = times.vision_ms;
      total = vision + milliseconds([&] { engine_->sample(pruned_, &times); });
      times.vision_ms = vision;
    }
    if (!times.step_ms.empty()) {
      samples_.vision.push_back(times.vision_ms);
      samples_.prefix.push_back(times.prefix_ms);
    }
    samples_.step.insert(samples_.step.end(), times.step_ms.begin(), times.step_ms.end());
    samples_.total.push_back(samples_.host.back() + total);
    if (options_.compare) samples_.plain.push_back(milliseconds([&] { sample_plainly(); }));
  }

  void prepare_images() {
    const std::int64_t side = config().vision.image_size, pixels = 3 * side * side;
    const std::int64_t images = options_.batch * *options_.cameras;
    std::vector<float> floats(images * pixels);
    std::vector<ImageJob> jobs;
    for (std::int64_t i = 0; i < images; ++i) jobs.push_back({&camera_, floats.data() + i * pixels});
    images_to_float(jobs, side, ResizeMode::kPillow);
  }

  void sample_plainly() {
    policy_
        ->sample_actions(full_.observation.to(options_.device), full_.noise_bhd.to(options_.device),
                         options_.steps)
        .to(torch::kCPU);
  }

  Json json() const {
    Json result;
    result["layers"] = config().depth();
    result["vision_tokens"] = tokens_;
    result["engine"] = enum_name(engine_->kind());
    Json& stages = result["ms"];
    const auto stage = [&](const char* name, const std::vector<double>& samples) {
      if (samples.empty()) return;
      const Percentiles p = percentiles(samples);
      stages[name] = {{"p50", p.p50}, {"p90", p.p90}, {"p99", p.p99}};
    };
    stage("host", samples_.host);
    stage("vision", samples_.vision);
    stage("prefix", samples_.prefix);
    stage("step", samples_.step);
    stage("total", samples_.total);
    stage("without_engine", samples_.plain);
    add_costs(result);
    return result;
  }

  void add_costs(Json& result) const {
    const PassShape shape{.batch = options_.batch,
                          .images = options_.batch * *options_.cameras,
                          .prefix = *options_.cameras * tokens_ + options_.prompt_tokens,
                          .horizon = *options_.horizon};
    const PassCost flops = forward_flops(config(), shape);
    const PassCost bytes = forward_bytes(config(), shape, torch::elementSize(options_.dtype));
    const auto parts = [&](const PassCost& cost) {
      return Json{{"vision", cost.tower},
                  {"prefix", cost.backbone},
                  {"step", cost.expert},
                  {"total", cost.chunk(options_.steps)}};
    };
    result["flops"] = parts(flops);
    result["bytes"] = parts(bytes);
    const auto peak = device_peak(device_info(options_.device).at("name").get<std::string>());
    result["bound_ms"] = result["share_of_bound"] = nullptr;
    if (peak && options_.dtype == torch::kBFloat16) {
      const double bound = bound_ms(*peak, flops, bytes, options_.steps);
      result["bound_ms"] = bound;
      result["share_of_bound"] =
          bound / (result["ms"]["total"]["p50"].get<double>() - result["ms"]["host"]["p50"].get<double>());
    }
    std::uint64_t weights = 0;
    for (const ParameterGroup& group : policy_->parameter_groups()) weights += group.parameter.nbytes();
    result["weight_bytes"] = weights;
    result["peak_bytes"] = peak_memory(options_.device);
  }

  const BenchOptions& options_;
  Policy policy_;
  std::unique_ptr<Engine> engine_;
  std::int64_t tokens_;  // of each camera that reach the backbone
  EngineRequest full_, pruned_;
  Image camera_;
  Samples samples_;
};

std::string number(double value) {
  return fixed(value, value < 10 ? 2 : value < 100 ? 1 : 0);
}

}  // namespace

Percentiles percentiles(std::vector<double> samples) {
  std::sort(samples.begin(), samples.end());
  const auto at = [&](double share) {
    const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(samples.size())));
    return samples.at(std::max<std::size_t>(rank, 1) - 1);
  };
  return {at(0.5), at(0.9), at(0.99)};
}

Policy random_policy(const PolicyConfig& config, torch::Dtype dtype, torch::Device device,
                     std::uint64_t seed) {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(seed);
  Policy policy(config, dtype, device);
  for (const ParameterGroup& group : policy->parameter_groups()) {
    torch::Tensor weight = group.parameter;
    if (weight.dim() == 1) {
      weight.fill_(1);
    } else {
      weight.normal_(0, 1 / std::sqrt(static_cast<double>(weight.numel() / weight.size(0))));
    }
  }
  return policy;
}

SweepAxis parse_sweep(const std::string& text) {
  const std::size_t equals = text.find('=');
  SweepAxis axis{text.substr(0, equals), {}};
  if (equals == std::string::npos || (axis.name != "layers" && axis.name != "vision-tokens"))
    throw UsageError(str("--sweep ", in_quotes(text), ": give layers=4,6,9,18 or vision-tokens=64,128,256"));
  for (const std::string& value : split(text.substr(equals + 1), ',')) {
    if (value.empty() || value.size() > 6 || value.find_first_not_of("0123456789") != std::string::npos ||
        std::stoll(value) < 1)
      throw UsageError(str("--sweep ", axis.name, ": ", in_quotes(value), " is not a positive whole number"));
    axis.values.push_back(std::stoll(value));
  }
  return axis;
}

Json run_bench_json(const BenchOptions& given) {
  const BenchOptions options = with_defaults(given);
  Json report;
  report["device"] = nullptr;  // stands first
  report["settings"] = {
      {"checkpoint", options.checkpoint.empty() ? Json(nullptr) : Json(options.checkpoint.string())},
      {"model", options.checkpoint.empty() ? enum_name(options.model) : "checkpoint"},
      {"size", options.checkpoint.empty() ? Json(enum_name(options.size)) : Json(nullptr)},
      {"dtype", dtype_name(options.dtype)},
      {"engine", enum_name(options.engine)},
      {"kernels", options.kernels},
      {"cameras", *options.cameras},
      {"prompt_tokens", options.prompt_tokens},
      {"horizon", *options.horizon},
      {"steps", options.steps},
      {"batch", options.batch},
      {"iterations", options.iterations},
      {"warmup", options.warmup}};
  report["results"] = Json::array();
  const std::vector<Variant> all = variants(options);
  if (!options.checkpoint.empty()) {
    const std::int64_t depth = read_checkpoint_info(options.checkpoint).config.depth();
    for (const Variant& variant : all)
      if (variant.layers && *variant.layers > depth)
        throw UsageError(
            str("--sweep layers: ", *variant.layers, " of ", depth, " layers; give 1 to ", depth));
  }
  if (!options.trace.empty() && all.size() > 1)
    throw UsageError("--trace takes a timeline of one policy: leave --sweep out");
  fused::set_enabled(options.kernels);
  for (const Variant& variant : all) {
    report["results"].push_back(Measurement(options, variant).run());
    const Json& last = report["results"].back();
    log::info("measured ", last["layers"].get<std::int64_t>(), " layers, ",
              last["vision_tokens"].get<std::int64_t>(),
              " tokens per camera: ", number(last["ms"]["total"]["p50"].get<double>()), " ms");
  }
  report["device"] = device_info(options.device);  // its clocks, before they fall back to an idle device's
  return report;
}

std::string bench_text(const Json& report) {
  std::vector<std::vector<std::string>> times, costs;
  for (const Json& result : report.at("results")) {
    const std::string name = str("L", result["layers"].get<std::int64_t>(), ", ",
                                 result["vision_tokens"].get<std::int64_t>(), " tokens/camera");
    for (const auto& [stage, ms] : result["ms"].items())
      times.push_back({name, stage, number(ms["p50"].get<double>()), number(ms["p90"].get<double>()),
                       number(ms["p99"].get<double>())});
    const Json& share = result["share_of_bound"];
    costs.push_back({name, fixed(result["flops"]["total"].get<double>() / 1e9, 2),
                     human_bytes(static_cast<std::uint64_t>(result["bytes"]["total"].get<double>())),
                     share.is_null() ? "-" : number(result["bound_ms"].get<double>()),
                     share.is_null() ? "-" : str(fixed(100 * share.get<double>(), 0), " %"),
                     human_bytes(result["weight_bytes"].get<std::uint64_t>()),
                     human_bytes(result["peak_bytes"].get<std::uint64_t>())});
  }
  const Json &device = report.at("device"), &settings = report.at("settings");
  std::string text;
  for (const auto& [key, value] : device.items())
    text += str(key, ": ", value.is_string() ? value.get<std::string>() : value.dump(), "; ");
  text += str(settings.at("dtype").get<std::string>(), ", engine ",
              report.at("results").at(0).at("engine").get<std::string>(), ", ", settings.at("cameras").dump(),
              " cameras, ", settings.at("prompt_tokens").dump(), " prompt tokens, ",
              settings.at("horizon").dump(), " actions, ", settings.at("steps").dump(), " steps, batch ",
              settings.at("batch").dump(), "\n\n");
  text += text_table({"policy", "stage (ms)", "p50", "p90", "p99"}, times);
  text += "\n";
  text += text_table(
      {"policy", "GFLOP", "bytes moved", "bound (ms)", "share of bound", "weights", "peak memory"}, costs);
  return text;
}

void run_bench(const BenchOptions& options) {
  const Json report = run_bench_json(options);
  std::cout << bench_text(report);
  if (!options.json.empty()) write_json(options.json, report);
}

}  // namespace shallowpi
