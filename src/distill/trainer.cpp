#include "distill/trainer.h"

#include <algorithm>
#include <limits>

#include "distill/batches.h"
#include "distill/schedule.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/log.h"
#include "shallowpi/base/memory.h"
#include "shallowpi/base/text.h"
#include "shallowpi/base/trace.h"
#include "shallowpi/data/random.h"

namespace shallowpi {
namespace {

// Apart from the streams of the loader, which is seeded with the same number.
constexpr std::uint64_t kTrainFlow = 0x7261696e, kHeldOutFlow = 0x6576616c;

}  // namespace

Trainer::Trainer(TrainingSetup setup, const std::vector<TrainingModels>& models, RunInputs inputs,
                 RunFolder& folder, const StartPoint& start, bool quiet)
    : setup_(std::move(setup)),
      config_(setup_.resolved.config),
      inputs_(std::move(inputs)),
      folder_(folder),
      replicas_(setup_, models),
      progress_(config_.train.steps, quiet) {
  if (const CheckpointInfo* origin = setup_.origin()) origin_weights_.emplace(origin->folder);
  if (!start.checkpoint.empty()) restore(start);
  state_.demonstrations = inputs_.demonstrations;
  state_.start = inputs_.start;
  if (config_.train.eval_every > 0) held_out_ = held_out_batches(setup_, config_.train.batch_size);
  metrics_ = std::make_unique<MetricsLog>(folder_.path(), state_.step, state_.metrics_bytes);
  LoaderOptions options;
  options.batch_size = config_.train.batch_size;
  options.workers = config_.data.workers;
  options.prefetch = config_.data.prefetch;
  options.augmentation = {.images = config_.data.augment, .state_noise = config_.data.state_noise};
  options.seed = config_.seed;
  loader_ =
      std::make_unique<Loader>(setup_.pipeline, *setup_.dataset, setup_.split.train, options, state_.step);
  timed_from_step_ = first_step_ = state_.step;
  stopwatch_ = {};
}

void Trainer::run(const StopSignal& stop) {
  while (state_.step < config_.train.steps && !stop.requested()) {
    writer_.check();
    const TrainingBatch batch = next_batch();
    if (state_.step == 0) write_picture(folder_.path() / "first_batch.jpg", batch.observation);
    const auto step = [&] { apply(compute_gradient(batch), batch); };
    if (state_.step + 1 == config_.train.trace_step)
      trace(folder_.path() / "trace.json", setup_.devices.front(), step);
    else
      step();
    ++state_.step;
    log_if_due();
    evaluate_if_due();
    save_if_due();
  }
  if (saved_step_ != state_.step) save();
  writer_.wait();
}

void Trainer::save_before_failing() {
  if (state_.step == first_step_) return;
  try {
    if (saved_step_ != state_.step) save();
    writer_.wait();
  } catch (const std::exception& error) {
    log::warning("step ", state_.step, " cannot be saved: ", error.what(),
                 "; the run goes on from its last checkpoint");
  }
}

TrainingBatch Trainer::next_batch() {
  try {
    return loader_->next();
  } catch (const CorruptError& error) {
    save_before_failing();
    throw CorruptError(
        str(error.what(),
            "; this run can only go on with the same episodes: put sound images in the "
            "place of the damaged ones (states and actions have to stay), or begin another run "
            "with student.checkpoint"));
  } catch (...) {
    save_before_failing();
    throw;
  }
}

StepResult Trainer::compute_gradient(const TrainingBatch& batch) {
  const std::uint64_t seed =
      Random({config_.seed, kTrainFlow, static_cast<std::uint64_t>(state_.step)}).next();
  try {
    // Drawn for the whole batch, so that the result does not depend on how it is divided.
    return replicas_.compute_gradient(batch, draw(batch, seed));
  } catch (...) {  // such as no memory: the weights are as they were
    save_before_failing();
    throw;
  }
}

FlowDraw Trainer::draw(const TrainingBatch& batch, std::uint64_t seed) const {
  return draw_flow(batch.actions_bhd, config_.flow, seed, setup_.spec.rtc_training_max_delay);
}

void Trainer::skip(const StepResult& result, StepVerdict verdict, const TrainingBatch& batch) {
  const double loss = result.losses.front().second;
  const auto frames = [&] {
    const std::vector<std::int64_t> extreme = extreme_samples(batch);
    return str(extreme.empty() ? "its frames: " : "extreme actions: ",
               describe_batch(setup_, state_.step, extreme));
  };
  const bool is_first = state_.guard.skipped == 1;  // the others are often for the same frames
  log::warning("step ", state_.step + 1, " skipped: ",
               verdict == StepVerdict::kNonFinite ? "a value is not finite" : "the gradient is an outlier",
               " (loss ", loss, ", gradient norm ", result.gradient_norm, ")",
               is_first ? "; " + frames() : "");
  // A run too short for that many skipped steps must not end as if it had trained.
  const bool learned_nothing = state_.updates == 0 && state_.step + 1 == config_.train.steps;
  if (state_.guard.in_a_row >= config_.train.max_skipped || learned_nothing)
    give_up(result, verdict, frames());
}

void Trainer::apply(const StepResult& result, const TrainingBatch& batch) {
  const double loss = result.losses.front().second;
  const StepVerdict verdict = state_.guard.judge(loss, result.gradient_norm, config_.train.outlier_sigma);
  if (verdict != StepVerdict::kApply) return skip(result, verdict, batch);
  replicas_.update(result.gradient_norm, learning_rate(config_.optimizer, state_.step));
  state_.updates = replicas_.updates();
  Scalars values = result.losses;
  values.emplace_back("gradient_norm", result.gradient_norm);
  state_.window.add(values);
}

void Trainer::give_up(const StepResult& result, StepVerdict verdict, const std::string& frames) {
  writer_.wait();
  const auto saved = run_checkpoints(folder_.path());
  // A folder with checkpoints goes on with the configuration that they were made with.
  const std::string where =
      saved.empty() ? " (no checkpoint was saved yet)"
                    : str(" in a new output_dir, where student.checkpoint=", saved.back().folder.string(),
                          " (instead of student.architecture) starts from the last checkpoint");
  throw DivergedError(
      str("training diverged at step ", state_.step + 1, ": ", state_.guard.in_a_row,
          " steps in a row were skipped (",
          verdict == StepVerdict::kNonFinite ? "loss or gradient not finite" : "gradient outliers",
          "; last loss ", result.losses.front().second, ", gradient norm ", result.gradient_norm,
          "). Of the last batch, ", frames, ". Look at this data, or lower optimizer.peak_lr", where));
}

bool Trainer::is_due(std::int64_t every) const {
  return every > 0 && (state_.step % every == 0 || state_.step == config_.train.steps);
}

void Trainer::log_if_due() {
  if (!is_due(config_.train.log_every)) return;
  Scalars values;
  for (const auto& [name, mean] : state_.window.take()) values.emplace_back(name, mean);
  values.emplace_back("learning_rate", learning_rate(config_.optimizer, state_.step - 1));
  values.emplace_back("skipped", static_cast<double>(state_.guard.skipped));
  metrics_->write(state_.step, values);
  const StepTiming timing = take_timing();
  metrics_->write_timing(state_.step, {{"samples_per_second", timing.samples_per_second},
                                       {"data_wait_share", timing.wait_share},
                                       {"memory_bytes", static_cast<double>(timing.memory_bytes)}});
  progress_.show(state_.step, values, timing);
}

StepTiming Trainer::take_timing() {
  const double seconds = std::max(1e-9, stopwatch_.lap());
  const double steps = static_cast<double>(state_.step - timed_from_step_);
  StepTiming timing;
  timing.samples_per_second = steps * static_cast<double>(config_.train.batch_size) / seconds;
  timing.wait_share = (loader_->wait_seconds() - timed_wait_) / seconds;
  timing.seconds_left =
      static_cast<double>(config_.train.steps - state_.step) * seconds / std::max(1.0, steps);
  for (const torch::Device device : setup_.devices)
    timing.memory_bytes = std::max(timing.memory_bytes, peak_memory(device));
  timed_from_step_ = state_.step;
  timed_wait_ = loader_->wait_seconds();
  return timing;
}

void Trainer::evaluate_if_due() {
  held_out_loss_.reset();
  if (!is_due(config_.train.eval_every)) return;
  const Scalars values = held_out_losses();
  held_out_loss_ = values.front().second;
  metrics_->write(state_.step, values);
  std::vector<std::string> texts;
  for (const auto& [name, value] : values) texts.push_back(str(name, " ", value));
  log::info("step ", state_.step, ", ", replicas_.has_ema() ? "EMA weights" : "weights", ": ",
            join(texts, "  "));
}

Scalars Trainer::held_out_losses() {
  replicas_.use_ema();
  std::map<std::string, std::pair<double, double>> sums;  // by term: sum and count
  std::map<std::string, double> weights;
  for (std::size_t i = 0; i < held_out_.size(); ++i) {
    // The same noise and times at every evaluation.
    const std::uint64_t seed = Random({config_.seed, kHeldOutFlow, i}).next();
    const FlowDraw flow = draw(held_out_[i], seed);
    const std::int64_t size = held_out_[i].observation.batch_size();
    for (std::int64_t begin = 0; begin < size; begin += setup_.micro_batch()) {
      const std::int64_t part = std::min(setup_.micro_batch(), size - begin);
      for (const LossTerm& term :
           replicas_.evaluate(narrow(held_out_[i], begin, part), narrow(flow, size, begin, part))) {
        auto& [sum, count] = sums[term.name];
        sum += term.loss.sum.item<double>();
        count += term.loss.count;
        weights[term.name] = term.weight;
      }
    }
  }
  replicas_.use_master();
  Scalars values{{"held_out_loss", 0}};
  for (const auto& [name, sum] : sums) {
    values.emplace_back("held_out_loss_" + name, sum.first / sum.second);
    values.front().second += weights[name] * sum.first / sum.second;
  }
  return values;
}

void Trainer::save_if_due() {
  if (!is_due(config_.train.save_every)) return;
  // The best is chosen among saved steps: there is no going back to others.
  if (held_out_loss_ && *held_out_loss_ < state_.best_loss) {
    state_.best_loss = *held_out_loss_;
    state_.best_step = state_.step;
  }
  save();
}

void Trainer::save() {
  writer_.wait();
  state_.metrics_bytes = metrics_->sync();
  saved_step_ = state_.step;
  // Training goes on while this copy is written.
  const std::map<std::string, torch::Tensor> copies = replicas_.state();
  // By name already here: an evaluation meanwhile gives the parameters other memory.
  NamedTensors weights = replicas_.parameters().named(copies.at(replicas_.has_ema() ? "ema" : "master"));
  // Frozen and dead ones do not change.
  weights.merge(replicas_.student()->named_tensors(/*with_dead=*/true));
  writer_.start([this, weights = std::move(weights), tensors = by_name(copies), state = state_] {
    folder_.publish(state.step, state.best_step, config_.train, [&](const std::filesystem::path& folder) {
      write_checkpoint_files(folder, inputs_.contents, weights, torch::kBFloat16,
                             origin_weights_ ? &*origin_weights_ : nullptr);
      std::filesystem::create_directory(folder / kTrainingState);
      write_training_state(folder / kTrainingState, state, dump_config(setup_.resolved), tensors);
    });
  });
}

NamedTensors Trainer::by_name(const std::map<std::string, torch::Tensor>& vectors) const {
  NamedTensors tensors;
  for (const auto& [kind, flat] : vectors)
    for (const auto& [name, tensor] : replicas_.parameters().named(flat)) tensors[kind + "/" + name] = tensor;
  return tensors;
}

void Trainer::restore(const StartPoint& start) {
  state_ = start.state;
  const std::map<std::string, torch::Tensor> vectors = replicas_.state();  // overwritten
  read_training_tensors(start.checkpoint / kTrainingState, by_name(vectors));
  replicas_.restore(vectors, state_.updates);
  saved_step_ = start.is_own ? state_.step : -1;
  // The best of another run, or one that was not kept, is not in this folder: the next one is its best. A run
  // that has nothing left to do is saved as it is.
  const bool has_best = std::filesystem::exists(RunFolder::checkpoint_path(folder_.path(), state_.best_step));
  if (config_.train.keep_best && !has_best && state_.step < config_.train.steps) {
    state_.best_step = -1;
    state_.best_loss = std::numeric_limits<double>::infinity();
  }
  log::info("going on from ", start.checkpoint.string(), " after ", state_.step, " steps");
}

}  // namespace shallowpi
