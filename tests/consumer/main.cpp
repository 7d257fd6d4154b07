// Prints the layers that a 6-layer student keeps of an 18-layer teacher, and makes a policy without memory,
// so that all that a policy needs is linked.
#include <iostream>

#include "shallowpi/base/text.h"
#include "shallowpi/model/layer_map.h"
#include "shallowpi/model/policy.h"

int main() {
  using namespace shallowpi;
  const Policy policy(PolicyConfig{}, torch::kBFloat16, torch::kMeta);
  std::cout << join(layer_map(LayerMapRule::kUniform, 6, 18), " ") << "\n"
            << human_count(count_parameters(policy->config()).live) << " parameters in "
            << policy->parameter_groups().size() << " groups\n";
}
