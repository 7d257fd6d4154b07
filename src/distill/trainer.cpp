#include "distill/trainer.h"

#include <algorithm>

#include "distill/batches.h"
#include "distill/schedule.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/log.h"
#include "shallowpi/base/memory.h"
#include "shallowpi/base/text.h"
#include "shallowpi/base/trace.h"
#include "shallowpi/data/random.h"

namespace shallowpi {
namespace {

// Apart from the streams of the loader, which is seeded with the same number.
constexpr std::uint64_t kTrainFlow = 0x7261696e, kHeldOutFlow = 0x6576616c;

std::int64_t loss_dims(const TrainingSetup& setup) {
  return setup.config().loss.dims == LossDims::kReal ? setup.spec.robot.action_dim : setup.policy.action_dim;
}

TrainingBatch to_device(const TrainingBatch& batch, torch::Device device) {
  return {batch.observation.to(device), batch.actions_bhd.to(device)};
}

FlowDraw to_device(const FlowDraw& draw, torch::Device device) {
  return {draw.noise.to(device), draw.t.to(device), draw.x_t.to(device), draw.target.to(device)};
}

}  // namespace

Trainer::Trainer(TrainingSetup setup, TrainingModels models, RunFolder& folder,
                 const std::filesystem::path& resume, bool quiet)
    : setup_(std::move(setup)),
      config_(setup_.resolved.config),
      folder_(folder),
      student_(models.student),
      parameters_(trainable_groups(student_, config_.optimizer.freeze)),
      optimizer_(config_.optimizer, parameters_.master()),
      distiller_(student_, models.teacher, config_.loss, setup_.kept_layers, loss_dims(setup_)),
      progress_(config_.train.steps, quiet) {
  if (config_.optimizer.ema_decay > 0) ema_ = parameters_.master().clone();
  if (!models.teacher.is_empty() && can_share_tower(student_, models.teacher)) {
    distiller_.share_tower();
    log::info("student and teacher share one run of the frozen vision tower");
  }
  if (setup_.teacher) {
    teacher_fingerprint_ = weights_fingerprint(*setup_.teacher);
  } else if (setup_.start) {
    teacher_fingerprint_ = setup_.start->teacher_fingerprint;
  }
  if (!resume.empty()) restore(resume);
  metrics_ = std::make_unique<MetricsLog>(folder_.path(), state_.step, state_.metrics_bytes);
  LoaderOptions options;
  options.batch_size = config_.train.batch_size;
  options.workers = config_.data.workers;
  options.prefetch = config_.data.prefetch;
  options.augmentation = {.images = config_.data.augment, .state_noise = config_.data.state_noise};
  options.seed = config_.seed;
  loader_ =
      std::make_unique<Loader>(setup_.pipeline, *setup_.dataset, setup_.split.train, options, state_.step);
  timed_from_step_ = state_.step;
  stopwatch_ = {};
}

void Trainer::run(const StopSignal& stop) {
  while (state_.step < config_.train.steps && !stop.requested()) {
    writer_.check();
    const TrainingBatch batch = loader_->next();
    const auto step = [&] { apply(compute_gradient(batch), batch); };
    if (state_.step + 1 == config_.train.trace_step) {
      trace(folder_.path() / "trace.json", setup_.device, step);
    } else {
      step();
    }
    ++state_.step;
    log_if_due();
    evaluate_if_due();
    save_if_due();
  }
  if (saved_step_ != state_.step) save();
  writer_.wait();
}

Trainer::StepResult Trainer::compute_gradient(const TrainingBatch& batch) {
  const std::int64_t size = batch.observation.batch_size(), part = size / config_.train.accumulate;
  // Drawn for the whole batch, so that the result does not depend on how it is divided.
  const std::uint64_t seed =
      Random({config_.seed, kTrainFlow, static_cast<std::uint64_t>(state_.step)}).next();
  const FlowDraw draw = draw_flow(batch.actions_bhd, config_.flow, seed);
  parameters_.zero_gradient();
  torch::Tensor sums;
  std::vector<std::string> names;
  for (std::int64_t begin = 0; begin < size; begin += part) {
    const LossTerms terms = distiller_.losses(to_device(narrow(batch, begin, part), setup_.device),
                                              to_device(narrow(draw, size, begin, part), setup_.device));
    const torch::Tensor loss = objective(terms);
    (loss / config_.train.accumulate).backward();
    parameters_.collect_gradient();
    std::vector<torch::Tensor> values{loss.detach()};
    names = {"loss"};
    for (const LossTerm& term : terms) {
      values.push_back(term.loss.mean().detach());
      names.push_back("loss_" + term.name);
    }
    const torch::Tensor stacked = torch::stack(values);
    sums = sums.defined() ? sums + stacked : stacked;
  }
  // Several processes would sum two tensors here: the flat gradient and the losses.
  sums = sums / config_.train.accumulate;
  const torch::Tensor host = torch::cat({sums, parameters_.gradient().norm().reshape(1)}).to(torch::kCPU);
  StepResult result;
  for (std::size_t i = 0; i < names.size(); ++i)
    result.losses.emplace_back(names[i], host[static_cast<std::int64_t>(i)].item<double>());
  result.gradient_norm = host[-1].item<double>();
  return result;
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
  torch::NoGradGuard no_grad;
  clip_gradient(parameters_.gradient(), result.gradient_norm, config_.optimizer.clip_norm);
  optimizer_.step(parameters_.master(), parameters_.gradient(),
                  learning_rate(config_.optimizer, state_.step));
  parameters_.use(parameters_.master());
  if (ema_.defined()) update_ema(ema_, parameters_.master(), config_.optimizer.ema_decay);
  state_.updates = optimizer_.updates;
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
  timing.memory_bytes = peak_memory(setup_.device);
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
  log::info("step ", state_.step, ", ", ema_.defined() ? "EMA weights" : "weights", ": ", join(texts, "  "));
}

Scalars Trainer::held_out_losses() {
  torch::NoGradGuard no_grad;
  const std::int64_t part = config_.train.batch_size / config_.train.accumulate;
  if (held_out_.empty()) held_out_ = held_out_batches(setup_, part);
  if (ema_.defined()) parameters_.use(ema_);
  std::map<std::string, std::pair<double, double>> sums;  // by term: sum and count
  std::map<std::string, double> weights;
  for (std::size_t i = 0; i < held_out_.size(); ++i) {
    // The same noise and times at every evaluation.
    const std::uint64_t seed = Random({config_.seed, kHeldOutFlow, i}).next();
    const FlowDraw draw = draw_flow(held_out_[i].actions_bhd, config_.flow, seed);
    for (const LossTerm& term :
         distiller_.losses(to_device(held_out_[i], setup_.device), to_device(draw, setup_.device))) {
      auto& [sum, count] = sums[term.name];
      sum += term.loss.sum.item<double>();
      count += term.loss.count;
      weights[term.name] = term.weight;
    }
  }
  parameters_.use(parameters_.master());
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
  // Training goes on while the copy is written.
  std::map<std::string, torch::Tensor> copies;
  for (const auto& [name, flat] : training_vectors())
    copies[name] = flat.to(torch::kCPU, flat.scalar_type(), false, true);
  // By name already here: an evaluation meanwhile gives the parameters other memory.
  NamedTensors weights = parameters_.named(copies.at(ema_.defined() ? "ema" : "master"));
  weights.merge(student_->named_tensors(/*with_dead=*/true));  // frozen and dead ones do not change
  writer_.start([this, weights = std::move(weights), tensors = by_name(copies), state = state_] {
    folder_.publish(state.step, state.best_step, config_.train, [&](const std::filesystem::path& folder) {
      const CheckpointInfo* origin = setup_.origin();
      write_checkpoint_files(folder, contents(), weights, torch::kBFloat16,
                             origin ? origin->folder : std::filesystem::path());
      std::filesystem::create_directory(folder / "training_state");
      write_training_state(folder / "training_state", state, dump_config(setup_.resolved), tensors);
    });
  });
}

CheckpointContents Trainer::contents() const {
  CheckpointContents contents;
  contents.config = setup_.policy;
  contents.spec = setup_.spec;
  contents.stats = setup_.pipeline->stats();
  contents.tokenizer = setup_.tokenizer;
  contents.kept_layers = setup_.kept_layers;
  contents.teacher_fingerprint = teacher_fingerprint_;
  contents.card =
      str("Trained with shallowpi-distill; `training_state/config.yaml` repeats the run. The weights are ",
          ema_.defined() ? "the moving average (EMA) over the run." : "those of the last step.", "\n");
  return contents;
}

std::map<std::string, torch::Tensor> Trainer::training_vectors() const {
  std::map<std::string, torch::Tensor> vectors{{"master", parameters_.master()},
                                               {"exp_avg", optimizer_.first_moment},
                                               {"exp_avg_sq", optimizer_.second_moment}};
  if (ema_.defined()) vectors["ema"] = ema_;
  return vectors;
}

NamedTensors Trainer::by_name(const std::map<std::string, torch::Tensor>& vectors) const {
  NamedTensors tensors;
  for (const auto& [kind, flat] : vectors)
    for (const auto& [name, tensor] : parameters_.named(flat)) tensors[kind + "/" + name] = tensor;
  return tensors;
}

void Trainer::restore(const std::filesystem::path& checkpoint) {
  const std::filesystem::path folder = checkpoint / "training_state";
  state_ = read_training_state(folder);
  torch::NoGradGuard no_grad;
  read_training_tensors(folder, by_name(training_vectors()));
  parameters_.use(parameters_.master());
  optimizer_.updates = state_.updates;
  std::error_code missing;  // another run's checkpoint is not in this folder
  const bool is_own = std::filesystem::equivalent(
      checkpoint, RunFolder::checkpoint_path(folder_.path(), state_.step), missing);
  saved_step_ = is_own ? state_.step : -1;
  log::info("going on from ", checkpoint.string(), " after ", state_.step, " steps");
}

}  // namespace shallowpi
