#include "shallowpi/data/robot.h"

#include <gtest/gtest.h>

#include "test_util.h"

namespace shallowpi {
namespace {

using shallowpi::testing::expect_error;

RobotSpec aloha(std::vector<bool> delta_mask = {}) {
  return {.kind = RobotKind::kAloha, .state_dim = 14, .action_dim = 14, .delta_mask = std::move(delta_mask)};
}

std::vector<float> counting(std::size_t size) {
  std::vector<float> values(size);
  for (std::size_t i = 0; i < size; ++i) values[i] = 0.1f * static_cast<float>(i + 1);
  return values;
}

TEST(Robot, BoolMasks) {
  EXPECT_EQ(make_bool_mask({2, -1, 1}), (std::vector<bool>{true, true, false, true}));
  EXPECT_EQ(make_bool_mask({6, -1}), (std::vector<bool>{true, true, true, true, true, true, false}));
  EXPECT_EQ(make_bool_mask({6, -1, 6, -1}).size(), 14u);
  EXPECT_TRUE(make_bool_mask({}).empty());
}

TEST(Robot, LiberoAndJointsPassUnchanged) {
  for (RobotKind kind : {RobotKind::kLibero, RobotKind::kJoints}) {
    const RobotSpec robot{.kind = kind, .state_dim = 8, .action_dim = 7, .delta_mask = {}};
    std::vector<float> state = counting(8);
    state_to_policy(robot, state);
    EXPECT_EQ(state, counting(8));
    std::vector<std::vector<float>> actions = {counting(7)};
    actions_to_policy(robot, state, actions);
    EXPECT_EQ(actions[0], counting(7));
  }
}

TEST(Robot, DeltaActionsAreRelativeToTheChunksFirstState) {
  const RobotSpec robot{
      .kind = RobotKind::kLibero, .state_dim = 8, .action_dim = 7, .delta_mask = make_bool_mask({6, -1})};
  const std::vector<float> state = {1, 2, 3, 4, 5, 6, 7, 8};
  std::vector<std::vector<float>> actions = {{0, 0, 0, 0, 0, 0, 0}, {1, 1, 1, 1, 1, 1, 1}};
  actions_to_policy(robot, state, actions);
  EXPECT_EQ(actions[0], (std::vector<float>{-1, -2, -3, -4, -5, -6, 0}));
  EXPECT_EQ(actions[1], (std::vector<float>{0, -1, -2, -3, -4, -5, 1}));
  actions_to_robot(robot, state, actions);
  EXPECT_EQ(actions[1], (std::vector<float>{1, 1, 1, 1, 1, 1, 1}));
}

TEST(Robot, AlohaFlipsJoints) {
  std::vector<float> state(14, 0.5f);
  state_to_policy(aloha(), state);
  const std::vector<float> signs = {1, -1, -1, 1, 1, 1, 0, 1, -1, -1, 1, 1, 1, 0};
  for (std::size_t joint = 0; joint < 14; ++joint) {
    if (signs[joint] == 0) continue;  // a gripper
    EXPECT_FLOAT_EQ(state[joint], 0.5f * signs[joint]) << joint;
  }
}

// openpi's formulas evaluated in Python.
TEST(Robot, AlohaGripperState) {
  const std::vector<std::pair<float, double>> expected = {{0.0f, -1.0798655}, {0.25f, -0.5130776},
                                                          {0.5f, -0.1400559}, {0.75f, 0.2233276},
                                                          {1.0f, 0.9456528},  {2.0f, 0.9456528}};
  for (const auto& [gripper, angle] : expected) {
    std::vector<float> state(14, 0.0f);
    state[6] = state[13] = gripper;
    state_to_policy(aloha(), state);
    EXPECT_NEAR(state[6], angle, 1e-6) << gripper;
    EXPECT_EQ(state[6], state[13]);
  }
}

TEST(Robot, AlohaGripperActions) {
  std::vector<std::vector<float>> actions = {std::vector<float>(14, 0.0f), std::vector<float>(14, 1.0f)};
  const std::vector<float> state(14, 0.0f);
  actions_to_policy(aloha(), state, actions);
  EXPECT_NEAR(actions[0][6], -1.1689, 1e-6);
  EXPECT_NEAR(actions[1][13], 0.9434, 1e-6);
  actions_to_robot(aloha(), state, actions);
  EXPECT_NEAR(actions[0][6], 0.0, 1e-6);
  EXPECT_NEAR(actions[1][13], 1.0, 1e-6);
}

TEST(Robot, AlohaRoundTripWithDeltas) {
  const RobotSpec robot = aloha(make_bool_mask({6, -1, 6, -1}));
  std::vector<float> state = counting(14);
  state_to_policy(robot, state);
  std::vector<std::vector<float>> actions = {counting(14), std::vector<float>(14, 0.3f)};
  const auto original = actions;
  actions_to_policy(robot, state, actions);
  EXPECT_NEAR(actions[0][1], 0.0, 1e-6) << "the state's own value becomes zero, flipped or not";
  EXPECT_NEAR(actions[1][2], -0.3 + 0.3, 1e-6);
  EXPECT_NE(actions[0][6], original[0][6]);
  actions_to_robot(robot, state, actions);
  for (std::size_t row = 0; row < 2; ++row) {
    for (std::size_t dim = 0; dim < 14; ++dim) EXPECT_NEAR(actions[row][dim], original[row][dim], 1e-6);
  }
}

TEST(Robot, WrongWidthsAreRefused) {
  std::vector<float> seven(7, 0.0f);
  expect_error<UsageError>([&] { state_to_policy(RobotSpec{}, seven); }, "state", "7", "8");
  std::vector<std::vector<float>> actions = {std::vector<float>(6, 0.0f)};
  expect_error<UsageError>([&] { actions_to_policy(RobotSpec{}, counting(8), actions); }, "action", "6", "7");
  RobotSpec six_joints = aloha();
  six_joints.state_dim = 6;
  expect_error<UsageError>([&] { state_to_policy(six_joints, seven); }, "ALOHA", "14", "joints");
  const RobotSpec beyond{
      .kind = RobotKind::kJoints, .state_dim = 6, .action_dim = 7, .delta_mask = make_bool_mask({7})};
  expect_error<UsageError>([&] { actions_to_robot(beyond, counting(6), actions); }, "delta_mask", "6");
}

}  // namespace
}  // namespace shallowpi
