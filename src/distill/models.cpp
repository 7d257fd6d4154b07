// The models of a run, and which of their parameters are trained (setup.h).
#include <fnmatch.h>

#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"
#include "shallowpi/distill/setup.h"

namespace shallowpi {
namespace {

PolicyOptions student_options(const TrainingSetup& setup) {
  PolicyOptions options;
  options.activation_checkpointing = setup.config().train.activation_checkpointing;
  return options;
}

TrainingModels load_pair(const TrainingSetup& setup, torch::Device device) {
  const PolicyOptions options = student_options(setup);
  TrainingModels models;
  if (setup.start) {
    models.student = setup.start_layers.empty()
                         ? load_policy(*setup.start, setup.dtype, device, options)
                         : load_student(*setup.start, setup.start_layers, setup.dtype, device, options);
  } else if (setup.teacher) {
    models.student = load_student(*setup.teacher, setup.kept_layers, setup.dtype, device, options);
  } else {
    models.student = Policy(setup.policy, setup.dtype, device, options);
    models.student->initialize(setup.config().seed);
  }
  if (setup.teaches()) {
    models.teacher = load_policy(*setup.teacher, setup.teacher_dtype, device);
    for (const ParameterGroup& group : models.teacher->parameter_groups()) {
      torch::Tensor parameter = group.parameter;
      parameter.set_requires_grad(false);
    }
  }
  return models;
}

/// Gives `copy`, which has the same sizes, the values of `policy`.
Policy filled(Policy copy, const Policy& policy) {
  torch::NoGradGuard no_grad;
  const std::vector<ParameterGroup>&from = policy->parameter_groups(), &to = copy->parameter_groups();
  for (std::size_t i = 0; i < from.size(); ++i) {
    torch::Tensor parameter = to[i].parameter;
    parameter.copy_(from[i].parameter);
    parameter.set_requires_grad(from[i].parameter.requires_grad());
  }
  return copy;
}

}  // namespace

void verify_given(const TrainingSetup& setup) {
  for (const auto* given : {&setup.teacher, &setup.start})
    if (*given) verify_files(**given, OptionalFiles::kUnchecked);
}

std::vector<TrainingModels> load_models(const TrainingSetup& setup) {
  std::vector<TrainingModels> models{load_pair(setup, setup.devices.front())};
  const Policy student = models.front().student, teacher = models.front().teacher;
  for (std::size_t i = 1; i < setup.devices.size(); ++i) {
    const torch::Device device = setup.devices[i];
    TrainingModels& copy = models.emplace_back();
    copy.student = filled(Policy(setup.policy, setup.dtype, device, student_options(setup)), student);
    if (!teacher.is_empty())
      copy.teacher = filled(Policy(setup.teacher->config, setup.teacher_dtype, device), teacher);
  }
  return models;
}

bool matches_pattern(const std::string& pattern, const std::string& name) {
  return ::fnmatch(pattern.c_str(), name.c_str(), FNM_NOESCAPE) == 0;
}

std::vector<ParameterGroup> trainable_groups(Policy& student, const std::vector<std::string>& freeze) {
  std::vector<std::size_t> uses(freeze.size(), 0);
  std::vector<ParameterGroup> trained;
  for (const ParameterGroup& group : student->parameter_groups()) {
    std::vector<std::string> frozen, free;
    for (const ParameterPart& part : group.parts) {
      bool matched = false;
      for (std::size_t i = 0; i < freeze.size(); ++i) {
        if (!matches_pattern(freeze[i], part.name)) continue;
        matched = true;
        ++uses[i];
      }
      (matched ? frozen : free).push_back(part.name);
    }
    if (!frozen.empty() && !free.empty() && !group.dead)
      throw UsageError(str("optimizer.freeze: ", join(frozen, ", "), " can only be frozen together with ",
                           join(free, ", "), ", as they are stored as one; widen the pattern"));
    torch::Tensor parameter = group.parameter;
    const bool is_trained = !group.dead && frozen.empty();
    parameter.set_requires_grad(is_trained);
    if (is_trained) trained.push_back(group);
  }
  for (std::size_t i = 0; i < freeze.size(); ++i)
    if (uses[i] == 0)
      throw UsageError(str("optimizer.freeze: '", freeze[i],
                           "' matches no tensor; names are openpi's, such as "
                           "paligemma_with_expert.paligemma.model.multi_modal_projector.linear.weight"));
  return trained;
}

}  // namespace shallowpi
