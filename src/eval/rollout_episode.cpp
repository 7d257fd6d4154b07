#include "eval/rollout_episode.h"

#include "shallowpi/base/error.h"
#include "shallowpi/base/manifest.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

constexpr const char* kWhere = "a simulator's answer";
constexpr std::size_t kImages = 2;  // of an answer, the scene and the wrist: the first of kCanonicalCameras

std::vector<double> state_of(const Json& json) {
  const auto state = json_get<std::vector<double>>(json, "state", kWhere);
  if (state.size() != kLiberoStateDim)
    throw SimulatorFault(str("a simulator's state has ", state.size(), " dims"));
  return state;
}

}  // namespace

Episode::Episode(EpisodeKey key, TaskInfo task, const RolloutSettings& settings)
    : settings_(settings), task_(std::move(task)), max_steps_(settings.steps_allowed(key.suite)) {
  record_.key = std::move(key);
  record_.language = task_.language;
  record_.init_state = record_.key.trial % task_.init_states;
  record_.seed = settings_.seed + static_cast<std::uint64_t>(record_.key.trial);
  record_frames_ = settings_.records(record_.key.trial);
}

Json Episode::simulator_request() const {
  Json out;
  if (started_) {
    out["cmd"] = "step";
    out["actions"] = planned_;
    out["render"] = chunk_request_.has_value() && settings_.needs_images;
    return out;
  }
  out["cmd"] = "reset";
  out["suite"] = record_.key.suite;
  out["task"] = record_.key.task;
  out["init"] = record_.init_state;
  out["seed"] = record_.seed;
  out["size"] = settings_.image_size;
  out["settle"] = settings_.settle;
  out["render"] = settings_.needs_images;
  out["always"] = settings_.always_render;
  out["record"] = record_frames_;
  const Json options = settings_.json();
  out["perturb"] = options["perturb"];
  out["perturb_seed"] = {settings_.seed, record_.key.task, record_.key.trial};
  out["move"] = options["move"];
  return out;
}

void Episode::take_simulator_answer(SimulatorAnswer answer) {
  last_ = std::move(answer);
  const std::vector<double> state = state_of(last_.json);
  add_to_trace({reinterpret_cast<const char*>(state.data()), state.size() * sizeof(double)});
  if (!started_) record_.perturbation = json_get<Json>(last_.json, "perturbation", kWhere);
  record_.perturbation[started_ ? "at_end" : "at_start"] =
      json_get_or<Json>(last_.json, "offsets", Json::object(), kWhere);
  if (!started_) {
    started_ = true;
    ask(0);
    return;
  }
  record_.steps += json_get<std::int64_t>(last_.json, "executed", kWhere);
  record_.success = json_get<bool>(last_.json, "done", kWhere);
  finished_ = record_.success || record_.steps >= max_steps_;
  if (!finished_) ask(record_.steps);
}

void Episode::ask(std::int64_t tick) {
  call_ = PolicyCall{record_.key, record_.calls, tick, observation(last_),
                     chunk_request_ ? chunk_request_->prefix : RobotActions{}};
}

RobotObservation Episode::observation(const SimulatorAnswer& answer) const {
  RobotObservation out;
  for (double value : state_of(answer.json)) out.state.push_back(static_cast<float>(value));
  out.prompt = task_.language;
  if (!json_get<bool>(answer.json, "images", kWhere)) return out;
  const auto size = static_cast<std::size_t>(settings_.image_size), bytes = size * size * 3;
  if (answer.payload.size() < kImages * bytes) throw SimulatorFault("a simulator's images are too short");
  for (std::size_t i = 0; i < kImages; ++i) {
    const auto begin = answer.payload.begin() + static_cast<std::ptrdiff_t>(i * bytes);
    out.images[kCanonicalCameras[i]] = {
        settings_.image_size, settings_.image_size, {begin, begin + static_cast<std::ptrdiff_t>(bytes)}};
  }
  return out;
}

void Episode::take_actions(RobotActions actions, double milliseconds) {
  record_.policy_ms += milliseconds;
  ++record_.calls;
  if (!chunker_) {
    chunker_.emplace(settings_.chunking_options(static_cast<std::int64_t>(actions.size())));
    chunker_->reset(kLiberoStandStill);
    chunk_request_ = chunker_->next_request();
  }
  for (const auto& action : actions)
    if (static_cast<std::int64_t>(action.size()) != kLiberoActionDim)
      throw UsageError(
          str("the policy's actions have ", action.size(), " dims, LIBERO's robot takes ", kLiberoActionDim));
  chunk_answer_ = ChunkAnswer{chunk_request_->id, std::move(actions), ""};
  chunk_answer_tick_ = chunk_request_->tick + settings_.delay();
  chunk_request_.reset();
  call_.reset();
  plan();
}

/// Actions are known up to the tick that needs the next observation: an answer that comes into force later
/// was computed already.
void Episode::plan() {
  planned_.clear();
  while (record_.steps + static_cast<std::int64_t>(planned_.size()) < max_steps_) {
    if (chunk_answer_ && chunker_->now() == chunk_answer_tick_) {
      if (!chunker_->deliver(std::move(*chunk_answer_)))
        throw Error(str(record_.key.suite, " task ", record_.key.task, ": ", chunker_->last_error()));
      chunk_answer_.reset();
    }
    if ((chunk_request_ = chunker_->next_request())) break;
    planned_.push_back(chunker_->tick().action);
  }
  for (const Action& action : planned_)
    add_to_trace({reinterpret_cast<const char*>(action.data()), action.size() * sizeof(float)});
}

std::string_view Episode::frames() const {
  const auto count = json_get_or<std::int64_t>(last_.json, "frames", 0, kWhere);
  const auto bytes = static_cast<std::size_t>(count * settings_.image_size * settings_.image_size * 2 * 3);
  if (bytes > last_.payload.size()) throw SimulatorFault("a simulator's frames are too short");
  return std::string_view(last_.payload).substr(last_.payload.size() - bytes);
}

void Episode::add_to_trace(std::string_view bytes) {
  constexpr std::size_t kDigits = 16;
  record_.trace = sha256(record_.trace + std::string(bytes)).substr(0, kDigits);
}

}  // namespace shallowpi
