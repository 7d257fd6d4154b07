#include "shallowpi/eval/gate.h"

#include <cmath>

#include "shallowpi/model/checkpoint.h"
#include "test_util.h"

namespace shallowpi {
namespace {

using testing::expect_error;
using testing::TempDir;

const std::string kQuickstart = std::string(SHALLOWPI_SOURCE_DIR) + "/configs/quickstart";

GateOptions quickstart() {
  GateOptions options;
  options.checkpoint = kQuickstart + "/teacher";
  options.demos.data.files = {{kQuickstart + "/*.hdf5", 1.0}};
  options.frames = 6;
  options.steps = 3;
  options.quiet = true;
  return options;
}

const Json& measure(const Json& report, const std::string& name) {
  for (const Json& one : report["measures"])
    if (one["name"] == name) return one;
  throw std::runtime_error("no " + name);
}

TEST(Gate, Bfloat16PassesOnTheQuickstart) {
  TempDir dir;
  GateOptions options = quickstart();
  options.json = dir / "gate.json";
  EXPECT_EQ(run_gate(options), 0);
  const Json report = read_json(options.json);
  EXPECT_TRUE(report["passed"].get<bool>());
  EXPECT_EQ(report["frames"], 6);
  EXPECT_TRUE(report["failures"].empty());
  const Json &cosine = measure(report, "action cosine"), &largest = measure(report, "largest difference"),
             &l2 = measure(report, "relative L2 difference");
  EXPECT_LE(cosine["worst"].get<double>(), cosine["mean"].get<double>());
  EXPECT_LT(cosine["mean"].get<double>(), 1.0) << "nothing was compared";
  EXPECT_GE(l2["worst"].get<double>(), l2["mean"].get<double>());
  // For vectors of nearly the same length, |a - b|^2 / |a|^2 = 2 (1 - cosine).
  EXPECT_GE(l2["worst"].get<double>() * 1.05, std::sqrt(2 * (1 - cosine["worst"].get<double>())));
  EXPECT_GT(largest["worst"].get<double>(), 0);
  EXPECT_NE(largest["worst_frame"].get<std::string>().find(".hdf5 demo_"), std::string::npos);
  ASSERT_EQ(report["worst_per_dim_robot_units"].size(), 7u);
  for (const Json& dim : report["worst_per_dim_robot_units"]) EXPECT_GT(dim.get<double>(), 0);
}

TEST(Gate, SaysWhatFailedAndByHowMuch) {
  TempDir dir;
  GateOptions options = quickstart();
  options.json = dir / "gate.json";
  options.limits.max_abs_mean = 1e-6;
  options.limits.min_cosine_worst = 1;
  EXPECT_EQ(run_gate(options), 1);
  const Json report = read_json(options.json);
  EXPECT_FALSE(report["passed"].get<bool>());
  ASSERT_EQ(report["failures"].size(), 2u);
  const auto cosine = report["failures"][0].get<std::string>(),
             largest = report["failures"][1].get<std::string>();
  EXPECT_EQ(cosine.rfind("worst action cosine is 0.99", 0), 0u) << cosine;
  EXPECT_NE(cosine.find(" below 1 by "), std::string::npos) << cosine;
  EXPECT_NE(cosine.find(".hdf5 demo_"), std::string::npos) << cosine;
  EXPECT_EQ(largest.rfind("mean largest difference is ", 0), 0u) << largest;
  EXPECT_NE(largest.find(" above 1e-06 by "), std::string::npos) << largest;
  const std::string text = gate_text(report);
  EXPECT_NE(text.find("FAILED: " + cosine), std::string::npos) << text;
  EXPECT_NE(text.find("not passed"), std::string::npos);
}

// Held-out frames, another batch size: the same noise, so that only rounding separates the two runs.
TEST(Gate, NoiseBelongsToTheFrame) {
  GateOptions options = quickstart();
  options.demos.held_out = true;
  options.demos.data.held_out_fraction = 0.3;
  const Json alone = run_gate_json(options);
  options.batch_size = 4;
  const Json batched = run_gate_json(options);
  EXPECT_TRUE(batched["held_out"].get<bool>());
  EXPECT_NEAR(measure(alone, "relative L2 difference")["mean"].get<double>(),
              measure(batched, "relative L2 difference")["mean"].get<double>(), 5e-3);
  options.seed = 7;
  EXPECT_NE(measure(run_gate_json(options), "action cosine")["mean"],
            measure(batched, "action cosine")["mean"]);
}

TEST(Gate, RefusesLimitsThatDecideNothing) {
  const auto refused = [](double GateLimits::*limit, double value, const char* message) {
    GateOptions options = quickstart();
    options.limits.*limit = value;
    expect_error<UsageError>([&] { run_gate_json(options); }, message);
  };
  refused(&GateLimits::min_cosine_mean, 2, "--min-cosine 2: must be -1 to 1");
  refused(&GateLimits::max_abs_mean, NAN, "--max-abs nan: must be 0 or more");
  refused(&GateLimits::max_l2_worst, -1, "--max-l2-worst -1: must be 0 or more");
}

TEST(Gate, RefusesADamagedCheckpoint) {
  TempDir dir;
  std::filesystem::copy(kQuickstart + "/teacher", dir / "policy", std::filesystem::copy_options::recursive);
  testing::write_text(dir / "policy/README.md", "damaged");
  GateOptions options = quickstart();
  options.checkpoint = dir / "policy";
  expect_error<CorruptError>([&] { run_gate_json(options); }, "README.md", "manifest.json");
}

TEST(Gate, RefusesToCompareAPathWithItself) {
  GateOptions options = quickstart();
  options.dtype = torch::kFloat32;
  expect_error<UsageError>([&] { run_gate_json(options); }, "give --dtype bfloat16");
  options.engine = EngineKind::kGraph;
  expect_error<UsageError>([&] { run_gate_json(options); }, "needs a GPU");
}

}  // namespace
}  // namespace shallowpi
