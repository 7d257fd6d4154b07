// What policies would have done, drawn over what a demonstration did.
#pragma once

#include <string>
#include <vector>

#include "shallowpi/data/demonstrations.h"
#include "shallowpi/eval/measure.h"

namespace shallowpi {

/// An HTML page of the first four episodes that `reports` have frames of: for each action dim, in the robot's
/// units, the demonstrated actions and each policy's chunks, of those measured frames that follow each other.
/// Reports whose frames have no chunk are left out.
std::string chunk_page(const Dataset& dataset, const std::vector<PolicyReport>& reports);

}  // namespace shallowpi
