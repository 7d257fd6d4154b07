#include "shallowpi/runtime/action_chunking.h"

#include <algorithm>
#include <cmath>

#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi {

std::int64_t delay_ticks(double latency_ms, double control_hz) {
  // 100 ms at 30 Hz are three ticks, not the four that binary fractions make of them.
  constexpr double kRounding = 1e-9;
  return static_cast<std::int64_t>(std::ceil(latency_ms * control_hz / 1000.0 - kRounding));
}

std::int64_t needed_horizon(std::int64_t execute, std::int64_t delay) {
  return std::max(execute, delay) + delay;
}

std::string rtc_warning(std::int64_t delay, std::int64_t trained_delay) {
  if (delay <= trained_delay) return "";
  return str("rtc gives the policy ", delay, " actions of each chunk; it was trained to continue ",
             trained_delay == 0 ? "none" : str(trained_delay), " (policy.rtc_training_max_delay)");
}

void check_chunking(const ChunkingOptions& options, std::int64_t delay) {
  const auto refuse = [](auto... parts) { throw UsageError(str("action chunking: ", parts...)); };
  if (options.horizon < 1) refuse("horizon ", options.horizon, " must be at least 1");
  if (options.execute < 1) refuse("execute ", options.execute, " must be at least 1");
  if (!std::isfinite(options.control_hz) || options.control_hz <= 0)
    refuse("control_hz ", options.control_hz, " must be above 0");
  if (!std::isfinite(options.ensemble_decay))
    refuse("ensemble_decay ", options.ensemble_decay, " must be finite");
  if (delay < 0) refuse("a delay of ", delay, " ticks must not be negative");
  const std::int64_t needed = needed_horizon(options.execute, delay);
  if (options.horizon < needed)
    refuse("chunks of ", options.horizon, " actions are too short: with a request every ", options.execute,
           " ticks",
           delay == 0 ? ""
                      : str(" and an answer after ", delay, " (",
                            fixed(1000.0 * double(delay) / options.control_hz, 0), " ms at ",
                            options.control_hz, " Hz)"),
           ", a chunk has to last ", needed,
           " ticks; execute fewer actions per chunk, or use a faster policy or longer chunks");
}

ActionChunker::ActionChunker(ChunkingOptions options) : options_(std::move(options)) {
  check_chunking(options_, options_.expected_delay);
}

void ActionChunker::reset(Action initial) {
  now_ = request_at_ = 0;
  under_way_.reset();
  chunks_.clear();
  delays_.clear();
  initial_ = std::move(initial);
  last_.clear();
  acted_ = fresh_ = false;
}

std::optional<ChunkRequest> ActionChunker::next_request() {
  if (!wants_request()) return std::nullopt;
  ChunkRequest request{.id = next_id_, .tick = now_, .prefix = {}};
  if (options_.mode == ChunkMode::kRtc) request.prefix = prefix();
  under_way_ = ChunkRequest{.id = next_id_++, .tick = now_, .prefix = {}};
  request_at_ = now_ + options_.execute;
  ++counters_.requests;
  return request;
}

/// The actions that are executed before the answer can be there, as far as the chunks in force go. One slow
/// answer must not have the next ones repeat all of the old plan.
RobotActions ActionChunker::prefix() const {
  std::int64_t delay = options_.expected_delay;
  for (std::int64_t seen : delays_) delay = std::max(delay, seen);
  const std::int64_t most = options_.trained_delay > 0
                                ? std::max(options_.trained_delay, options_.expected_delay)
                                : options_.horizon - options_.execute;
  RobotActions actions;
  for (std::int64_t i = 0; i < std::min(delay, most); ++i) {
    Action action = planned(now_ + i);
    if (action.empty()) break;
    actions.push_back(std::move(action));
  }
  return actions;
}

std::string ActionChunker::fault(const RobotActions& actions) const {
  const auto rows = static_cast<std::int64_t>(actions.size());
  if (rows != options_.horizon) return str(rows, " actions instead of ", options_.horizon);
  const std::size_t dims = acted_ ? last_.size() : !initial_.empty() ? initial_.size() : actions[0].size();
  if (dims == 0) return "actions without a dimension";
  if (!options_.relative_dims.empty() && options_.relative_dims.size() != dims)
    return str("actions of ", dims, " dims, and relative_dims names ", options_.relative_dims.size());
  for (std::size_t i = 0; i < actions.size(); ++i) {
    if (actions[i].size() != dims)
      return str("action ", i, " has ", actions[i].size(), " dims instead of ", dims);
    for (std::size_t d = 0; d < dims; ++d)
      if (!std::isfinite(actions[i][d])) return str("action ", i, " is not finite in dim ", d);
  }
  return "";
}

bool ActionChunker::refuse(std::int64_t& counter, const std::string& why) {
  ++counter;
  last_error_ = why;
  request_at_ = now_;  // ask again at once: the chunks in force will not last
  return false;
}

bool ActionChunker::deliver(ChunkAnswer answer) {
  if (!under_way_ || answer.id != under_way_->id) {
    ++counters_.unknown;
    return false;
  }
  const std::int64_t start = under_way_->tick, delay = now_ - start;
  under_way_.reset();
  if (!answer.error.empty()) return refuse(counters_.failed, answer.error);
  if (const std::string why = fault(answer.actions); !why.empty())
    return refuse(counters_.invalid, str("the policy answered with ", why));

  if (delay >= options_.horizon)
    return refuse(counters_.expired,
                  str("the answer took ", delay, " ticks, and a chunk lasts only ", options_.horizon));
  constexpr std::size_t kDelaysKept = 10;
  delays_.push_back(delay);
  if (delays_.size() > kDelaysKept) delays_.pop_front();
  ++counters_.accepted;
  last_error_.clear();
  if (options_.expected_delay > 0 && delay > options_.expected_delay) ++counters_.late;
  if (options_.mode != ChunkMode::kEnsemble) chunks_.clear();
  chunks_.push_back({start, std::move(answer.actions)});
  fresh_ = true;
  return true;
}

/// ACT's exp(-m i), scaled so that the heaviest weight is 1: none overflows.
double ActionChunker::weight(std::size_t position, std::size_t count) const {
  const double m = options_.ensemble_decay;
  return std::exp(-std::abs(m) * static_cast<double>(m < 0 ? count - 1 - position : position));
}

Action ActionChunker::planned(std::int64_t tick) const {
  std::vector<double> sum;
  double weights = 0;
  std::size_t first = 0;  // that has an action for this tick
  while (first < chunks_.size() && tick - chunks_[first].start >= options_.horizon) ++first;
  for (std::size_t i = first; i < chunks_.size(); ++i) {
    const Action& action = chunks_[i].actions[static_cast<std::size_t>(tick - chunks_[i].start)];
    const double w = weight(i - first, chunks_.size() - first);
    sum.resize(action.size());
    for (std::size_t d = 0; d < action.size(); ++d) sum[d] += w * double(action[d]);
    weights += w;
  }
  Action action(sum.size());
  for (std::size_t d = 0; d < sum.size(); ++d) action[d] = static_cast<float>(sum[d] / weights);
  return action;
}

double ActionChunker::mean_age() const {
  double sum = 0, weights = 0;
  for (std::size_t i = 0; i < chunks_.size(); ++i) {
    const double w = weight(i, chunks_.size());
    sum += w * static_cast<double>(now_ - chunks_[i].start);
    weights += w;
  }
  return sum / weights;
}

void ActionChunker::hold(ChunkTick& out) {
  if (!acted_) {
    out.action = initial_;
    ++counters_.waiting_ticks;
    return;
  }
  out.status = TickStatus::kHolding;
  ++counters_.held_ticks;
  for (std::size_t d = 0; d < std::min(last_.size(), options_.relative_dims.size()); ++d)
    if (options_.relative_dims[d]) last_[d] = 0;
  out.action = last_;
}

ChunkTick ActionChunker::tick() {
  while (!chunks_.empty() && now_ - chunks_.front().start >= options_.horizon) chunks_.pop_front();
  ChunkTick out;
  out.tick = now_;
  if (chunks_.empty()) {
    hold(out);
  } else {
    out.status = TickStatus::kActing;
    out.action = last_ = planned(now_);
    out.blended = static_cast<std::int64_t>(chunks_.size());
    out.age = now_ - chunks_.back().start;
    out.mean_age = mean_age();
    out.new_chunk = fresh_;
    fresh_ = false;
    acted_ = true;
  }
  ++now_;
  return out;
}

}  // namespace shallowpi
