#include "shallowpi/base/log.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>

#include "shallowpi/base/status_line.h"
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

/// What is written to `terminal` until `end` comes.
std::string read_until(const FileDescriptor& terminal, const std::string& end) {
  std::string text;
  char buffer[256];
  pollfd ready{terminal.get(), POLLIN, 0};
  while (text.find(end) == std::string::npos && ::poll(&ready, 1, 5000) > 0)
    text.append(buffer, terminal.read(buffer, sizeof buffer));
  return text;
}

TEST_F(Log, TheStatusLineFitsTheTerminalAndIsErasedBeforeOtherLines) {
  const FileDescriptor terminal(::posix_openpt(O_RDWR | O_NOCTTY), "terminal");
  if (terminal.get() < 0 || ::grantpt(terminal.get()) != 0 || ::unlockpt(terminal.get()) != 0)
    GTEST_SKIP() << "no pseudo-terminals here";
  const FileDescriptor screen(::open(::ptsname(terminal.get()), O_RDWR | O_NOCTTY | O_CLOEXEC), "screen");
  if (screen.get() < 0) GTEST_SKIP() << "no pseudo-terminals here";
  winsize size{};
  size.ws_row = 5;
  size.ws_col = 8;
  ASSERT_EQ(::ioctl(screen.get(), TIOCSWINSZ, &size), 0);
  const FileDescriptor before(::dup(STDERR_FILENO), "stderr");
  ::dup2(screen.get(), STDERR_FILENO);
  {
    StatusLine line(/*quiet=*/false);
    line.show("\u00fcbung macht den Meister");
    log::debug("unseen");
    log::warning("a warning");
    log::warning("another");
    line.show("short");
  }
  log::warning("the end");
  ::dup2(before.get(), STDERR_FILENO);
  const std::string text = read_until(terminal, "the end");
  EXPECT_TRUE(text.starts_with("\r\033[K\u00fcbung m\r\033[K")) << text;
  const std::size_t other = text.find("another"), again = text.find("\r\033[Kshort\r\033[K");
  EXPECT_LT(text.find("a warning"), other) << text;
  EXPECT_LT(other, again) << text;
  EXPECT_LT(again, text.find("the end")) << text;
  EXPECT_EQ(text.find("\033[K", text.find("a warning")), again + 1) << text;  // nothing to erase in between
}

}  // namespace
}  // namespace shallowpi
