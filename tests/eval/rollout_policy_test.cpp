#include "shallowpi/eval/rollout_policy.h"

#include <cmath>

#include "eval/rollout_fixture.h"
#include "test_util.h"

namespace shallowpi {
namespace {

using testing::expect_error;

TEST(BaselinePolicy, ReplaysADemonstrationWhateverItSees) {
  const std::string file = std::string(SHALLOWPI_SOURCE_DIR) + "/tests/data/replay/alphabet_soup.hdf5";
  const std::string prompt = "pick up the alphabet soup and place it in the basket";
  const auto policy = baseline_policy("replay:" + file + "#1");
  const RobotActions start = policy->infer(call_at(prompt, 0))[0],
                     later = policy->infer(call_at(prompt, 7, 3))[0];
  ASSERT_EQ(start.size(), later.size());
  EXPECT_NE(start[0], start[7]);
  for (std::size_t i = 7; i < start.size(); ++i) EXPECT_EQ(start[i], later[i - 7]);
  const RobotActions end = policy->infer(call_at(prompt, 100000))[0];
  EXPECT_EQ(end.front(), end.back());
  const auto per_trial = baseline_policy("replay:" + file + "#trial");
  EXPECT_EQ(per_trial->infer(call_at(prompt, 0, 1))[0], start);
  EXPECT_NE(per_trial->infer(call_at(prompt, 0, 0))[0], start);
  expect_error<UsageError>([&] { policy->infer(call_at("open the drawer", 0)); }, "open the drawer",
                           "alphabet soup");
  const auto mean = baseline_policy("mean-action:" + file);
  const RobotActions constant = mean->infer(call_at(prompt, 0))[0];
  EXPECT_EQ(constant.front(), constant.back());
  EXPECT_LT(std::abs(constant[0][0]), 1.0f);
  for (const char* bad : {"reply:x", "noop:x", "replay", "mean-action"})
    expect_error<UsageError>([&] { baseline_policy(bad); }, bad, "replay:FILE.hdf5");
  expect_error<UsageError>([&] { baseline_policy("replay:" + file + "#x"); }, "neither a number nor trial");
}

}  // namespace
}  // namespace shallowpi
