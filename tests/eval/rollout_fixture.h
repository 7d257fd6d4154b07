// What the tests of rollouts share: the fixture with its fake simulators, a scripted policy, small helpers.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "eval/rollout_results.h"
#include "shallowpi/base/json.h"
#include "shallowpi/eval/rollout.h"
#include "shallowpi/eval/rollout_policy.h"
#include "test_util.h"

namespace shallowpi {

/// A variable of the environment while it lives.
class Environment {
 public:
  Environment(const char* name, const std::string& value) : name_(name) { ::setenv(name, value.c_str(), 1); }
  ~Environment() { ::unsetenv(name_); }

 private:
  const char* name_;
};

/// Both cameras, each with its own picture.
inline void expect_images_of_the_fake(const RobotObservation& observation) {
  ASSERT_EQ(observation.images.size(), 2u);
  for (const auto& [camera, value] : {std::pair{"base_0_rgb", 1}, {"left_wrist_0_rgb", 2}}) {
    const Image& image = observation.images.at(camera);
    const auto bytes = static_cast<std::size_t>(image.height * image.width * 3);
    EXPECT_EQ(image.bytes, std::vector<std::uint8_t>(bytes, static_cast<std::uint8_t>(value))) << camera;
  }
}

/// Each action says which observation it came from and its place in the chunk: [tick, i, f(state), ...].
class ScriptedPolicy final : public RolloutPolicy {
 public:
  explicit ScriptedPolicy(std::int64_t horizon = 20) : horizon_(horizon) {}
  Json identity() const override { return {{"kind", "scripted"}, {"horizon", horizon_}}; }
  std::int64_t horizon() const override { return horizon_; }
  std::int64_t demo_image_size() const override { return demo_images; }
  std::vector<RobotActions> infer(const std::vector<PolicyCall>& calls) override {
    batch_sizes.insert(calls.size());
    on_call();
    std::vector<RobotActions> out;
    for (const PolicyCall& call : calls) {
      expect_images_of_the_fake(call.observation);
      EXPECT_EQ(call.observation.state[0], float(call.tick));  // the fake's clock
      out.emplace_back();
      for (std::int64_t i = 0; i < horizon_; ++i)
        out.back().push_back(
            {float(call.tick), float(i), call.observation.state[4] * 0.5f, float(call.call), 0, 0, 1});
    }
    return out;
  }
  std::set<std::size_t> batch_sizes;
  std::function<void()> on_call = [] {};
  std::int64_t demo_images = 0;

 private:
  std::int64_t horizon_;
};

class RolloutTest : public ::testing::Test {
 protected:
  RolloutTest() {
    options_.suites = {"libero_object"};
    options_.trials = 4;
    options_.max_steps = 40;
    options_.image_size = 16;
    options_.quiet = true;
    options_.python = "/usr/bin/python3";
    options_.worker = std::string(SHALLOWPI_SOURCE_DIR) + "/tests/eval/fake_libero_worker.py";
    options_.out = dir_ / "run";
  }

  RolloutResults run(const std::string& name, RolloutPolicy& policy) {
    options_.out = dir_ / name;
    ::testing::internal::CaptureStdout();
    const int code = run_rollout(options_, policy);
    table_ = ::testing::internal::GetCapturedStdout();
    EXPECT_EQ(code, 0);
    return read_results(options_.out / "results.json");
  }
  RolloutResults run(const std::string& name) {
    ScriptedPolicy policy;
    return run(name, policy);
  }
  /// The actions of every episode as the fake executed them.
  std::map<std::string, Json> logged(const std::string& name) const {
    std::map<std::string, Json> out;
    for (const auto& entry : std::filesystem::directory_iterator(dir_ / name))
      out[entry.path().filename().string()] = read_json(entry.path());
    return out;
  }

  testing::TempDir dir_;
  RolloutOptions options_;
  std::string table_;
};

/// Task, trial -> trace, success, steps.
inline std::map<EpisodeKey, std::tuple<std::string, bool, std::int64_t>> outcomes(
    const RolloutResults& results) {
  std::map<EpisodeKey, std::tuple<std::string, bool, std::int64_t>> out;
  for (const auto& [key, record] : results.episodes) out[key] = {record.trace, record.success, record.steps};
  return out;
}

inline std::vector<PolicyCall> call_at(const std::string& prompt, std::int64_t tick, std::int64_t trial = 0) {
  return {{{"libero_object", 0, trial}, 0, tick, {{}, std::vector<float>(8), prompt}}};
}

}  // namespace shallowpi
