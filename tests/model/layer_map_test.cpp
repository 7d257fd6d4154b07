#include "shallowpi/model/layer_map.h"

#include <gtest/gtest.h>

#include "shallowpi/base/error.h"
#include "test_util.h"

namespace shallowpi {
namespace {

using testing::expect_error;

using Layers = std::vector<std::int64_t>;

TEST(LayerMap, FollowsTheRules) {
  EXPECT_EQ(layer_map(LayerMapRule::kUniform, 6, 18), (Layers{0, 3, 6, 9, 12, 15}));
  EXPECT_EQ(layer_map(LayerMapRule::kUniform, 4, 18), (Layers{0, 4, 9, 13}));
  EXPECT_EQ(layer_map(LayerMapRule::kTinyBert, 6, 18), (Layers{2, 5, 8, 11, 14, 17}));
  EXPECT_EQ(layer_map(LayerMapRule::kTinyBert, 4, 18), (Layers{3, 8, 12, 17}));
  EXPECT_EQ(layer_map(LayerMapRule::kEndpoints, 2, 18), (Layers{0, 17}));
  EXPECT_EQ(layer_map(LayerMapRule::kEndpoints, 6, 18), (Layers{0, 3, 7, 10, 14, 17}));
  EXPECT_EQ(layer_map(LayerMapRule::kEndpoints, 3, 18), (Layers{0, 9, 17})) << "8.5 rounds up";
}

TEST(LayerMap, GivesAValidMapForEveryDepth) {
  for (const LayerMapRule rule : {LayerMapRule::kUniform, LayerMapRule::kTinyBert, LayerMapRule::kEndpoints})
    for (std::int64_t teacher = 2; teacher <= 20; ++teacher)
      for (std::int64_t student = 2; student <= teacher; ++student) {
        const Layers kept = layer_map(rule, student, teacher);
        ASSERT_EQ(static_cast<std::int64_t>(kept.size()), student);
        EXPECT_NO_THROW(check_layer_map(kept, teacher))
            << enum_name(rule) << " " << student << " of " << teacher;
      }
}

TEST(LayerMap, RefusesImpossibleDepths) {
  expect_error<UsageError>([] { layer_map(LayerMapRule::kUniform, 19, 18); },
                           "19 layers cannot be made from a teacher of 18");
  expect_error<UsageError>([] { layer_map(LayerMapRule::kUniform, 0, 18); }, "choose 1 to 18");
  expect_error<UsageError>([] { layer_map(LayerMapRule::kEndpoints, 1, 18); }, "at least 2 layers");
}

TEST(LayerMap, RefusesListsWithAReason) {
  expect_error<UsageError>([] { check_layer_map({}, 18); }, "no layer is kept");
  expect_error<UsageError>([] { check_layer_map({0, 18}, 18); }, "layer 18 does not exist");
  expect_error<UsageError>([] { check_layer_map({-1, 3}, 18); }, "layer -1 does not exist");
  expect_error<UsageError>([] { check_layer_map({0, 3, 3}, 18); }, "layer 3 is listed twice");
  expect_error<UsageError>([] { check_layer_map({3, 0}, 18); }, "ascending order");
}

}  // namespace
}  // namespace shallowpi
