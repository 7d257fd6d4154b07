// Prints the layers that a 6-layer student keeps of an 18-layer teacher.
#include <iostream>

#include "shallowpi/base/text.h"
#include "shallowpi/model/config.h"
#include "shallowpi/model/layer_map.h"

int main() {
  using namespace shallowpi;
  std::cout << join(layer_map(LayerMapRule::kUniform, 6, 18), " ") << "\n"
            << human_count(count_parameters(PolicyConfig{}).live) << " parameters\n";
}
