// The objective of Shallow-pi: what student and teacher make of a batch, as the three losses.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "shallowpi/base/observation.h"
#include "shallowpi/distill/config.h"
#include "shallowpi/distill/flow.h"
#include "shallowpi/distill/losses.h"
#include "shallowpi/model/policy.h"

namespace shallowpi {

struct LossTerm {
  std::string name;  ///< "task", "kd" or "attn"
  double weight = 1;
  LossSum loss;
};
using LossTerms = std::vector<LossTerm>;

/// The weighted sum of the terms' means, a scalar with gradient.
torch::Tensor objective(const LossTerms& terms);

/// Samples [begin, begin + count) of a batch, and the flow draws that belong to them.
TrainingBatch narrow(const TrainingBatch& batch, std::int64_t begin, std::int64_t count);
FlowDraw narrow(const FlowDraw& draw, std::int64_t batch_size, std::int64_t begin, std::int64_t count);

class Distiller {
 public:
  /// `teacher` may be null where only the task loss has a weight. `kept_layers`: the teacher layers that the
  /// student's were copied from, for the attention loss. `loss_dims`: action dims in the squared errors.
  /// `teacher_continues`: given the start of a chunk, the teacher knows how to go on (see losses()).
  /// Throws UsageError where the attention loss has a weight, but the heads of the two differ.
  Distiller(Policy student, Policy teacher, const LossConfig& config, std::vector<std::int64_t> kept_layers,
            std::int64_t loss_dims, bool teacher_continues = false);

  /// The terms that have a weight. `draw` is for the batch's actions. Given actions have no velocity error,
  /// and a draw with some is in the teacher's losses only where the teacher was trained with such draws too.
  LossTerms losses(const TrainingBatch& batch, const FlowDraw& draw);

  /// Lets both models use one run of the student's vision tower and projector, which then share the teacher's
  /// memory. Changes nothing where they are trained, or differ from the teacher's in a single bit.
  void share_tower();
  bool shares_tower() const { return shares_tower_; }

 private:
  struct Pass {
    torch::Tensor velocity_bhd;
    AttentionTap tap;
  };
  Pass run(Policy& policy, const TrainingBatch& batch, const FlowDraw& draw, std::int64_t layer,
           const PrefixLayout& layout, const torch::Tensor& image_tokens);

  Policy student_, teacher_;
  LossConfig config_;
  std::int64_t student_layer_ = 0, teacher_layer_ = 0;  // whose attention is compared
  std::int64_t loss_dims_;
  bool teacher_continues_;
  bool shares_tower_ = false, shares_layout_ = false;
};

}  // namespace shallowpi
