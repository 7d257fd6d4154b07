#include "distill/replicas.h"

#include <cmath>

#include "shallowpi/base/log.h"

namespace shallowpi {
namespace {

std::int64_t loss_dims(const TrainingSetup& setup) {
  return setup.config().loss.dims == LossDims::kReal ? setup.spec.robot.action_dim : setup.policy.action_dim;
}

/// Whether the teacher has learnt to continue all the chunks whose start this run gives it.
bool teacher_continues(const TrainingSetup& setup) {
  return setup.teacher && setup.teacher->spec.rtc_training_max_delay >= setup.spec.rtc_training_max_delay;
}

TrainingBatch to_device(const TrainingBatch& batch, torch::Device device) {
  return {batch.observation.to(device), batch.actions_bhd.to(device)};
}

FlowDraw to_device(const FlowDraw& draw, torch::Device device) {
  return draw.map([&](const torch::Tensor& tensor) { return tensor.to(device); });
}

/// Where the share of replica `index` of `count` begins; those of all are about equal.
std::int64_t share_begin(const FlatParameters& parameters, std::size_t index, std::size_t count) {
  constexpr std::size_t kBlock = FlatParameters::kAlignment;  // of which the vector has a whole number
  const auto blocks = static_cast<std::size_t>(parameters.master().numel()) / kBlock;
  return static_cast<std::int64_t>(blocks * index / count * kBlock);
}

/// sum += values, which may lie on another device, in pieces: their copies take little memory there.
void add_from(torch::Tensor sum, const torch::Tensor& values) {
  constexpr std::int64_t kPiece = std::int64_t{16} << 20;  // 64 MiB
  for (std::int64_t begin = 0; begin < sum.numel(); begin += kPiece) {
    torch::Tensor piece = sum.slice(0, begin, begin + kPiece);
    piece.add_(values.slice(0, begin, begin + kPiece).to(sum.device()));
  }
}

}  // namespace

Replicas::Replica::Replica(const TrainingSetup& setup, std::size_t index, TrainingModels models)
    : device(setup.devices[index]),
      student(models.student),
      parameters(trainable_groups(student, setup.config().optimizer.freeze)),
      begin(share_begin(parameters, index, setup.devices.size())),
      end(share_begin(parameters, index + 1, setup.devices.size())),
      optimizer(setup.config().optimizer, share(parameters.master())),
      distiller(student, models.teacher, setup.config().loss, setup.kept_layers, loss_dims(setup),
                teacher_continues(setup)) {
  if (setup.config().optimizer.ema_decay > 0) ema = share(parameters.master()).clone();
  distiller.share_tower();
}

Replicas::Replicas(const TrainingSetup& setup, const std::vector<TrainingModels>& models)
    : optimizer_config_(setup.config().optimizer),
      accumulate_(setup.config().train.accumulate),
      team_(models.size()) {
  replicas_.reserve(models.size());
  for (const TrainingModels& pair : models) replicas_.emplace_back(setup, replicas_.size(), pair);
  if (shares_tower()) log::info("student and teacher share one run of the frozen vision tower");
}

// From one thread: between GPUs a copy only enqueues. It occupies the streams of both, so in each round every
// replica meets one other, and all pairs copy at the same time.
void Replicas::exchange(const std::function<void(Replica& to, const Replica& from)>& copy) {
  for (std::size_t round = 0; round < size(); ++round)
    for (std::size_t to = 0; to < size(); ++to)
      if (const std::size_t from = (round + size() - to) % size(); from != to)
        copy(replicas_[to], replicas_[from]);
}

StepResult Replicas::compute_gradient(const TrainingBatch& batch, const FlowDraw& draw) {
  const std::int64_t samples = batch.observation.batch_size();
  const auto parts = static_cast<std::int64_t>(size()) * accumulate_;
  const std::int64_t part = samples / parts;
  std::vector<torch::Tensor> results(size());  // the losses' sums over the parts, then the norm
  std::vector<std::string> names;
  team_.run([&](std::size_t i) {
    Replica& replica = replicas_[i];
    replica.parameters.zero_gradient();
    for (std::int64_t k = 0; k < accumulate_; ++k) {
      const std::int64_t begin = (static_cast<std::int64_t>(i) * accumulate_ + k) * part;
      const LossTerms terms =
          replica.distiller.losses(to_device(narrow(batch, begin, part), replica.device),
                                   to_device(narrow(draw, samples, begin, part), replica.device));
      const torch::Tensor loss = objective(terms);
      (loss / parts).backward();
      replica.parameters.collect_gradient();
      std::vector<torch::Tensor> values{loss.detach()};
      for (const LossTerm& term : terms) values.push_back(term.loss.mean().detach());
      const torch::Tensor stacked = torch::stack(values);
      results[i] = k == 0 ? stacked : results[i] + stacked;
      if (i > 0 || k > 0) continue;
      names = {"loss"};
      for (const LossTerm& term : terms) names.push_back("loss_" + term.name);
    }
  });
  // Each adds up its share of all gradients, always in the same order.
  torch::NoGradGuard no_grad;
  exchange([](Replica& to, const Replica& from) {
    const torch::Tensor sum = to.share(to.parameters.gradient());
    add_from(sum, to.share(from.parameters.gradient()));
  });
  for (std::size_t i = 0; i < size(); ++i) {
    const torch::Tensor own = replicas_[i].share(replicas_[i].parameters.gradient());
    results[i] = torch::cat({results[i], own.norm().reshape(1)});
  }
  StepResult step;
  for (const std::string& name : names) step.losses.emplace_back(name, 0);
  double square = 0;
  for (const torch::Tensor& result : results) {
    const torch::Tensor host = result.to(torch::kCPU);
    const float* values = host.data_ptr<float>();
    for (std::size_t n = 0; n < names.size(); ++n)
      step.losses[n].second += values[n] / static_cast<double>(parts);
    square += std::pow(values[names.size()], 2);
  }
  step.gradient_norm = std::sqrt(square);
  return step;
}

void Replicas::update(double gradient_norm, double learning_rate) {
  team_.run([&](std::size_t i) {
    torch::NoGradGuard no_grad;
    Replica& replica = replicas_[i];
    const torch::Tensor master = replica.share(replica.parameters.master());
    const torch::Tensor gradient = replica.share(replica.parameters.gradient());
    clip_gradient(gradient, gradient_norm, optimizer_config_.clip_norm);
    replica.optimizer.step(master, gradient, learning_rate);
    if (replica.ema.defined()) update_ema(replica.ema, master, optimizer_config_.ema_decay);
  });
  torch::NoGradGuard no_grad;
  exchange([](Replica& to, const Replica& from) {
    from.share(to.parameters.master()).copy_(from.share(from.parameters.master()));
  });
  team_.run([&](std::size_t i) { replicas_[i].parameters.use(replicas_[i].parameters.master()); });
}

LossTerms Replicas::evaluate(const TrainingBatch& batch, const FlowDraw& draw) {
  torch::NoGradGuard no_grad;
  Replica& first = replicas_.front();
  return first.distiller.losses(to_device(batch, first.device), to_device(draw, first.device));
}

void Replicas::use_ema() {
  Replica& first = replicas_.front();
  if (!first.ema.defined()) return;
  if (size() == 1) return first.parameters.use(first.ema);
  // An evaluation needs no gradient: its memory is free until the next step.
  torch::NoGradGuard no_grad;
  const torch::Tensor whole = first.parameters.gradient();
  for (const Replica& replica : replicas_) replica.share(whole).copy_(replica.ema);
  first.parameters.use(whole);
}

void Replicas::use_master() {
  Replica& first = replicas_.front();
  first.parameters.use(first.parameters.master());
}

std::map<std::string, torch::Tensor> Replicas::state() const {
  torch::NoGradGuard no_grad;
  const auto vector = [&] { return torch::empty({parameters().master().numel()}, torch::kFloat32); };
  std::map<std::string, torch::Tensor> state{
      {"master", vector()}, {"exp_avg", vector()}, {"exp_avg_sq", vector()}};  // the shares fill them
  if (has_ema()) state["ema"] = vector();
  for (const Replica& replica : replicas_) {
    replica.share(state["master"]).copy_(replica.share(replica.parameters.master()));
    replica.share(state["exp_avg"]).copy_(replica.optimizer.first_moment);
    replica.share(state["exp_avg_sq"]).copy_(replica.optimizer.second_moment);
    if (has_ema()) replica.share(state["ema"]).copy_(replica.ema);
  }
  return state;
}

void Replicas::restore(const std::map<std::string, torch::Tensor>& state, std::int64_t updates) {
  torch::NoGradGuard no_grad;
  for (Replica& replica : replicas_) {
    torch::Tensor master = replica.parameters.master();
    master.copy_(state.at("master"));
    replica.optimizer.first_moment.copy_(replica.share(state.at("exp_avg")));
    replica.optimizer.second_moment.copy_(replica.share(state.at("exp_avg_sq")));
    replica.optimizer.updates = updates;
    if (replica.ema.defined()) replica.ema.copy_(replica.share(state.at("ema")));
    replica.parameters.use(master);
  }
}

}  // namespace shallowpi
