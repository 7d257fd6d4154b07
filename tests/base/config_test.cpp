#include "shallowpi/base/config.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>

#include "shallowpi/base/cli.h"
#include "shallowpi/base/policy_spec.h"
#include "test_util.h"

namespace shallowpi {
namespace {

using testing::TempDir;
using testing::write_text;

struct Settings {
  std::string name = "none";
  std::int64_t steps = 10;
  double rate = 0.5;
  bool fast = false;
  RobotKind robot = RobotKind::kLibero;
  std::string dtype = "auto";
  std::vector<std::string> cameras;
};

class ConfigTest : public ::testing::Test {
 protected:
  ConfigTest() {
    table_.section("", "The run.");
    table_.text("name", settings_.name, "A name.");
    table_.section("train", "The loop.");
    table_.integer("steps", settings_.steps, "Steps.", at_least(1));
    table_.number("rate", settings_.rate, "A rate.", above_to(0, 1));
    table_.flag("fast", settings_.fast, "Hurry.");
    table_.section("policy", "The policy.", true);
    table_.choice("robot.kind", settings_.robot, "The robot.");
    table_.choice("dtype", settings_.dtype, {"auto", "float32"}, "Precision.");
    table_.texts("cameras", settings_.cameras, "Cameras.");
  }

  // All problems with a file of this text and these assignments; empty where there are none.
  std::string problems(const std::string& text, const std::vector<std::string>& assignments = {}) {
    ConfigReader reader(table_);
    write_text(folder_ / "c.yaml", text);
    reader.read_file(folder_ / "c.yaml");
    for (const std::string& assignment : assignments) reader.read_assignment(assignment);
    set_keys_ = reader.set_keys();
    try {
      reader.throw_problems();
    } catch (const UsageError& error) {
      std::string message = error.what();
      for (std::size_t at; (at = message.find(folder_.path().string() + "/")) != std::string::npos;)
        message.erase(at, folder_.path().string().size() + 1);
      return message;
    }
    return "";
  }

  TempDir folder_;
  Settings settings_;
  ConfigTable table_;
  std::set<std::string> set_keys_;
};

TEST_F(ConfigTest, DefaultThenFileThenOverride) {
  EXPECT_EQ(problems("train: {steps: 20, rate: 0.25}\n", {"train.steps=30"}), "");
  EXPECT_EQ(settings_.name, "none");
  EXPECT_EQ(settings_.rate, 0.25);
  EXPECT_EQ(settings_.steps, 30);
  EXPECT_EQ(set_keys_, (std::set<std::string>{"train.rate", "train.steps"}));
  EXPECT_EQ(problems("", {"train.steps=1", "train.steps=2"}), "");
  EXPECT_EQ(settings_.steps, 2);
}

TEST_F(ConfigTest, NestedAndDottedKeysAreTheSame) {
  EXPECT_EQ(problems("policy:\n  robot.kind: aloha\n  cameras: [a, b]\ntrain.fast: true\n"), "");
  EXPECT_EQ(settings_.robot, RobotKind::kAloha);
  EXPECT_EQ(settings_.cameras, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(settings_.fast);
  EXPECT_EQ(problems("train: {steps: 1}\ntrain.steps: 2\n"),
            "bad configuration: c.yaml:2: train.steps: duplicate key, first at c.yaml:1");
}

TEST_F(ConfigTest, EveryProblemNamesFileLineAndKey) {
  const std::string place = "bad configuration: c.yaml:1: ";
  EXPECT_EQ(problems("train: {stepz: 1}"), place + "train.stepz: unknown key; did you mean train.steps?");
  EXPECT_EQ(problems("steps: 1"), place + "steps: unknown key; did you mean train.steps?");
  EXPECT_EQ(problems("qqqqqqqqqqqq: 1"), place + "qqqqqqqqqqqq: unknown key; --help lists all keys");
  EXPECT_EQ(problems("name: a\nname: b"),
            "bad configuration: c.yaml:2: duplicate key 'name', first on line 1");
  EXPECT_EQ(problems("train: {steps: many}"), place + "train.steps: 'many' is not a whole number");
  EXPECT_EQ(problems("train: {steps: 0}"), place + "train.steps: 0 is out of range; it must be >= 1");
  EXPECT_EQ(problems("train: {steps: 18446744073709551615}"),
            place +
                "train.steps: 18446744073709551615 is out of range; it must be >= 1 and <= "
                "9223372036854775807");
  EXPECT_EQ(problems("train: {rate: 0}"), place + "train.rate: 0 is out of range; it must be > 0 and <= 1");
  EXPECT_EQ(problems("train: {rate: .nan}"), place + "train.rate: '.nan' is not finite");
  EXPECT_EQ(problems("train: {fast: yes}"), place + "train.fast: 'yes' is not true or false");
  EXPECT_EQ(problems("train: 5"), place + "train: is a group of keys, not a value");
  EXPECT_EQ(problems("train: {steps: {a: 1}}"),
            place + "train.steps: is a group of keys, not a whole number");
  EXPECT_EQ(problems("train: {steps: }"), place + "train.steps: has no value; a whole number is needed");
  EXPECT_EQ(problems("policy: {robot: {kind: alhoa}}"),
            place + "policy.robot.kind: 'alhoa' is not one of libero, aloha, joints");
  EXPECT_EQ(problems("policy: {dtype: int8}"), place + "policy.dtype: 'int8' is not one of auto, float32");
  EXPECT_EQ(problems("policy: {cameras: a}"), place + "policy.cameras: is not a list: write [a, b]");
  EXPECT_EQ(problems("- a\n"), place + "is not a map of keys; write `key: value` lines");
  EXPECT_EQ(problems("a: \"b"),
            place.substr(0, place.size() - 3) + "1: not valid YAML: illegal EOF in scalar");
}

TEST_F(ConfigTest, AValueInPlaceOfAGroupSaysNothingOfItsKeys) {
  write_text(folder_ / "c.yaml", "train: 5\n");
  ConfigReader reader(table_);
  reader.read_file(folder_ / "c.yaml");
  EXPECT_FALSE(reader.is_complete());
}

TEST_F(ConfigTest, AllProblemsAreReportedTogether) {
  EXPECT_EQ(
      problems("nme: x\ntrain:\n  steps: -1\n", {"train.rate=abc", "loud=true", "x", "train={steps: 1}"}),
      "bad configuration, 6 problems:\n"
      "  c.yaml:1: nme: unknown key; did you mean name?\n"
      "  c.yaml:3: train.steps: -1 is out of range; it must be >= 1\n"
      "  command line: train.rate: 'abc' is not a number\n"
      "  command line: loud: unknown key; --help lists all keys\n"
      "  command line: 'x' is not key=value\n"
      "  command line: train: is a group of keys; set one of them: train.KEY=VALUE");
}

TEST_F(ConfigTest, OverridesOfTextsNeedNoYamlQuotes) {
  for (const char* text : {"", "pick: up the cup", "- x", "a=b", "#1", "[a", "*.hdf5", "null"}) {
    EXPECT_EQ(problems("", {str("name=", text)}), "");
    EXPECT_EQ(settings_.name, text);
  }
  EXPECT_EQ(problems("", {"name='in quotes'"}), "");
  EXPECT_EQ(settings_.name, "in quotes");
}

TEST_F(ConfigTest, ABaseIsReadFirstAndHasNoBase) {
  write_text(folder_ / "base.yaml", "name: base\ntrain: {steps: 5, rate: 0.1}\n");
  EXPECT_EQ(problems("base: base.yaml\ntrain: {steps: 6}\n"), "");
  EXPECT_EQ(settings_.name, "base");
  EXPECT_EQ(settings_.steps, 6);
  EXPECT_EQ(settings_.rate, 0.1);
  write_text(folder_ / "second.yaml", "base: base.yaml\nbad: 1\n");
  EXPECT_NE(problems("base: second.yaml\n").find("second.yaml:1: base: a base has no base of its own"),
            std::string::npos);
  EXPECT_NE(problems("base: missing.yaml\n").find("c.yaml:1: base: there is no file "), std::string::npos);
  EXPECT_NE(problems("base: .\n").find("c.yaml:1: base: there is no file "), std::string::npos);
  EXPECT_NE(problems("base: " + std::string(300, 'x') + "\n").find("c.yaml:1: base: there is no file "),
            std::string::npos);  // longer than a name can be
  EXPECT_NE(problems("base: [a]\n").find("c.yaml:1: base: is not the name of a file"), std::string::npos);
}

TEST_F(ConfigTest, UnreadableFilesAreNamed) {
  ConfigReader reader(table_);
  reader.read_file(folder_ / "none.yaml");
  EXPECT_FALSE(reader.is_complete());
  reader.read_file(folder_.path());
  testing::expect_error<UsageError>([&] { reader.throw_problems(); }, "2 problems",
                                    "none.yaml: there is no such file");
  ConfigReader large(table_);
  write_text(folder_ / "large.yaml", std::string(kMaxYamlBytes + 2, '#'));
  large.read_file(folder_ / "large.yaml");
  testing::expect_error<UsageError>([&] { large.throw_problems(); }, "large.yaml");
}

TEST_F(ConfigTest, PrintsYamlHelpAndMarkdown) {
  EXPECT_EQ(problems("train: {steps: 7}\npolicy: {dtype: float32}\n"), "");
  EXPECT_EQ(
      config_yaml(table_, set_keys_),
      "# The run.\nname: none  # A name.\n"
      "\n# The loop.\ntrain:\n  steps: 7  # Steps.\n  rate: 0.5  # A rate.\n  fast: false  # Hurry.\n"
      "\n# The policy.\npolicy:\n  robot:\n    # kind: libero  # The robot.\n  dtype: float32  # Precision.\n"
      "  # cameras: []  # Cameras.\n");
  const std::string help = config_help_text(table_), markdown = config_markdown_text(table_);
  EXPECT_NE(help.find("train.steps=7  (whole number >= 1)\n      Steps."), std::string::npos) << help;
  EXPECT_NE(markdown.find("| `train.rate` | `0.5` | number > 0 and <= 1 | A rate. |"), std::string::npos)
      << markdown;
}

TEST(RunMain, MapsExceptionsToExitCodes) {
  EXPECT_EQ(run_main([] { return 0; }), 0);
  EXPECT_EQ(run_main([]() -> int { throw IoError("disk"); }), 1);
  EXPECT_EQ(run_main([]() -> int { throw UsageError("usage"); }), 2);
  EXPECT_EQ(run_main([]() -> int { throw CorruptError("corrupt"); }), 3);
  EXPECT_EQ(run_main([]() -> int { throw DivergedError("diverged"); }), 4);
  EXPECT_EQ(run_main([]() -> int { throw std::bad_alloc(); }), 1);
  EXPECT_EQ(run_main([]() -> int { TORCH_CHECK(false, "inside"); }), 1);
  EXPECT_EQ(run_main([]() -> int { throw std::runtime_error("other"); }), 1);
}

TEST(RunMain, FailsWhereStdoutCannotBeWritten) {
  std::cout.flush();
  std::fflush(stdout);
  const FileDescriptor full = open_file("/dev/full", O_WRONLY);
  const auto with_full_stdout = [&](const std::function<int()>& body) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::dup2(full.get(), STDOUT_FILENO);
      ::_exit(run_main(body));
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  };
  EXPECT_EQ(with_full_stdout([] { return 0; }), 0);
  EXPECT_EQ(with_full_stdout([] { return std::cout << "a result\n", 0; }), 1);
  EXPECT_EQ(with_full_stdout([] { return std::puts("a result"), 0; }), 1);
  EXPECT_EQ(with_full_stdout([] { return std::cout << "a result\n", 3; }), 3);
}

TEST(RunMain, AllowsAsManyOpenFilesAsTheSystemDoes) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit low = before;
  low.rlim_cur = 64;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
  rlimit inside{};
  run_main([&inside] { return ::getrlimit(RLIMIT_NOFILE, &inside); });
  EXPECT_EQ(inside.rlim_cur, before.rlim_max);
  ::setrlimit(RLIMIT_NOFILE, &before);
}

TEST(RunMain, DevicesAndDtypes) {
  EXPECT_EQ(parse_device("cpu"), torch::Device(torch::kCPU));
  EXPECT_EQ(parse_devices("cpu,cpu"), std::vector<torch::Device>(2, torch::kCPU));
  testing::expect_error<UsageError>([] { parse_devices("cpu,cuda:99"); }, "there is no cuda:99");
  testing::expect_error<UsageError>([] { parse_device("gpu"); }, "'gpu' is not auto, cpu or cuda:N");
  testing::expect_error<UsageError>([] { parse_device("cuda:99"); }, "there is no cuda:99");
  EXPECT_EQ(parse_dtype("auto", torch::kCPU), torch::kFloat32);
  EXPECT_EQ(parse_dtype("auto", torch::kCUDA), torch::kBFloat16);
  testing::expect_error<UsageError>([] { parse_dtype("half", torch::kCPU); }, "'half' is not");
  EXPECT_NE(version_text().find("LibTorch 2."), std::string::npos);
}

}  // namespace
}  // namespace shallowpi
