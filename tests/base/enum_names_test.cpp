#include "shallowpi/base/enum_names.h"

#include "shallowpi/base/policy_spec.h"
#include "test_util.h"

namespace shallowpi {
namespace {

TEST(EnumNames, RoundTrip) {
  for (const auto& name : enum_names<PromptMode>())
    EXPECT_EQ(enum_name(parse_enum<PromptMode>(name, "x")), name);
  EXPECT_EQ(enum_names<RobotKind>(), (std::vector<std::string>{"libero", "aloha", "joints"}));
}

TEST(EnumNames, FindsWhatIsThere) {
  EXPECT_EQ(find_enum<RobotKind>("aloha"), RobotKind::kAloha);
  EXPECT_EQ(find_enum<RobotKind>("ALOHA"), std::nullopt);
}

TEST(EnumNames, UnknownNameListsTheValidOnes) {
  testing::expect_error<UsageError>([] { parse_enum<ResizeMode>("opencv", "data.resize"); }, "data.resize",
                                    "opencv", "pillow, torch");
}

}  // namespace
}  // namespace shallowpi
