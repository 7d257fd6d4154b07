#include "distill/replicas.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <future>

#include "shallowpi/base/log.h"

namespace shallowpi {
namespace {

std::int64_t loss_dims(const TrainingSetup& setup) {
  return setup.config().loss.dims == LossDims::kReal ? setup.spec.robot.action_dim : setup.policy.action_dim;
}

TrainingBatch to_device(const TrainingBatch& batch, torch::Device device) {
  return {batch.observation.to(device), batch.actions_bhd.to(device)};
}

FlowDraw to_device(const FlowDraw& draw, torch::Device device) {
  return {draw.noise.to(device), draw.t.to(device), draw.x_t.to(device), draw.target.to(device)};
}

/// Where the share of replica `index` of `count` begins; those of all are about equal.
std::int64_t share_begin(const FlatParameters& parameters, std::size_t index, std::size_t count) {
  constexpr std::size_t kBlock = 16;  // floats: a cache line, of which the vector has a whole number
  const auto blocks = static_cast<std::size_t>(parameters.master().numel()) / kBlock;
  return static_cast<std::int64_t>(blocks * index / count * kBlock);
}

}  // namespace

Replicas::Replica::Replica(const TrainingSetup& setup, std::size_t index, TrainingModels models)
    : device(setup.devices[index]),
      student(models.student),
      parameters(trainable_groups(student, setup.config().optimizer.freeze)),
      begin(share_begin(parameters, index, setup.devices.size())),
      end(share_begin(parameters, index + 1, setup.devices.size())),
      optimizer(setup.config().optimizer, share(parameters.master())),
      distiller(student, models.teacher, setup.config().loss, setup.kept_layers, loss_dims(setup)) {
  if (setup.config().optimizer.ema_decay > 0) ema = share(parameters.master()).clone();
  if (!models.teacher.is_empty() && can_share_tower(student, models.teacher)) distiller.share_tower();
}

Replicas::Replicas(const TrainingSetup& setup, const std::vector<TrainingModels>& models)
    : optimizer_config_(setup.config().optimizer), accumulate_(setup.config().train.accumulate) {
  replicas_.reserve(models.size());
  for (const TrainingModels& pair : models) replicas_.emplace_back(setup, replicas_.size(), pair);
  if (shares_tower()) log::info("student and teacher share one run of the frozen vision tower");
}

// The first replica's work is done by the caller.
void Replicas::on_each(const std::function<void(std::size_t)>& work) {
  std::vector<std::future<void>> others;  // whose destructors wait, also where the first one throws
  for (std::size_t i = 1; i < replicas_.size(); ++i)
    others.push_back(std::async(std::launch::async, [&work, i] {
      at::init_num_threads();  // else OpenMP would take all cores in this thread
      work(i);
    }));
  work(0);
  for (std::future<void>& other : others) other.get();
}

StepResult Replicas::compute_gradient(const TrainingBatch& batch, const FlowDraw& draw) {
  const std::int64_t size = batch.observation.batch_size();
  const auto parts = static_cast<std::int64_t>(replicas_.size()) * accumulate_;
  const std::int64_t part = size / parts;
  std::vector<torch::Tensor> results(replicas_.size());  // the losses' sums over the parts, then the norm
  std::vector<std::string> names;
  on_each([&](std::size_t i) {
    Replica& replica = replicas_[i];
    replica.parameters.zero_gradient();
    for (std::int64_t k = 0; k < accumulate_; ++k) {
      const std::int64_t begin = (static_cast<std::int64_t>(i) * accumulate_ + k) * part;
      const LossTerms terms =
          replica.distiller.losses(to_device(narrow(batch, begin, part), replica.device),
                                   to_device(narrow(draw, size, begin, part), replica.device));
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
  on_each([&](std::size_t i) {
    torch::NoGradGuard no_grad;
    const Replica& replica = replicas_[i];
    torch::Tensor sum = replica.share(replica.parameters.gradient());
    for (const Replica& other : replicas_)
      if (&other != &replica) sum.add_(replica.share(other.parameters.gradient()).to(replica.device));
    results[i] = torch::cat({results[i], sum.norm().reshape(1)}).to(torch::kCPU);
  });
  StepResult step;
  for (const std::string& name : names) step.losses.emplace_back(name, 0);
  double square = 0;
  for (const torch::Tensor& result : results) {
    const float* values = result.data_ptr<float>();
    for (std::size_t n = 0; n < names.size(); ++n)
      step.losses[n].second += values[n] / static_cast<double>(parts);
    square += std::pow(values[names.size()], 2);
  }
  step.gradient_norm = std::sqrt(square);
  return step;
}

void Replicas::update(double gradient_norm, double learning_rate) {
  on_each([&](std::size_t i) {
    torch::NoGradGuard no_grad;
    Replica& replica = replicas_[i];
    const torch::Tensor master = replica.share(replica.parameters.master());
    const torch::Tensor gradient = replica.share(replica.parameters.gradient());
    clip_gradient(gradient, gradient_norm, optimizer_config_.clip_norm);
    replica.optimizer.step(master, gradient, learning_rate);
    if (replica.ema.defined()) update_ema(replica.ema, master, optimizer_config_.ema_decay);
  });
  spread_master();
}

// Every replica gets the others' shares of the new weights.
void Replicas::spread_master() {
  on_each([&](std::size_t i) {
    torch::NoGradGuard no_grad;
    Replica& replica = replicas_[i];
    for (const Replica& other : replicas_)
      if (&other != &replica)
        other.share(replica.parameters.master()).copy_(other.share(other.parameters.master()));
    replica.parameters.use(replica.parameters.master());
  });
}

LossTerms Replicas::evaluate(const TrainingBatch& batch, const FlowDraw& draw) {
  torch::NoGradGuard no_grad;
  Replica& first = replicas_.front();
  return first.distiller.losses(to_device(batch, first.device), to_device(draw, first.device));
}

void Replicas::use_ema() {
  Replica& first = replicas_.front();
  if (!first.ema.defined()) return;
  first.parameters.use(size() == 1 ? first.ema
                                   : gather([](const Replica& r) { return r.ema; }, first.device));
}

void Replicas::use_master() {
  Replica& first = replicas_.front();
  first.parameters.use(first.parameters.master());
}

torch::Tensor Replicas::gather(const std::function<torch::Tensor(const Replica&)>& part,
                               torch::Device device) const {
  const torch::Tensor whole =
      torch::empty({parameters().master().numel()}, torch::dtype(torch::kFloat32).device(device));
  for (const Replica& replica : replicas_) replica.share(whole).copy_(part(replica));
  return whole;
}

std::map<std::string, torch::Tensor> Replicas::state() const {
  const auto on_host = [&](const std::function<torch::Tensor(const Replica&)>& part) {
    return gather(part, torch::kCPU);
  };
  std::map<std::string, torch::Tensor> state;
  state["master"] = on_host([](const Replica& r) { return r.share(r.parameters.master()); });
  state["exp_avg"] = on_host([](const Replica& r) { return r.optimizer.first_moment; });
  state["exp_avg_sq"] = on_host([](const Replica& r) { return r.optimizer.second_moment; });
  if (has_ema()) state["ema"] = on_host([](const Replica& r) { return r.ema; });
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
