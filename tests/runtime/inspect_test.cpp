#include "shallowpi/runtime/inspect.h"

#include "data/fake_episodes.h"
#include "parity_fixture.h"
#include "shallowpi/base/files.h"
#include "shallowpi/model/checkpoint.h"

namespace shallowpi {
namespace {

using testing::TempDir;

/// Findings of one topic, as "level: text".
std::vector<std::string> findings(const InspectReport& report, const std::string& topic) {
  std::vector<std::string> found;
  for (const Finding& finding : report.findings)
    if (finding.topic == topic) found.push_back(str(enum_name(finding.level), ": ", finding.text));
  return found;
}
bool has(const InspectReport& report, const std::string& topic, const std::string& part) {
  for (const std::string& text : findings(report, topic))
    if (text.find(part) != std::string::npos) return true;
  ADD_FAILURE() << "no '" << part << "' among: " << join(findings(report, topic), " | ");
  return false;
}
std::string fact(const InspectReport& report, const std::string& name) {
  for (const auto& [key, value] : report.facts)
    if (key == name) return value;
  return "";
}

class Inspect : public ::testing::Test {
 protected:
  void SetUp() override { testing::write_parity_openpi(teacher_, "pi05"); }

  /// A student folder of ours with statistics, a tokenizer and everything else that a policy needs.
  void write_student(NormStats stats = testing::identity_stats(8, 7)) {
    const CheckpointInfo info = read_checkpoint_info(teacher_, 10);
    Policy policy = load_student(info, {0, 6, 12});
    CheckpointContents contents;
    contents.config = policy->config();
    contents.spec = info.spec;
    contents.spec.robot = RobotSpec{};  // LIBERO's
    contents.spec.prompt_mode = PromptMode::kPi05NoState;
    contents.stats = stats;
    contents.kept_layers = {0, 6, 12};
    contents.teacher_fingerprint = std::string(64, 'a');
    contents.tokenizer = read_file(testing::small_tokenizer());
    const SafetensorsFolder weights(teacher_);
    publish_folder(student_, [&](const std::filesystem::path& folder) {
      write_checkpoint_files(folder, contents, policy->named_tensors(), torch::kFloat32, &weights);
    });
  }

  TempDir dir_;
  std::filesystem::path teacher_ = dir_ / "teacher", student_ = dir_ / "student";
};

TEST_F(Inspect, DescribesAnOpenpiFolderAndWhatItLacks) {
  const InspectReport report = inspect_checkpoint(teacher_);
  EXPECT_FALSE(report.corrupt);
  EXPECT_EQ(fact(report, "format"), "openpi (PyTorch)");
  EXPECT_EQ(fact(report, "policy"), "pi05");
  EXPECT_NE(fact(report, "backbone").find("18 layers, width 64"), std::string::npos);
  EXPECT_NE(fact(report, "weights").find("Float"), std::string::npos);
  EXPECT_TRUE(has(report, "weights", "ok: all values are finite"));
  EXPECT_TRUE(has(report, "statistics", "warning: there are no normalisation statistics"));
  EXPECT_TRUE(has(report, "horizon", "warning: the folder does not say"));
}

TEST_F(Inspect, FindsNothingWrongWithAFolderOfOurs) {
  write_student();
  const InspectReport report = inspect_checkpoint(student_);
  EXPECT_FALSE(report.corrupt);
  EXPECT_EQ(fact(report, "kept layers"), "0 6 12");
  EXPECT_EQ(fact(report, "example prompt"), "<bos>pick up the cup\\n");
  EXPECT_TRUE(has(report, "manifest", "ok: every file"));
  EXPECT_TRUE(has(report, "statistics", "ok: state 8 dims, actions 7 dims"));
  EXPECT_TRUE(has(report, "student", "ok: keeps 3"));
  EXPECT_TRUE(has(report, "horizon", "ok: chunks of 10 steps"));
  // The quickstart's tokenizer has more pieces than this policy's 256 embeddings.
  EXPECT_TRUE(has(report, "tokenizer", "problem: "));
}

TEST_F(Inspect, EndsWithWhetherServeTakesTheFolder) {
  const auto teacher = [](const char* name) {
    return inspect_checkpoint(std::filesystem::path(SHALLOWPI_SOURCE_DIR) / "configs/quickstart" / name);
  };
  EXPECT_EQ(teacher("teacher").serve, "can run");
  EXPECT_TRUE(teacher("teacher").text().ends_with("\nserve: can run\n"));
  EXPECT_EQ(teacher("teacher").json().at("facts").at("serve"), "can run");
  EXPECT_TRUE(inspect_checkpoint(teacher_).serve.starts_with("cannot run: there are no normalisation"));
  write_student();
  EXPECT_EQ(inspect_checkpoint(student_).serve,
            "cannot run: the tokenizer has more pieces than the embedding has rows");
  testing::write_text(student_ / "README.md", "edited");
  EXPECT_TRUE(inspect_checkpoint(student_).serve.starts_with("cannot run: the files are damaged; "));
}

TEST_F(Inspect, SeesStatisticsThatCannotBeRight) {
  NormStats stats = testing::identity_stats(8, 7);
  stats.actions.q99[3] = stats.actions.q01[3] + 1e-7;
  write_student(stats);
  const InspectReport report = inspect_checkpoint(student_);
  EXPECT_FALSE(report.corrupt);
  bool told = false;
  for (const std::string& text : findings(report, "statistics")) told |= !text.starts_with("ok");
  EXPECT_TRUE(told) << join(findings(report, "statistics"), " | ");
}

TEST_F(Inspect, ReportsWeightsThatAreMissing) {
  NamedTensors weights = testing::parity_weights("pi05");
  weights.erase("action_in_proj.bias");
  save_safetensors(teacher_ / "model.safetensors", weights);
  const InspectReport report = inspect_checkpoint(teacher_);
  EXPECT_TRUE(report.corrupt);
  EXPECT_TRUE(has(report, "checkpoint", "action_in_proj.bias"));
  EXPECT_EQ(run_inspect({.folder = teacher_, .json = true}), 3);
}

TEST_F(Inspect, ReportsWeightsThatAreNotFinite) {
  NamedTensors weights = testing::parity_weights("pi05");
  weights["action_out_proj.bias"] = torch::full({32}, NAN);
  save_safetensors(teacher_ / "model.safetensors", weights);
  const InspectReport report = inspect_checkpoint(teacher_);
  EXPECT_TRUE(report.corrupt);
  EXPECT_TRUE(has(report, "weights", "problem: 1 tensor(s) hold NaN or infinity: action_out_proj.bias"));
  EXPECT_EQ(run_inspect({.folder = teacher_}), 3);
}

TEST_F(Inspect, ReportsAFileThatIsNotTheOneInTheManifest) {
  write_student();
  testing::write_text(student_ / "README.md", "edited");
  const InspectReport report = inspect_checkpoint(student_);
  EXPECT_TRUE(report.corrupt);
  EXPECT_TRUE(has(report, "manifest", "README.md"));
}

TEST_F(Inspect, ChecksTheManifestOfAnExportedFolderToo) {
  write_student();
  export_checkpoint(student_, CheckpointFormat::kLeRobot, dir_ / "exported");
  EXPECT_TRUE(has(inspect_checkpoint(dir_ / "exported"), "manifest", "ok: every file"));
  testing::write_text(dir_ / "exported/README.md", "edited");
  EXPECT_TRUE(inspect_checkpoint(dir_ / "exported").corrupt);
}

TEST_F(Inspect, ACheckpointMayComeWithoutItsTrainingState) {
  publish_folder(student_, [&](const std::filesystem::path& folder) {
    std::filesystem::copy(teacher_, folder);
    testing::write_text(folder / "training_state/state.json", "{}");
  });
  std::filesystem::remove_all(student_ / "training_state");
  const InspectReport report = inspect_checkpoint(student_);
  EXPECT_FALSE(report.corrupt);
  EXPECT_TRUE(
      has(report, "manifest", "ok: every file has the recorded size and SHA-256; without training_state"));
}

TEST_F(Inspect, ADamagedTrainingStateIsNoDamageToThePolicy) {
  publish_folder(student_, [&](const std::filesystem::path& folder) {
    std::filesystem::copy(teacher_, folder);
    testing::write_text(folder / "training_state/state.json", "{}");
  });
  testing::write_text(student_ / "training_state/state.json", "cut");
  const InspectReport report = inspect_checkpoint(student_);
  EXPECT_FALSE(report.corrupt);
  EXPECT_EQ(report.serve.find("damaged"), std::string::npos) << report.serve;
  EXPECT_TRUE(has(report, "manifest", "warning: training_state/ is damaged")) << report.text();
  EXPECT_TRUE(has(report, "manifest", "no training can go on from here")) << report.text();
}

TEST_F(Inspect, ShowsWhatWasAssumedAndWhatNot) {
  write_student();
  export_checkpoint(student_, CheckpointFormat::kLeRobot, dir_ / "lerobot");
  std::filesystem::remove(dir_ / "lerobot/manifest.json");
  std::filesystem::remove(dir_ / "lerobot/policy_postprocessor.json");
  const InspectReport report = inspect_checkpoint(dir_ / "lerobot");
  EXPECT_TRUE(has(report, "read as", "ok: cameras: observation.images.image is base_0_rgb"));
  EXPECT_TRUE(has(report, "assumed", "warning: there is no policy_postprocessor.json"));
}

TEST_F(Inspect, NamesTheRobotsToChooseFrom) {
  for (const char* robot : {"droid", "trossen"})
    testing::write_text(teacher_ / "assets" / robot / "norm_stats.json",
                        norm_stats_json(testing::identity_stats(8, 8)));
  EXPECT_TRUE(has(inspect_checkpoint(teacher_), "assumed", "several robots (droid, trossen)"));
}

TEST_F(Inspect, AFolderThatWasEditedAsItAdvisesIsFine) {
  write_student();
  std::string own = read_file(student_ / "shallowpi.json");
  const std::string mode = "\"pi05_no_state\"";
  const auto edit = [&](const std::string& from, const std::string& to) {
    own.replace(own.find(from), from.size(), to);
    testing::write_text(student_ / "shallowpi.json", own);
  };
  ASSERT_NE(own.find(mode), std::string::npos);
  edit(mode, "\"pi0_plain\"");
  std::filesystem::remove(student_ / "manifest.json");
  EXPECT_NE(inspect_checkpoint(student_).text().find("then delete manifest.json"), std::string::npos);
  edit("\"pi0_plain\"", mode);
  const InspectReport report = inspect_checkpoint(student_);
  EXPECT_FALSE(report.corrupt);
  EXPECT_TRUE(has(report, "manifest", "warning: there is no manifest.json"));
}

TEST_F(Inspect, PrintsTextAndJson) {
  const InspectReport report = inspect_checkpoint(teacher_);
  const Json json = Json::parse(report.json().dump());
  EXPECT_EQ(json["facts"]["policy"], "pi05");
  EXPECT_EQ(json["findings"].size(), report.findings.size());
  EXPECT_EQ(json["corrupt"], false);
  EXPECT_NE(report.text().find("0 problem(s)"), std::string::npos) << report.text();
  EXPECT_NE(report.text().find("-> "), std::string::npos);
}

TEST_F(Inspect, RefusesWhatIsNoCheckpoint) {
  testing::expect_error<UsageError>([&] { inspect_checkpoint(dir_ / "nothing"); }, "nothing");
}

}  // namespace
}  // namespace shallowpi
