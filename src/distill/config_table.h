// The one table of shallowpi-distill's settings.
#pragma once

#include "shallowpi/base/config.h"
#include "shallowpi/distill/config.h"

namespace shallowpi {

/// Binds every key to its place in `config`, which must outlive the table.
ConfigTable distill_table(DistillConfig& config);

}  // namespace shallowpi
