#include "shallowpi/base/observation.h"

#include "test_util.h"

namespace shallowpi {
namespace {

TEST(Observation, MovesEveryDefinedTensor) {
  Observation observation;
  observation.images_bcyx = {torch::ones({2, 3, 4, 4}), torch::zeros({2, 3, 4, 4})};
  observation.image_masks_b = {torch::ones({2}, torch::kBool), torch::zeros({2}, torch::kBool)};
  observation.tokens_bt = torch::ones({2, 5}, torch::kInt64);
  observation.token_mask_bt = torch::ones({2, 5}, torch::kBool);
  const Observation moved = observation.to(torch::kMeta);
  ASSERT_EQ(moved.images_bcyx.size(), 2u);
  ASSERT_EQ(moved.image_masks_b.size(), 2u);
  EXPECT_TRUE(moved.images_bcyx[1].is_meta());
  EXPECT_TRUE(moved.image_masks_b[1].is_meta());
  EXPECT_TRUE(moved.tokens_bt.is_meta());
  EXPECT_TRUE(moved.token_mask_bt.is_meta());
  EXPECT_FALSE(moved.state_bd.defined());
  EXPECT_EQ(moved.batch_size(), 2);
}

}  // namespace
}  // namespace shallowpi
