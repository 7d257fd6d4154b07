// The C API over ActionChunkController.
#include <algorithm>
#include <optional>
#include <string>

#include "shallowpi/base/cli.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"
#include "shallowpi/runtime/action_chunk_controller.h"
#include "shallowpi/runtime/policy_runner.h"
#include "shallowpi/runtime/shallowpi.h"

struct shallowpi_policy {
  std::shared_ptr<shallowpi::PolicyRunner> runner;
};

struct shallowpi_controller {
  shallowpi::PolicySpec spec;
  shallowpi::ActionChunkController controller;
};

namespace shallowpi {
namespace {

thread_local std::string last_error;

int failed(int code, const char* message) {
  // Running out of memory here must not leave through the boundary.
  try {
    last_error = message;
  } catch (...) {
    last_error.clear();
  }
  return code;
}

/// Runs `body`; what it throws becomes a code and a message.
template <typename Body>
int guarded(Body&& body) {
  try {
    body();
    return SHALLOWPI_OK;
  } catch (const Error& error) {
    const bool known = error.code() == ExitCode::kUsage || error.code() == ExitCode::kCorrupt;
    return failed(known ? static_cast<int>(error.code()) : SHALLOWPI_FAILED, error.what());
  } catch (const c10::Error& error) {
    return failed(SHALLOWPI_FAILED, error.what_without_backtrace());
  } catch (const std::exception& error) {
    return failed(SHALLOWPI_FAILED, error.what());
  } catch (...) {
    return failed(SHALLOWPI_FAILED, "an unknown exception");
  }
}

template <typename T>
T& given(T* pointer, const char* name) {
  if (pointer == nullptr) throw UsageError(str(name, " is NULL"));
  return *pointer;
}

std::string text_or(const char* text, const char* fallback) {
  return text == nullptr ? fallback : text;
}

std::optional<std::int64_t> given_horizon(std::int32_t horizon) {
  if (horizon < 0 || horizon > kMaxHorizon)
    throw UsageError(str("horizon ", horizon, " is not a number from 1 to ", kMaxHorizon,
                         ", or 0 for what the folder says"));
  return horizon == 0 ? std::nullopt : std::optional<std::int64_t>(horizon);
}

Image copy_image(const shallowpi_image& image) {
  if (image.height < 1 || image.width < 1 || image.height > 16384 || image.width > 16384)
    throw UsageError(str("image ", image.camera, ": ", image.height, " x ", image.width,
                         " is not a size from 1 x 1 to 16384 x 16384"));
  const std::uint8_t* pixels = &given(image.pixels, "an image's pixels");
  const std::size_t bytes = std::size_t(image.height) * std::size_t(image.width) * 3;
  return {image.height, image.width, std::vector<std::uint8_t>(pixels, pixels + bytes)};
}

RobotObservation copy_observation(const shallowpi_observation& observation, const RobotSpec& robot) {
  RobotObservation out;
  if (observation.state_dim != static_cast<std::size_t>(robot.state_dim))
    throw UsageError(
        str("the state has ", observation.state_dim, " dims, the policy takes ", robot.state_dim));
  const float* state = &given(observation.state, "the observation's state");
  out.state.assign(state, state + observation.state_dim);
  for (std::size_t i = 0; i < observation.image_count; ++i) {
    const shallowpi_image& image = (&given(observation.images, "the observation's images"))[i];
    const char* const camera = &given(image.camera, "an image's camera");
    if (!out.images.emplace(camera, copy_image(image)).second)
      throw UsageError(str("camera ", camera, " is there twice"));
  }
  out.prompt = text_or(observation.prompt, "");
  return out;
}

ChunkingOptions chunking_of(const PolicySpec& spec, const shallowpi_controller_options& options) {
  ChunkingOptions chunking = chunking_for(spec);
  if (options.mode < SHALLOWPI_ENSEMBLE || options.mode > SHALLOWPI_RTC)
    throw UsageError(str("mode ", options.mode, " is not SHALLOWPI_ENSEMBLE, _RECEDING or _RTC"));
  if (options.steps < 1 || options.steps > kMaxEulerSteps)
    throw UsageError(str("steps ", options.steps, " is not from 1 to ", kMaxEulerSteps));
  if (!(options.noise_scale >= 0 && options.noise_scale <= kMaxNoiseScale))
    throw UsageError(str("noise_scale ", options.noise_scale, " is not from 0 to ", kMaxNoiseScale));
  chunking.mode = static_cast<ChunkMode>(options.mode);
  chunking.execute = options.execute;
  chunking.expected_delay = options.expected_delay;
  chunking.control_hz = options.control_hz;
  chunking.ensemble_decay = options.ensemble_decay;
  if (options.relative_dims != nullptr)
    chunking.relative_dims.assign(options.relative_dims, options.relative_dims + spec.robot.action_dim);
  return chunking;
}

// The enumerators of the two languages are cast into one another.
static_assert(int(ChunkMode::kEnsemble) == SHALLOWPI_ENSEMBLE && int(ChunkMode::kRtc) == SHALLOWPI_RTC);
static_assert(int(ChunkMode::kReceding) == SHALLOWPI_RECEDING);
static_assert(int(TickStatus::kWaiting) == SHALLOWPI_WAITING && int(TickStatus::kActing) == SHALLOWPI_ACTING);
static_assert(int(TickStatus::kHolding) == SHALLOWPI_HOLDING);

std::int32_t spec_number(const shallowpi_policy* policy, std::int64_t (*of)(const PolicySpec&)) {
  return policy == nullptr ? 0 : static_cast<std::int32_t>(of(policy->runner->info().spec));
}

}  // namespace
}  // namespace shallowpi

using namespace shallowpi;

extern "C" {

const char* shallowpi_last_error(void) {
  return last_error.c_str();
}

int shallowpi_policy_load(const char* checkpoint, const shallowpi_policy_options* options,
                          shallowpi_policy** policy) {
  return guarded([&] {
    given(policy, "policy") = nullptr;
    const shallowpi_policy_options how = options == nullptr ? shallowpi_policy_options{} : *options;
    const torch::Device device = parse_device(text_or(how.device, "auto"));
    const torch::Dtype dtype = parse_dtype(text_or(how.dtype, "auto"), device);
    auto runner = std::make_shared<PolicyRunner>(PolicyRunner::load(&given(checkpoint, "checkpoint"), device,
                                                                    dtype, given_horizon(how.horizon),
                                                                    text_or(how.tokenizer, "")));
    *policy = new shallowpi_policy{std::move(runner)};
  });
}

void shallowpi_policy_free(shallowpi_policy* policy) {
  delete policy;
}

int32_t shallowpi_policy_horizon(const shallowpi_policy* policy) {
  return spec_number(policy, [](const PolicySpec& spec) { return spec.horizon; });
}

int32_t shallowpi_policy_state_dim(const shallowpi_policy* policy) {
  return spec_number(policy, [](const PolicySpec& spec) { return spec.robot.state_dim; });
}

int32_t shallowpi_policy_action_dim(const shallowpi_policy* policy) {
  return spec_number(policy, [](const PolicySpec& spec) { return spec.robot.action_dim; });
}

int32_t shallowpi_policy_camera_count(const shallowpi_policy* policy) {
  return spec_number(policy, [](const PolicySpec& spec) { return std::ssize(spec.image_keys); });
}

const char* shallowpi_policy_camera(const shallowpi_policy* policy, int32_t index) {
  if (index < 0 || index >= shallowpi_policy_camera_count(policy)) return nullptr;
  return policy->runner->info().spec.image_keys[static_cast<std::size_t>(index)].c_str();
}

int shallowpi_controller_defaults(const shallowpi_policy* policy, shallowpi_controller_options* options) {
  return guarded([&] {
    const ChunkingOptions chunking = chunking_for(given(policy, "policy").runner->info().spec);
    given(options, "options") = {.mode = static_cast<std::int32_t>(chunking.mode),
                                 .execute = static_cast<std::int32_t>(chunking.execute),
                                 .expected_delay = 0,
                                 .control_hz = chunking.control_hz,
                                 .ensemble_decay = chunking.ensemble_decay,
                                 .steps = kEulerSteps,
                                 .seed = 42,
                                 .noise_scale = 1,
                                 .relative_dims = nullptr};
  });
}

int shallowpi_controller_create(const shallowpi_policy* policy, const shallowpi_controller_options* options,
                                shallowpi_controller** controller) {
  return guarded([&] {
    given(controller, "controller") = nullptr;
    const auto& runner = given(policy, "policy").runner;
    const PolicySpec& spec = runner->info().spec;
    const ChunkingOptions how = chunking_of(spec, given(options, "options"));
    *controller = new shallowpi_controller{
        spec,
        {how, runner_inference(runner, options->steps, options->seed, options->noise_scale),
         [runner](const RobotObservation& observation) { runner->check(observation); }}};
  });
}

void shallowpi_controller_free(shallowpi_controller* controller) {
  delete controller;
}

int shallowpi_controller_reset(shallowpi_controller* controller, const float* initial, size_t dims) {
  return guarded([&] {
    shallowpi_controller& self = given(controller, "controller");
    if (initial != nullptr && dims != static_cast<std::size_t>(self.spec.robot.action_dim))
      throw UsageError(
          str("the initial action has ", dims, " dims, the policy's have ", self.spec.robot.action_dim));
    self.controller.reset(initial == nullptr ? Action() : Action(initial, initial + dims));
  });
}

int shallowpi_controller_tick(shallowpi_controller* controller, const shallowpi_observation* observation,
                              float* action, size_t dims, shallowpi_tick* tick) {
  return guarded([&] {
    shallowpi_controller& self = given(controller, "controller");
    float* out = &given(action, "action");
    if (dims != static_cast<std::size_t>(self.spec.robot.action_dim))
      throw UsageError(
          str("there is room for ", dims, " action dims, the policy's have ", self.spec.robot.action_dim));
    const ChunkTick now =
        self.controller.tick(copy_observation(given(observation, "observation"), self.spec.robot));
    std::copy(now.action.begin(), now.action.end(), out);
    if (tick != nullptr)
      *tick = {now.tick, static_cast<std::int32_t>(now.status), now.new_chunk ? 1 : 0, now.age,
               self.controller.last_latency_ms()};
  });
}

int shallowpi_controller_counters(const shallowpi_controller* controller, shallowpi_counters* counters) {
  return guarded([&] {
    const ChunkCounters& c = given(controller, "controller").controller.counters();
    given(counters, "counters") = {c.requests, c.accepted, c.late,          c.expired,   c.failed,
                                   c.invalid,  c.unknown,  c.waiting_ticks, c.held_ticks};
  });
}

const char* shallowpi_controller_fault(const shallowpi_controller* controller) {
  return controller == nullptr ? "" : controller->controller.last_error().c_str();
}

}  // extern "C"
