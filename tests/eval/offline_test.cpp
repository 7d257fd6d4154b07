#include "shallowpi/eval/offline.h"

#include "data/fake_episodes.h"
#include "eval/labelled_path.h"
#include "eval/open_gates.h"
#include "model/small_checkpoint.h"
#include "parity_fixture.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/json.h"
#include "shallowpi/eval/layers.h"
#include "shallowpi/model/checkpoint.h"

namespace shallowpi {
namespace {

using testing::expect_error;
using testing::TempDir;

TEST(OfflineBatch, LossesOfStudentFoldersEqualTheReference) {
  for (const std::string kind : {"pi0", "pi05"}) {
    TempDir dir;
    testing::write_parity_lerobot(dir / "teacher", kind);
    init_student(read_checkpoint_info(dir / "teacher"), {0, 3, 6, 9, 12, 15}, dir / "student");
    OfflineOptions options;
    options.checkpoints = {(dir / "student").string()};
    options.teacher = dir / "teacher";
    options.batch = testing::test_data("parity/" + kind + "/io.safetensors");
    options.out = dir / "losses.json";
    run_offline(options);
    const Json losses = read_json(options.out);
    const NamedTensors io = testing::parity_io(kind);
    for (const char* name : {"task", "kd", "attn"}) {
      const double expected = io.at(str("out.student6_loss_", name)).item<double>();
      // The folder may hold bfloat16 weights: then only their rounding separates the two.
      EXPECT_NEAR(losses[str("loss_", name)].get<double>(), expected, 1e-4 * expected) << kind << " " << name;
    }

    options.teacher.clear();
    options.checkpoints = {"a=" + (dir / "student").string(), "b=" + (dir / "teacher").string()};
    run_offline(options);
    const Json named = read_json(options.out);
    EXPECT_NEAR(named["a"]["loss_task"].get<double>(), losses["loss_task"].get<double>(), 1e-6);
    EXPECT_TRUE(named["b"].contains("loss_task"));
    EXPECT_FALSE(named["a"].contains("loss_kd"));
  }
}

/// A small teacher for the quickstart's demonstrations, untrained, and a student of it.
class OfflineData : public ::testing::Test {
 protected:
  static constexpr std::int64_t kDepth = 4;

  void SetUp() override {
    PolicyConfig config;
    config.vision = {1, 32, 32, 16, 16, 32};
    config.backbone = {kDepth, 16, 32, 8, 1, 8};
    config.expert = {kDepth, 16, 32, 8, 1, 8};
    config.vocab = 512;
    Policy policy(config);
    policy->initialize(3);
    testing::open_gates(policy);
    CheckpointContents contents;
    contents.config = config;
    contents.spec.horizon = 5;
    contents.spec.image_size = 32;
    contents.spec.prompt_mode = PromptMode::kPi05NoState;
    contents.stats = testing::identity_stats(8, 7);
    contents.tokenizer = read_file(testing::small_tokenizer());
    publish_folder(dir_ / "teacher", [&](const std::filesystem::path& folder) {
      write_checkpoint_files(folder, contents, policy->named_tensors(), torch::kFloat32);
    });
    init_student(read_checkpoint_info(dir_ / "teacher"), {0, 2}, dir_ / "student");
    options_.checkpoints = {"small=" + (dir_ / "student").string()};
    options_.teacher = dir_ / "teacher";
    options_.demos.data.files = {{std::string(SHALLOWPI_SOURCE_DIR) + "/configs/quickstart/*.hdf5", 1.0}};
    options_.frames = 6;
    options_.out = dir_ / "report.json";
    options_.per_frame = dir_ / "frames.jsonl";
    options_.quiet = true;
    options_.measure.steps = 2;
    options_.measure.latency_repetitions = 1;
  }

  std::vector<std::string> lines(const std::filesystem::path& path) {
    std::vector<std::string> all = split(read_file(path), '\n');
    all.pop_back();  // after the last newline
    return all;
  }

  TempDir dir_;
  OfflineOptions options_;
};

TEST_F(OfflineData, ComparesTeacherStudentAndFloor) {
  options_.skipped = true;
  options_.plot = dir_ / "plot.html";
  run_offline(options_);
  const Json report = read_json(options_.out);
  ASSERT_EQ(report["policies"].size(), 4u);
  const Json &teacher = report["policies"][0], &skipped = report["policies"][1],
             &student = report["policies"][2], &floor = report["policies"][3];
  EXPECT_EQ(teacher["name"], "teacher");
  EXPECT_EQ(teacher["layers"], kDepth);
  EXPECT_TRUE(teacher["velocity_error_teacher"].is_null());
  EXPECT_EQ(student["name"], "small");
  EXPECT_EQ(student["layers"], 2);
  EXPECT_GT(student["velocity_error_teacher"].get<double>(), 0.0);
  EXPECT_GT(student["loss_attn"].get<double>(), 0.0);
  EXPECT_GT(student["latency_ms"].get<double>(), 0.0);
  EXPECT_EQ(floor["name"], "repeat last action");
  EXPECT_TRUE(floor["layers"].is_null());
  EXPECT_GT(floor["action_error"].get<double>(), 0.0);
  // An untrained student is what layer skipping gives.
  for (const char* key : {"loss_task", "velocity_error_teacher", "loss_attn", "action_error"})
    EXPECT_NEAR(skipped[key].get<double>(), student[key].get<double>(), 1e-6) << key;
  EXPECT_EQ(lines(options_.per_frame).size(), 4u * 6u);
  const std::string page = read_file(options_.plot);
  for (const char* label : {"teacher", "small before training", "small</text>"})
    EXPECT_NE(page.find(label), std::string::npos) << label;
  EXPECT_EQ(Json::parse(lines(options_.per_frame)[0])["policy"], "teacher");
}

TEST_F(OfflineData, ATeacherInATrainingFolderIsItselfAmongTheCheckpoints) {
  std::filesystem::create_directories(dir_ / "lerobot");
  std::filesystem::rename(dir_ / "teacher", dir_ / "lerobot/pretrained_model");
  options_.teacher = dir_ / "lerobot";
  options_.checkpoints.push_back("big=" + (dir_ / "lerobot").string());
  run_offline(options_);
  const Json policies = read_json(options_.out)["policies"];
  ASSERT_EQ(policies.size(), 3u) << "student, teacher, floor";
  EXPECT_EQ(policies[1]["name"], "big");
  EXPECT_TRUE(policies[1]["velocity_error_teacher"].is_null()) << "not its own student";
}

TEST_F(OfflineData, FindsTheSplitOnlyWithAllFilesOfTheRun) {
  write_file_atomically(dir_ / "run.yaml", "data: {files: '*.hdf5'}\n");
  write_file_atomically(dir_ / "recipe.yaml", "data: {held_out_fraction: 0.5}\n");
  expect_error<UsageError>([&] { choose_demos({"one.hdf5"}, dir_ / "run.yaml"); },
                           "run.yaml names demonstrations already", "leave --data out");
  expect_error<UsageError>([] { choose_demos({}, "", {"policy.resize_mode=torch"}); },
                           "--set policy.resize_mode=torch", "only data.*");
  const DemoChoice demos = choose_demos({"one.hdf5"}, dir_ / "recipe.yaml", {"seed=3"});
  EXPECT_EQ(demos.data.files.at(0).path, "one.hdf5");
  EXPECT_EQ(demos.data.held_out_fraction, 0.5);
  EXPECT_EQ(demos.split_seed, 3u);
  EXPECT_TRUE(demos.held_out);
  EXPECT_FALSE(choose_demos({"one.hdf5"}, "").held_out);
}

TEST_F(OfflineData, MeasuresTheEpisodesThatTheRunHeldOut) {
  const std::string files = options_.demos.data.files[0].path;
  write_file_atomically(dir_ / "run.yaml",
                        str("seed: 7\ndata: {files: '", files, "', held_out_fraction: 0.25}\n"));
  options_.demos = choose_demos({}, dir_ / "run.yaml");
  options_.teacher.clear();
  options_.per_frame = dir_ / "frames.csv";
  run_offline(options_);
  const Dataset dataset = open_dataset({{files, 1.0}}, DataFormat::kAuto);
  std::set<std::string> expected, measured;
  for (const Dataset::Sample& sample : dataset.split(0.25, 7).held_out)
    expected.insert(str(dataset.sources()[sample.source].file->path().string(), " ", sample.episode));
  const auto table = lines(options_.per_frame);
  EXPECT_EQ(table[0].rfind("policy,file,episode,step,loss_task", 0), 0u) << table[0];
  for (std::size_t i = 1; i < table.size(); ++i) {
    const auto cells = split(table[i], ',');
    const std::string file = cells[1].substr(1, cells[1].size() - 2),
                      episode = cells[2].substr(1, cells[2].size() - 2);
    for (std::size_t source = 0; source < dataset.sources().size(); ++source) {
      const EpisodeFile& candidate = *dataset.sources()[source].file;
      if (candidate.path().string() != file) continue;
      for (std::size_t e = 0; e < candidate.episodes().size(); ++e)
        if (candidate.episodes()[e].name == episode) measured.insert(str(file, " ", e));
    }
  }
  EXPECT_EQ(measured, expected);
  EXPECT_EQ(expected.size(), 6u);  // two of each file
}

TEST_F(OfflineData, NamesThePolicyWhoseOutputsAreNotFinite) {
  const auto spoil = [&](const std::string& name) {  // finite each, but not their product
    NamedTensors weights = load_safetensors(dir_ / name / "model.safetensors");
    for (auto& [key, tensor] : weights)
      if (key.ends_with(".q_proj.weight") || key.ends_with(".k_proj.weight"))
        tensor = tensor.to(torch::kFloat32) * 1e20;
    save_safetensors(dir_ / name / "model.safetensors", weights);
    std::filesystem::remove(dir_ / name / "manifest.json");
  };
  spoil("student");
  expect_error<CorruptError>([&] { run_offline(options_); }, "small: its outputs are not finite (",
                             ".hdf5 demo_");
  LayerStudyOptions study;
  study.offline = options_;
  study.offline.checkpoints = {(dir_ / "student").string()};
  study.keep = 1;
  for (const auto command : {run_similarity, run_skip})
    expect_error<CorruptError>([&] { command(study); }, "student: its ", "are not finite");
  spoil("teacher");
  expect_error<CorruptError>([&] { run_offline(options_); }, "teacher: its outputs are not finite");
  EXPECT_FALSE(std::filesystem::exists(options_.out));
}

TEST_F(OfflineData, RefusesADamagedCheckpoint) {
  for (const char* name : {"student", "teacher"}) {
    const std::filesystem::path file = dir_ / name / "model.safetensors";
    const std::string whole = read_file(file);
    std::string bytes = whole;
    bytes[bytes.size() - 2] ^= 1;
    testing::write_text(file, bytes);
    expect_error<CorruptError>([&] { run_offline(options_); }, "model.safetensors", "SHA-256");
    LayerStudyOptions study;
    study.offline = options_;
    study.offline.checkpoints = {(dir_ / name).string()};
    study.keep = 1;
    expect_error<CorruptError>([&] { run_similarity(study); }, "model.safetensors", "SHA-256");
    testing::write_text(file, whole);
  }
  EXPECT_FALSE(std::filesystem::exists(options_.out));
}

TEST(LabelledPath, TellsEqualNamesApart) {
  const auto labels = [](const std::vector<std::string>& texts) {
    std::vector<std::string> all;
    for (const LabelledPath& path : read_labelled_paths(texts, "runs")) all.push_back(path.label);
    return join(all, " ");
  };
  EXPECT_EQ(labels({"runs/l6/last", "runs/l9/last/", "runs/x/best"}), "l6/last l9/last best");
  EXPECT_EQ(labels({"/a/b/c/last", "/a/x/c/last", "last=/else"}), "b/c/last x/c/last last");
  EXPECT_EQ(labels({"a/results.json", "b/results.json", "c=d"}), "a/results b/results c");
  EXPECT_EQ(labels({"/last", "/a/last"}), "last a/last");
  expect_error<UsageError>([&] { labels({"x=a", "x=b"}); }, "two runs are called 'x'");
  expect_error<UsageError>([&] { labels({"runs/a", "runs/a/"}); }, "two runs are called");
}

TEST(LabelledCheckpoint, TakesTheRunsHorizonWhereTheFolderSaysNone) {
  TempDir dir;
  testing::write_weights_file(dir / "openpi", testing::random_weights(testing::small_config()));
  testing::write_text(dir / "run.yaml", "output_dir: x\npolicy: {horizon: 9}\ndata: {files: demos.hdf5}\n");
  const std::optional<std::int64_t> of_run = choose_demos({}, (dir / "run.yaml").string()).horizon;
  const LabelledPath path{"teacher", dir / "openpi"};
  EXPECT_EQ(of_run, 9);
  EXPECT_FALSE(read_labelled_checkpoint(path, {}, {}).info.horizon_known);
  EXPECT_EQ(read_labelled_checkpoint(path, {}, of_run).info.spec.horizon, 9);
  EXPECT_EQ(read_labelled_checkpoint(path, 5, of_run).info.spec.horizon, 5);
  testing::write_text(dir / "run.yaml", "output_dir: x\ndata: {files: demos.hdf5}\n");
  EXPECT_FALSE(choose_demos({}, (dir / "run.yaml").string()).horizon);
}

TEST_F(OfflineData, RefusesContradictoryOptions) {
  const auto refuses = [&](auto change, const char* part) {
    OfflineOptions options = options_;
    change(options);
    expect_error<UsageError>([&] { run_offline(options); }, part);
  };
  refuses([](auto& o) { o.checkpoints.clear(); }, "--checkpoint");
  refuses([](auto& o) { o.demos.data.files.clear(); }, "either --data");
  refuses([](auto& o) { o.batch = "x"; }, "either --data");
  refuses([](auto& o) { o.frames = -1; }, "--frames -1");
  refuses(
      [](auto& o) {
        o.skipped = true;
        o.teacher.clear();
      },
      "--skipped needs --teacher");
  refuses(
      [](auto& o) {
        o.demos.held_out = true;
        o.demos.data.held_out_fraction = 0;
      },
      "holds nothing out");
  refuses([](auto& o) { o.checkpoints.push_back(o.checkpoints[0]); }, "two checkpoints are called 'small'");
  refuses([&](auto& o) { o.checkpoints = {"teacher=" + (dir_ / "student").string()}; },
          "student is called 'teacher' but is not the one of --teacher");
  std::filesystem::remove_all(dir_ / "student" / "assets");
  std::filesystem::remove(dir_ / "student" / "manifest.json");
  refuses([](auto&) {}, "no normalisation statistics: name some with --set data.norm_stats=FILE");
  EXPECT_FALSE(std::filesystem::exists(options_.out));
}

}  // namespace
}  // namespace shallowpi
