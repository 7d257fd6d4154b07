#include "distill/team.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace shallowpi {
namespace {

TEST(Team, DoesEveryPartOnceAndAlwaysInTheSameThread) {
  Team team(3);
  std::vector<std::thread::id> first(3), again(3);
  std::atomic<int> parts = 0;
  team.run([&](std::size_t i) { first[i] = std::this_thread::get_id(); });
  for (int job = 0; job < 1000; ++job)
    team.run([&](std::size_t i) {
      again[i] = std::this_thread::get_id();
      ++parts;
    });
  EXPECT_EQ(parts, 3000);
  EXPECT_EQ(first, again);
  EXPECT_EQ(first[0], std::this_thread::get_id());
  EXPECT_NE(first[1], first[2]);
}

TEST(Team, WaitsForAllAndRethrowsTheFirstError) {
  Team team(3);
  std::atomic<int> ended = 0;
  try {
    team.run([&](std::size_t i) {
      if (i > 0) throw std::runtime_error("part " + std::to_string(i));
      ++ended;
    });
    FAIL() << "the errors were lost";
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "part 1");
  }
  team.run([&](std::size_t) { ++ended; });
  EXPECT_EQ(ended, 4) << "the team goes on";
}

TEST(Team, OfOneIsTheCaller) {
  Team team(1);
  std::thread::id worker;
  team.run([&](std::size_t) { worker = std::this_thread::get_id(); });
  EXPECT_EQ(worker, std::this_thread::get_id());
}

}  // namespace
}  // namespace shallowpi
