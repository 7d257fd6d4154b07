#include "shallowpi/base/log.h"

#include "test_util.h"

namespace shallowpi {
namespace {

/// The log's default level after each test, whatever it set.
class Log : public ::testing::Test {
 protected:
  void TearDown() override { log::set_level(log::Level::kInfo); }
};

TEST_F(Log, GoesToStderrWithLevelAndBraces) {
  ::testing::internal::CaptureStderr();
  ::testing::internal::CaptureStdout();
  log::info("loaded ", 3, " tensors {} %s");
  const std::string out = ::testing::internal::GetCapturedStdout();
  const std::string err = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(out, "");
  EXPECT_NE(err.find("info"), std::string::npos);
  EXPECT_NE(err.find("loaded 3 tensors {} %s\n"), std::string::npos) << err;
}

TEST_F(Log, DropsWhatIsBelowTheLevel) {
  ::testing::internal::CaptureStderr();
  log::debug("one");
  log::set_level(log::Level::kWarning);
  log::info("two");
  log::warning("three");
  log::set_level(log::Level::kOff);
  log::error("four");
  const std::string err = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(err.find("one"), std::string::npos);
  EXPECT_EQ(err.find("two"), std::string::npos);
  EXPECT_NE(err.find("three"), std::string::npos);
  EXPECT_EQ(err.find("four"), std::string::npos);
}

}  // namespace
}  // namespace shallowpi
