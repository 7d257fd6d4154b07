#include "shallowpi/model/cost.h"

#include "test_util.h"

namespace shallowpi {
namespace {

PolicyConfig full_size(PolicyKind kind, std::int64_t layers) {
  PolicyConfig config;
  config.kind = kind;
  config.set_depth(layers);
  return config;
}

PassShape two_cameras(std::int64_t prompt, std::int64_t horizon) {
  return {.images = 2, .prefix = 2 * 256 + prompt, .horizon = horizon};
}

TEST(Cost, FlopsAgreeWithThePapersTable2) {
  struct Row {
    PolicyKind kind;
    std::int64_t prompt, layers;
    double tflop;
  };
  for (const Row& row : std::initializer_list<Row>{{PolicyKind::kPi0, 48, 18, 2.93},
                                                   {PolicyKind::kPi0, 48, 9, 1.62},
                                                   {PolicyKind::kPi0, 48, 6, 1.18},
                                                   {PolicyKind::kPi05, 160, 18, 3.39},
                                                   {PolicyKind::kPi05, 160, 9, 1.82},
                                                   {PolicyKind::kPi05, 160, 6, 1.30}}) {
    const double flops =
        forward_flops(full_size(row.kind, row.layers), two_cameras(row.prompt, 50)).chunk(10);
    EXPECT_NEAR(flops / 1e12, row.tflop, 0.01 * row.tflop) << enum_name(row.kind) << " L" << row.layers;
  }
}

TEST(Cost, BytesAreTheLiveWeightsAndTheCache) {
  const PolicyConfig config = full_size(PolicyKind::kPi0, 6);
  const PassCost bytes = forward_bytes(config, two_cameras(48, 50), 2);
  const double cache = 560.0 * 6 * 2 * 256 * 2;
  EXPECT_NEAR(bytes.tower / 2, 414e6, 4e6);
  // Five of six layers whole (110.1 M parameters each), and the keys and values of the sixth (1.05 M).
  EXPECT_NEAR((bytes.backbone - cache) / 2, 5 * 110.1e6 + 1.05e6, 1e6);
  // The projections of actions, state and time are float32, twice the size.
  const double projections = 3 * 1024 * 1024 + 3 * 32 * 1024;
  EXPECT_NEAR((bytes.expert - cache) / 2, 6 * 17.3e6 + 2 * projections, 0.1e6);
  // pi0.5's adaRMS weights (60 M at nine layers) are read at load, not in the steps.
  const PassCost pi05 = forward_bytes(full_size(PolicyKind::kPi05, 9), two_cameras(200, 10), 2);
  EXPECT_NEAR(pi05.expert / 2, 9 * 17.3e6, 4e6);
}

TEST(Cost, BoundsOnKnownDevices) {
  const auto bound = [](const char* device, PolicyKind kind, std::int64_t prompt, std::int64_t horizon) {
    const PolicyConfig config = full_size(kind, 6);
    const PassShape shape = two_cameras(prompt, horizon);
    return bound_ms(device_peak(device).value(), forward_flops(config, shape),
                    forward_bytes(config, shape, 2), 10);
  };
  // Independently computed: 1.73 and 1.89 ms on an H100, 1.54 on an H200, with the vision attention counted.
  EXPECT_NEAR(bound("NVIDIA H100 80GB HBM3", PolicyKind::kPi0, 48, 50), 1.73, 0.08);
  EXPECT_NEAR(bound("NVIDIA H100 80GB HBM3", PolicyKind::kPi05, 200, 10), 1.89, 0.08);
  EXPECT_NEAR(bound("NVIDIA H200", PolicyKind::kPi0, 48, 50), 1.54, 0.08);
  for (const char* other : {"AMD EPYC", "NVIDIA GH200 480GB", "NVIDIA H100 PCIe", "NVIDIA H100 NVL"})
    EXPECT_FALSE(device_peak(other).has_value()) << other;
}

}  // namespace
}  // namespace shallowpi
