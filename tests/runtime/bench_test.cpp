#include "shallowpi/runtime/bench.h"

#include "model/small_checkpoint.h"
#include "test_util.h"

namespace shallowpi {
namespace {

using testing::expect_error;

BenchOptions tiny() {
  BenchOptions options;
  options.size = BenchSize::kTiny;
  options.layers = 3;
  options.prompt_tokens = 8;
  options.steps = 2;
  options.iterations = 2;
  options.warmup = 1;
  return options;
}

TEST(Bench, Percentiles) {
  std::vector<double> samples;
  for (int i = 100; i >= 1; --i) samples.push_back(i);
  const Percentiles p = percentiles(samples);
  EXPECT_EQ(p.p50, 50);
  EXPECT_EQ(p.p90, 90);
  EXPECT_EQ(p.p99, 99);
  EXPECT_EQ(percentiles({7}).p99, 7);
}

TEST(Bench, ParsesSweeps) {
  EXPECT_EQ(parse_sweep("layers=4,6").values, (std::vector<std::int64_t>{4, 6}));
  EXPECT_EQ(parse_sweep("vision-tokens=64").name, "vision-tokens");
  expect_error<UsageError>([] { parse_sweep("depth=4"); }, "depth=4", "layers=");
  expect_error<UsageError>([] { parse_sweep("layers"); }, "--sweep");
  for (const char* bad : {"layers=", "layers=4,", "layers=0", "layers=-2", "layers=x", "layers=99999999999"})
    expect_error<UsageError>([&] { parse_sweep(bad); }, "positive whole number");
}

TEST(Bench, MeasuresEveryCombinationOfItsSweeps) {
  BenchOptions options = tiny();
  options.sweeps = {"layers=1,3", "vision-tokens=4,16"};
  options.compare = true;
  expect_error<UsageError>([&] { run_bench_json(options); }, "--layers and --sweep layers");
  options.layers.reset();
  const Json report = run_bench_json(options);
  ASSERT_EQ(report["results"].size(), 4u);
  EXPECT_EQ(report["device"]["threads"], torch::get_num_threads());
  EXPECT_EQ(report["settings"]["engine"], "eager") << "auto, where stages have to be timed";
  EXPECT_EQ(report["results"][1]["layers"], 1);
  EXPECT_EQ(report["results"][1]["vision_tokens"], 16);
  for (const Json& result : report["results"]) {
    for (const char* stage : {"host", "vision", "prefix", "step", "total", "without_engine"})
      EXPECT_GT(result["ms"][stage]["p50"].get<double>(), 0) << stage;
    EXPECT_GE(result["ms"]["total"]["p99"].get<double>(), result["ms"]["prefix"]["p50"].get<double>());
    EXPECT_EQ(result["engine"], "eager") << "what auto is on a CPU";
    EXPECT_TRUE(result["bound_ms"].is_null()) << "the limit of a CPU is not known";
    EXPECT_GT(result["peak_bytes"].get<double>(), result["weight_bytes"].get<double>());
  }
  const auto cost = [&](int i, const char* what, const char* part) {
    return report["results"][i][what][part].get<double>();
  };
  EXPECT_EQ(cost(0, "flops", "vision"), cost(1, "flops", "vision"));  // all pixels go through the tower
  EXPECT_LT(cost(0, "flops", "prefix"), cost(1, "flops", "prefix"));
  EXPECT_LT(cost(1, "flops", "step"), cost(3, "flops", "step"));
  EXPECT_LT(cost(1, "bytes", "total"), cost(3, "bytes", "total"));
  const std::string text = bench_text(report);
  for (const char* part :
       {"L1, 4 tokens/camera", "L3, 16 tokens/camera", "without_engine", "share of bound", "engine eager"})
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
}

TEST(Bench, MeasuresCheckpointsAndShallowerOnesOfThem) {
  BenchOptions options = tiny();
  options.checkpoint = std::string(SHALLOWPI_SOURCE_DIR) + "/configs/quickstart/teacher";
  options.layers.reset();
  options.sweeps = {"layers=6,18"};
  options.iterations = 1;
  options.warmup = 0;
  testing::TempDir dir;
  options.json = dir / "speed.json";
  run_bench(options);
  const Json report = read_json(options.json);
  EXPECT_EQ(report["results"][0]["layers"], 6);
  EXPECT_EQ(report["results"][1]["layers"], 18);
  EXPECT_EQ(report["settings"]["horizon"], 20) << "the checkpoint's";
  EXPECT_LT(report["results"][0]["weight_bytes"].get<double>(),
            report["results"][1]["weight_bytes"].get<double>());
  options.sweeps = {"vision-tokens=4096"};
  expect_error<UsageError>([&] { run_bench_json(options); }, "4096 of 36");
  options.engine = EngineKind::kGraph;
  expect_error<UsageError>([&] { run_bench_json(options); }, "--sweep vision-tokens", "give --engine eager");
  options.engine = EngineKind::kAuto;
  options.sweeps.clear();
  options.steps = 0;
  expect_error<UsageError>([&] { run_bench_json(options); }, "num_steps is 0");
}

TEST(Bench, WarnsWhereTheCheckpointDoesNotSayItsHorizon) {
  testing::TempDir dir;
  testing::write_weights_file(dir / "openpi", testing::random_weights(testing::small_config()));
  BenchOptions options = tiny();
  options.checkpoint = dir / "openpi";
  const auto log = [&] {
    ::testing::internal::CaptureStderr();
    run_bench_json(options);
    return ::testing::internal::GetCapturedStderr();
  };
  const std::string warning = "does not say how many action steps a chunk has";
  EXPECT_NE(log().find(warning), std::string::npos);
  options.horizon = 10;
  EXPECT_EQ(log().find(warning), std::string::npos);
}

TEST(Bench, WritesATimelineOfOnePolicy) {
  BenchOptions options = tiny();
  testing::TempDir dir;
  options.trace = dir / "trace.json";
  run_bench_json(options);
  const std::string trace = read_json(options.trace).dump();
  for (const char* part : {"traceEvents", "aten::linear", "aten::layer_norm"})
    EXPECT_NE(trace.find(part), std::string::npos) << part;
  options.layers.reset();
  options.sweeps = {"layers=1,3"};
  expect_error<UsageError>([&] { run_bench_json(options); }, "--trace", "--sweep");
}

TEST(Bench, Pi0InBfloat16) {
  BenchOptions options = tiny();
  options.model = PolicyKind::kPi0;
  options.dtype = torch::kBFloat16;
  const Json report = run_bench_json(options);
  EXPECT_EQ(report["results"][0]["layers"], 3);
  EXPECT_EQ(report["settings"]["model"], "pi0");
}

}  // namespace
}  // namespace shallowpi
