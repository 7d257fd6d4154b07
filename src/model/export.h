// What the exports to openpi and LeRobot share.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "shallowpi/model/checkpoint.h"

namespace shallowpi::checkpoint {

/// Statistics with which normalisation by `to` gives what normalisation by `from` gives with `stats`:
/// packages differ in the formula (z-score or quantiles) and in the epsilon that they add.
FeatureStats convert_stats(const FeatureStats& stats, NormMode from, NormMode to);

/// Whether a policy can be exported. Files of both packages do not say how wide a head is: they, and readers
/// of them, take the released policies' numbers.
bool has_released_heads(const PolicyConfig& config);
/// Whether it has 18 layers, as openpi's and LeRobot's variants.
bool has_released_depth(const PolicyConfig& config);

/// The sizes that the code of `to` has otherwise, one phrase each; the depth is not among them, for
/// load_shallow.py sets it.
std::vector<std::string> unreleased_sizes(const PolicyConfig& config, CheckpointFormat to);

/// The sentence before the exported README's example: what must be done before the weights load.
std::string how_to_load(const PolicyConfig& config, CheckpointFormat to);

/// How main() of a load_shallow.py begins: @main@ of both packages' templates.
inline constexpr const char* kLauncherMain = R"py(def fail(message):
    print(f"load_shallow.py: {message}", file=sys.stderr)
    sys.exit(2)


def main(arguments):
    if arguments[:1] in (["-h"], ["--help"]):
        return print(__doc__)
)py";

/// The cameras of openpi, whose order and names are fixed, that a policy's `cameras` have to be given as: the
/// same ones where these are some of openpi's in its order, else its first ones. Throws UsageError where
/// openpi has too few.
std::vector<std::string> openpi_cameras(const std::vector<std::string>& cameras);
/// "top as base_0_rgb, ..."; empty where openpi's cameras are the policy's.
std::string camera_mapping(const std::vector<std::string>& cameras);

/// `text` with every key ("@depth@") replaced by its value.
std::string fill_template(std::string text, const std::vector<std::pair<std::string, std::string>>& values);

// Everything but model.safetensors of the folders that openpi and LeRobot load.
// `store`: what most weights are.
void write_openpi_side_files(const std::filesystem::path& folder, const CheckpointInfo& info,
                             torch::Dtype store);
void write_lerobot_side_files(const std::filesystem::path& folder, const CheckpointInfo& info,
                              torch::Dtype store);

}  // namespace shallowpi::checkpoint
