#include "eval/chunk_page.h"

#include <gtest/gtest.h>

#include "data/fake_episodes.h"

namespace shallowpi {
namespace {

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

TEST(ChunkPage, DrawsEachChunkFromItsFrameOn) {
  const Dataset dataset({{std::make_shared<testing::FakeEpisodes>(
      testing::FakeOptions{.lengths = {5, 7}, .action_dim = 2, .prompt = "a <b> cup"})}});
  PolicyReport six;
  six.label = "six & six";
  six.frames.resize(2);
  six.frames[0].sample = {0, 1, 5};
  six.frames[0].chunk = six.frames[1].chunk = {{0, 9}, {1, 9}, {2, 9}, {3, 9}};
  six.frames[1].sample = {0, 1, 6};  // within the chunk before it
  PolicyReport floor;
  floor.label = "repeat last action";
  floor.frames.emplace_back().sample = {0, 0, 1};
  const std::string page = chunk_page(dataset, {floor, six});
  EXPECT_EQ(count(page, "<h2>"), 1u) << "of the episode that a chunk is of";
  EXPECT_NE(page.find("demo_1</h2><p>a &lt;b&gt; cup</p>"), std::string::npos);
  EXPECT_NE(page.find("six &amp; six"), std::string::npos);
  EXPECT_EQ(page.find("repeat last action"), std::string::npos) << "it has none";
  EXPECT_EQ(count(page, "class=\"demo\""), 3u) << "the legend, two dims";
  EXPECT_EQ(count(page, "class=\"p1\""), 3u);
  // Steps 5 to 8 of 0 to 8; the highest value is at the top.
  EXPECT_NE(page.find("class=\"p1\" points=\"582.5,"), std::string::npos) << "70 + 820 * 5 / 8";
  EXPECT_NE(page.find(" 890.0,8.0 \""), std::string::npos) << "the end of dim 0, 3";
}

TEST(ChunkPage, ShowsFourEpisodesOfAllThereAre) {
  const Dataset dataset({{std::make_shared<testing::FakeEpisodes>(
      testing::FakeOptions{.lengths = std::vector<std::int64_t>(10, 3)})}});
  PolicyReport report;
  for (std::int32_t episode = 0; episode < 10; ++episode) {
    report.frames.emplace_back().sample = {0, episode, 0};
    report.frames.back().chunk = {{0, 0}};
  }
  const std::string page = chunk_page(dataset, {report});
  EXPECT_EQ(count(page, "<h2>"), 4u);
  for (const char* shown : {"demo_0<", "demo_2<", "demo_5<", "demo_7<"})
    EXPECT_NE(page.find(shown), std::string::npos) << shown;
}

}  // namespace
}  // namespace shallowpi
