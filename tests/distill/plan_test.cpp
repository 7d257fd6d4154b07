#include "distill/plan.h"

#include "shallowpi/base/problems.h"
#include "training_fixture.h"

namespace shallowpi {
namespace {

namespace fs = std::filesystem;
using testing::TrainingFixture;

std::uint64_t folder_bytes(const fs::path& folder) {
  std::uint64_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(fs::canonical(folder)))
    if (entry.is_regular_file()) bytes += entry.file_size();
  return bytes;
}

TEST(Plan, CountsParametersAndTheCheckpoint) {
  const TrainingFixture fixture;
  const std::string teacher = "teacher.checkpoint=" + fixture.teacher();
  const std::vector<std::string> settings = {teacher, "student.layers=2",
                                             "optimizer.freeze=['*vision_tower*']"};
  const TrainingSetup setup = prepare_training(fixture.config("run", settings));
  const TrainingPlan plan = plan_training(setup);
  EXPECT_FALSE(fs::exists(fixture / "run")) << "a plan writes nothing";
  TrainingModels models = load_models(setup).front();
  std::int64_t trained = 0, all = 0;
  for (const ParameterGroup& group : trainable_groups(models.student, setup.config().optimizer.freeze))
    trained += group.parameter.numel();
  for (const ParameterGroup& group : models.student->parameter_groups()) all += group.parameter.numel();
  EXPECT_EQ(plan.trained, trained);
  EXPECT_EQ(plan.trained + plan.frozen + plan.dead, all);
  EXPECT_EQ(plan.dead, count_parameters(setup.policy).dead - setup.policy.vocab * setup.policy.expert.width)
      << "all but the expert's lm_head, which no module holds";
  EXPECT_EQ(setup.kept_layers, (std::vector<std::int64_t>{0, 2}));
  EXPECT_EQ(plan.teacher_layers, 4);
  ASSERT_EQ(fixture.run("run", settings), 0);
  const auto measured = static_cast<double>(folder_bytes(fixture / "run/last"));
  EXPECT_NEAR(static_cast<double>(plan.checkpoint_bytes), measured, 0.1 * measured);
}

TEST(Plan, AListOfLayersSaysWhereAStudentWithoutThemCameFrom) {
  const TrainingFixture fixture;
  const std::string teacher = "teacher.checkpoint=" + fixture.teacher();
  const auto config = [&](std::vector<std::string> more) {
    more.insert(more.begin(), teacher);
    return fixture.config("run", more);
  };
  const fs::path known = fixture / "student", unknown = fixture / "exported";
  run_init_only(load_distill_config({}, {teacher, "student.layer_map=[0, 3]"}, ConfigUse::kInitOnly), known);
  export_checkpoint(known, CheckpointFormat::kOpenpi, unknown);
  const std::vector<std::string> from_unknown = {"student.checkpoint=" + unknown.string(), "policy.horizon=4",
                                                 "policy.prompt_mode=pi05_no_state",
                                                 "policy.image_keys=[base_0_rgb, left_wrist_0_rgb]"};
  const auto kept = [&](std::vector<std::string> more, const fs::path& student) {
    if (student == unknown)
      more.insert(more.begin(), from_unknown.begin(), from_unknown.end());
    else
      more.push_back("student.checkpoint=" + student.string());
    return prepare_training(config(more)).kept_layers;
  };
  using Layers = std::vector<std::int64_t>;
  EXPECT_EQ(kept({}, known), (Layers{0, 3}));
  EXPECT_EQ(kept({}, unknown), (Layers{0, 2})) << "uniform, where nothing is known";
  EXPECT_EQ(kept({"student.layer_map=[0, 3]"}, unknown), (Layers{0, 3}));
  testing::expect_error<UsageError>([&] { kept({"student.layer_map=[0, 2]"}, known); },
                                    "the teacher's [0, 3]", "remove the key");
  testing::expect_error<UsageError>([&] { kept({"student.layer_map=[0, 1, 2]"}, unknown); },
                                    "lists 3 layers, but student.checkpoint has 2");
  // What a student of another teacher says of its layers is not of this one's.
  ASSERT_EQ(fixture.run("trained", {teacher, "student.layer_map=[0, 3]", "train.steps=3"}), 0);
  ASSERT_EQ(fixture.run("other", {"train.steps=3"}), 0);
  const fs::path trained = fixture / "trained/last";
  const std::string other = "teacher.checkpoint=" + (fixture / "other/last").string();
  EXPECT_EQ(kept({}, trained), (Layers{0, 3}));
  testing::expect_error<UsageError>([&] { kept({other}, trained); }, "another teacher, whose layers [0, 3]",
                                    "student.layer_map=[...]");
  EXPECT_EQ(kept({other, "student.layer_map=[1, 2]"}, trained), (Layers{1, 2}));
  EXPECT_EQ(kept({other, "student.layer_map=[0, 3]"}, trained), (Layers{0, 3}));
}

TEST(PrepareTraining, RefusesATeacherThatCannotTeach) {
  const TrainingFixture fixture;
  const fs::path teacher = fixture.teacher();
  ASSERT_EQ(fixture.run("wide", {"student.architecture.vocab=600", "train.steps=3"}), 0);
  testing::expect_error<UsageError>(
      [&] {
        prepare_training(fixture.config("run", {"teacher.checkpoint=" + teacher.string(),
                                                "student.checkpoint=" + (fixture / "wide/last").string()}));
      },
      "differ in vocab 600 and 512", "one cannot teach the other");
  const fs::path bare = fixture / "bare";
  fs::copy(teacher, bare, fs::copy_options::recursive);
  fs::remove_all(bare / "assets");
  fs::remove(bare / "manifest.json");
  const auto prepare = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"teacher.checkpoint=" + bare.string(), "student.layers=2"});
    return prepare_training(fixture.config("run", more));
  };
  testing::expect_error<UsageError>([&] { prepare({}); }, "bare has no normalisation statistics",
                                    "data.norm_stats");
  EXPECT_NO_THROW(prepare({"data.norm_stats=compute"}));
  EXPECT_NO_THROW(prepare({"loss.kd=0", "loss.attn=0"}));
}

TEST(Statistics, AreComputedForAnotherRobotAndOnRequest) {
  const TrainingFixture fixture;
  const std::string start = "student.checkpoint=" + fixture.teacher();
  const auto stats = [&](const std::vector<std::string>& more) {
    return norm_stats_json(prepare_training(fixture.config("run", more)).pipeline->stats());
  };
  const std::string known = norm_stats_json(*read_checkpoint_info(fixture.teacher()).stats);
  const std::string computed = stats({});  // from scratch
  NormStats foreign = *read_checkpoint_info(fixture.teacher()).stats;
  foreign.actions.q99[0] += 1;
  testing::write_text(fixture / "foreign.json", norm_stats_json(foreign));
  const std::string other = "data.norm_stats=" + (fixture / "foreign.json").string();
  ASSERT_EQ(fixture.run("base", {start, other}), 0);
  const std::string base = "student.checkpoint=" + (fixture / "base/last").string();
  EXPECT_EQ(stats({base}), norm_stats_json(foreign)) << "the checkpoint's own";
  EXPECT_EQ(stats({base, "policy.asset_id=mine"}), computed) << "another robot's are of no use";
  EXPECT_EQ(stats({base, "data.norm_stats=compute"}), computed);
  EXPECT_EQ(stats({base, "data.norm_stats=compute", "data.hidden_state_dims=[3]"}) == computed, false);
  EXPECT_EQ(stats({"teacher.checkpoint=" + (fixture / "base/last").string(), "student.layers=2",
                   "policy.asset_id=mine"}),
            norm_stats_json(foreign))
      << "a student keeps its teacher's";
}

TEST(InitOnly, TakesThePolicySettings) {
  const TrainingFixture fixture;
  const std::string teacher = "teacher.checkpoint=" + fixture.teacher();
  const ResolvedConfig config = load_distill_config(
      {}, {teacher, "student.layers=2", "policy.horizon=3", "policy.image_keys=[base_0_rgb]"},
      ConfigUse::kInitOnly);
  run_init_only(config, fixture / "student");
  const CheckpointInfo student = read_checkpoint_info(fixture / "student");
  NormStats others = *student.stats;
  others.state.q99[0] += 1;
  testing::write_text(fixture / "others.json", norm_stats_json(others));
  run_init_only(load_distill_config({}, {teacher, "data.norm_stats=" + (fixture / "others.json").string()},
                                    ConfigUse::kInitOnly),
                fixture / "other");
  EXPECT_EQ(norm_stats_json(*read_checkpoint_info(fixture / "other").stats), norm_stats_json(others));
  EXPECT_EQ(student.spec.horizon, 3);
  EXPECT_EQ(student.spec.image_keys, (std::vector<std::string>{"base_0_rgb"}));
  EXPECT_EQ(student.spec.prompt_mode, PromptMode::kPi05NoState) << "the teacher's";
  EXPECT_EQ(student.kept_layers, (std::vector<std::int64_t>{0, 2}));
}

TEST(Plan, GrowsAsItShould) {
  const TrainingFixture fixture;
  const auto plan = [&](const std::vector<std::string>& more) {
    return plan_training(prepare_training(fixture.config("run", more)));
  };
  const TrainingPlan base = plan({});
  EXPECT_GT(plan({"train.batch_size=16"}).activation_bytes, 3 * base.activation_bytes);
  EXPECT_LT(plan({"train.batch_size=16", "train.accumulate=4"}).activation_bytes, 2 * base.activation_bytes);
  EXPECT_LT(plan({"train.activation_checkpointing=true"}).activation_bytes, base.activation_bytes);
  EXPECT_GT(plan({"policy.rtc_training_max_delay=2"}).activation_bytes, base.activation_bytes)
      << "a modulation for each action";
  EXPECT_GT(plan({"train.activation_checkpointing=true"}).flops, base.flops);
  EXPECT_LT(plan({"optimizer.freeze=['*vision_tower*']"}).optimizer_bytes, base.optimizer_bytes);
  EXPECT_EQ(plan({"optimizer.ema_decay=0"}).optimizer_bytes, base.optimizer_bytes / 16 * 12);
  EXPECT_LT(plan({"flow.draws=4"}).flops, 4 * base.flops);
  EXPECT_LT(plan({"train.eval_every=0"}).host_bytes, base.host_bytes) << "no held-out batches";
}

TEST(Plan, AFrozenTowerThatIsTheTeachersIsInMemoryOnce) {
  const TrainingFixture fixture;
  const auto weights = [&](const std::vector<std::string>& more) {
    std::vector<std::string> all = {"teacher.checkpoint=" + fixture.teacher(), "student.layers=2"};
    all.insert(all.end(), more.begin(), more.end());
    return plan_training(prepare_training(fixture.config("run", all))).weight_bytes;
  };
  const std::string frozen = "optimizer.freeze=['*vision_tower*', '*multi_modal_projector*']";
  std::uint64_t tower = 0;
  for (const auto& [name, tensor] : load_policy(read_checkpoint_info(fixture.teacher()))->named_tensors())
    if (name.find("vision_tower") != std::string::npos ||
        name.find("multi_modal_projector") != std::string::npos)
      tower += tensor.nbytes();
  EXPECT_EQ(weights({}) - weights({frozen}), tower);
  EXPECT_EQ(weights({"teacher.dtype=bfloat16"}), weights({frozen, "teacher.dtype=bfloat16"}))
      << "of another precision";
}

TEST(PrepareTraining, TakesTheControlRateOfTheData) {
  const TrainingFixture fixture;
  fixture.write_demos("fast.hdf5", 50);
  fixture.write_demos("slow.hdf5", 20);
  const auto prepare = [&](const std::string& files, const std::vector<std::string>& more = {}) {
    std::vector<std::string> all = {"data.files=" + files};
    all.insert(all.end(), more.begin(), more.end());
    return prepare_training(fixture.config("run", all)).spec.control_hz;
  };
  const std::string fast = fixture / "fast.hdf5", slow = fixture / "slow.hdf5",
                    silent = fixture / "demos.hdf5";
  EXPECT_EQ(prepare(fast), 50);
  EXPECT_EQ(prepare(str("[", fast, ", ", silent, "]")), 50) << "of those that say it";
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(prepare(str("[", fast, ", ", slow, "]")), 0);
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("different steps per second (20, 50)"),
            std::string::npos);
  ASSERT_EQ(fixture.run("start", {"data.files=" + fast, "train.steps=1"}), 0);
  const std::string start = "student.checkpoint=" + (fixture / "start/last").string();
  EXPECT_EQ(prepare(silent, {start}), 50) << "what it has learned so far";
  EXPECT_EQ(prepare(silent, {start, "policy.asset_id=another"}), 0) << "on another robot";
}

TEST(Plan, SaysItAllInWords) {
  const TrainingFixture fixture;
  const TrainingSetup setup = prepare_training(fixture.config("run"));
  const std::string text = plan_text(setup, plan_training(setup));
  for (const char* part : {"pi05, 4 layers", "parameters trained", "dead", "memory, peak", "checkpoint",
                           "all checkpoints", "up to 2 at a time", "disk left",
                           "base_0_rgb, left_wrist_0_rgb", "FLOP", "8 state dims, 7 action dims", "4 actions",
                           "pi05_no_state, at most", "computed from the data", "passes over them"})
    EXPECT_NE(text.find(part), std::string::npos) << part << " in\n" << text;
}

TEST(DryRun, SaysAllThatIsWrongAndWhereTheRunGoesOn) {
  const TrainingFixture fixture;
  const std::string teacher = "teacher.checkpoint=" + fixture.teacher();
  testing::write_text(fixture / "full/letter.txt", "not a run");
  for (const char* part : {"output_dir: ", "data.state_noise has 1 values", "has no camera foo",
                           "data.norm_stats: there is no file nothing.json"})
    testing::expect_error<ManyProblems>(
        [&] {
          run_distill(fixture.config("full", {teacher, "student.layers=2", "data.state_noise=[1]",
                                              "policy.image_keys=[foo]", "data.norm_stats=nothing.json"}),
                      {.dry_run = true});
        },
        "4 problems:", part);
  ASSERT_EQ(fixture.run("run", {teacher, "student.layers=2"}), 0);
  const auto said = [&](const char* steps) {
    ::testing::internal::CaptureStdout();
    run_distill(fixture.config("run", {teacher, "student.layers=2", steps}), {.dry_run = true});
    return ::testing::internal::GetCapturedStdout();
  };
  EXPECT_NE(said("train.steps=9").find("goes on from"), std::string::npos);
  EXPECT_NE(said("train.steps=6").find("nothing to do: the run is complete after 6 steps"),
            std::string::npos);
  std::string bytes = read_file(fixture.teacher() + "/model.safetensors");
  bytes[bytes.size() / 2] ^= 1;
  testing::write_text(fixture.teacher() + "/model.safetensors", bytes);
  testing::expect_error<CorruptError>(
      [&] {
        run_distill(fixture.config("new", {teacher, "student.layers=2"}), {.dry_run = true});
      },
      "model.safetensors", "SHA-256");
}

TEST(DryRun, RefusesWhatTheRunRefuses) {
  const TrainingFixture fixture;
  const std::string teacher = "teacher.checkpoint=" + fixture.teacher();
  const auto dry_run = [&](const std::string& name, std::vector<std::string> more) {
    more.push_back(teacher);
    more.emplace_back("student.layers=2");
    run_distill(fixture.config(name, more), {.dry_run = true});
  };
  testing::expect_error<UsageError>([&] { dry_run("run", {"data.hidden_state_dims=[3]"}); },
                                    "data.hidden_state_dims: hides dims in statistics that are computed");
  testing::expect_error<UsageError>([&] { dry_run("run", {"policy.image_size=17"}); },
                                    "policy.image_size: 17 does not fit the vision tower", "16");
  testing::expect_error<UsageError>([&] { dry_run("run", {"optimizer.freeze=['*']"}); },
                                    "freezes every parameter");
  testing::expect_error<UsageError>(
      [&] { dry_run("run", {"policy.image_keys=[base_0_rgb, left_wrist_rgb]"}); },
      "policy.image_keys: the data has no camera left_wrist_rgb",
      "only base_0_rgb, left_wrist_0_rgb; did you mean left_wrist_0_rgb?");
  testing::expect_error<UsageError>([&] { dry_run("run", {"policy.robot.delta_mask=[7, -1]"}); },
                                    "robot.delta_mask covers 8 dims, but robot.action_dim is 7");
  for (const char* asset_id : {"../../foo", "..", ""})
    testing::expect_error<UsageError>([&] { dry_run("run", {str("policy.asset_id=", asset_id)}); },
                                      str("asset_id '", asset_id, "' is not a relative path"));
  testing::write_text(fixture / "others/results.json", "{}");
  testing::expect_error<UsageError>([&] { dry_run("others", {}); },
                                    "others is not the folder of a run, but holds results.json");
  testing::write_text(fixture / "mine/config.yaml", "# with my remarks\nseed: 1\n");
  testing::expect_error<UsageError>([&] { dry_run("mine", {}); },
                                    "is not the folder of a run, but holds config.yaml");
  testing::expect_error<UsageError>([&] { fixture.run("mine"); },
                                    "is not the folder of a run, but holds config.yaml");
  EXPECT_FALSE(fs::exists(fixture / "mine/checkpoints"));
  fs::create_directories(fixture / "killed/checkpoints");
  testing::write_text(fixture / "killed/config.yaml.tmp-99-0", "");
  EXPECT_NO_THROW(dry_run("killed", {}));
  fs::create_directories(fixture / "hidden/.git");
  EXPECT_NO_THROW(dry_run("hidden", {}));
  testing::write_text(fixture / "file", "");
  for (const char* name : {"file", "file/run"})
    testing::expect_error<UsageError>([&] { dry_run(name, {}); }, "file is a file; name a folder");
  testing::expect_error<UsageError>([&] { dry_run("teacher", {}); }, "made with another configuration");
}

TEST(DryRun, WarnsWhereFewStepsCanBeTheBest) {
  const TrainingFixture fixture;
  const auto shown = [&](std::vector<std::string> more) {
    more.emplace_back("train.steps=60");
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    run_distill(fixture.config("run", more), {.dry_run = true});
    ::testing::internal::GetCapturedStdout();
    return ::testing::internal::GetCapturedStderr();
  };
  EXPECT_NE(shown({"train.eval_every=5", "train.save_every=4"}).find("only every 20 steps"),
            std::string::npos);
  EXPECT_NE(
      shown({"train.keep_every=10", "train.save_every=4"}).find("train.save_every 4 saves only every 20th"),
      std::string::npos);
  for (const std::vector<std::string>& fine : std::vector<std::vector<std::string>>{
           {"train.eval_every=2", "train.save_every=4"},
           {"train.eval_every=4", "train.save_every=2"},
           {"train.eval_every=0", "train.save_every=4"},
           {"train.eval_every=7", "train.save_every=60"},
           {"train.eval_every=5", "train.save_every=4", "train.keep_best=false"}})
    EXPECT_EQ(shown(fine).find("keep_best"), std::string::npos) << join(fine, " ");
}

TEST(DryRun, WarnsWhereMemoryOrDiskAreTooSmall) {
  const TrainingFixture fixture;
  const auto warnings = [&](const std::vector<std::string>& more) {
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    EXPECT_EQ(run_distill(fixture.config("run", more), {.dry_run = true}), 0);
    ::testing::internal::GetCapturedStdout();
    return ::testing::internal::GetCapturedStderr();
  };
  EXPECT_EQ(warnings({}).find("memory"), std::string::npos);
  const std::string huge =
      warnings({"student.architecture.backbone.width=65536", "student.architecture.backbone.mlp=1048576"});
  EXPECT_NE(huge.find("of memory, but this machine has"), std::string::npos) << huge;
  EXPECT_NE(huge.find("train less of the policy (optimizer.freeze"), std::string::npos) << huge;
  EXPECT_NE(huge.find("left, but one checkpoint takes"), std::string::npos) << huge;
}

TEST(PrepareTraining, TellsWhatWasAssumedOfACheckpoint) {
  const TrainingFixture fixture;
  const fs::path exported = fixture / "exported";
  export_checkpoint(fixture.teacher(), CheckpointFormat::kOpenpi, exported);
  const CheckpointInfo info = read_checkpoint_info(exported, 4);
  ASSERT_FALSE(info.warnings.empty());
  ::testing::internal::CaptureStderr();
  prepare_training(fixture.config("run", {"student.checkpoint=" + exported.string(), "policy.horizon=4",
                                          "policy.prompt_mode=pi05_no_state"}));
  const std::string shown = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(shown.find(info.warnings.front()), std::string::npos) << shown;
}

TEST(PrepareTraining, WarnsOfATeacherThatWasTrainedOtherwise) {
  const TrainingFixture fixture;
  const std::string teacher = fixture.teacher();
  ::testing::internal::CaptureStderr();
  prepare_training(fixture.config(
      "run", {"teacher.checkpoint=" + teacher, "student.layers=2", "policy.robot.delta_mask=[6, -1]",
              "policy.image_keys=[left_wrist_0_rgb, base_0_rgb]", "policy.horizon=3"}));
  const std::string shown = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(
      shown.find(
          "in: relative action dims, horizon, cameras or their order. The teacher was not trained that way"),
      std::string::npos)
      << shown;
}

TEST(PrepareTraining, AStudentOfItsTeachersSettingsDiffersInNone) {
  const TrainingFixture fixture;
  const std::string teacher = fixture.teacher();
  const fs::path file = fs::path(teacher) / "assets/shallowpi/norm_stats.json";
  NormStats padded = read_norm_stats(file);  // as openpi's early ones
  for (FeatureStats* feature : {&padded.state, &padded.actions})
    for (auto* values : {&feature->mean, &feature->std, &feature->q01, &feature->q99}) values->resize(32);
  testing::write_text(file, norm_stats_json(padded));
  ::testing::internal::CaptureStderr();
  const TrainingSetup setup = prepare_training(
      fixture.config("run", {"teacher.checkpoint=" + teacher, "student.layers=2", "policy.image_keys=[]"}));
  const std::string shown = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(setup.spec.image_keys, setup.teacher->spec.image_keys);
  EXPECT_EQ(shown.find("leaves it out"), std::string::npos) << shown;
  EXPECT_EQ(shown.find("differs from its teacher"), std::string::npos) << shown;
}

TEST(PrepareTraining, WarnsOfATeacherOfAnotherSpeed) {
  const TrainingFixture fixture;
  fixture.write_demos("demos.hdf5", 50);
  const std::string teacher = fixture.teacher();
  fixture.write_demos("demos.hdf5", 20);
  ::testing::internal::CaptureStderr();
  prepare_training(fixture.config("run", {"teacher.checkpoint=" + teacher, "student.layers=2"}));
  const std::string shown = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(shown.find("20 steps per second, the teacher learned from 50"), std::string::npos) << shown;
  EXPECT_EQ(shown.find("differs from its teacher"), std::string::npos) << shown;
}

TEST(LoadModels, RefusesADamagedTeacher) {
  const TrainingFixture fixture;
  const fs::path teacher = fixture.teacher();
  std::string bytes = read_file(teacher / "model.safetensors");
  bytes[bytes.size() / 2] ^= 1;
  testing::write_text(teacher / "model.safetensors", bytes);
  const ResolvedConfig config =
      fixture.config("run", {"teacher.checkpoint=" + teacher.string(), "student.layers=2"});
  testing::expect_error<CorruptError>([&] { run_distill(config, {.quiet = true}); }, "model.safetensors",
                                      "SHA-256");
  EXPECT_FALSE(fs::exists(fixture / "run"));
}

TEST(DryRun, WritesNothing) {
  const TrainingFixture fixture;
  ::testing::internal::CaptureStdout();
  EXPECT_EQ(run_distill(fixture.config("run"), {.dry_run = true}), 0);
  EXPECT_NE(::testing::internal::GetCapturedStdout().find("memory, peak"), std::string::npos);
  EXPECT_FALSE(fs::exists(fixture / "run"));
}

}  // namespace
}  // namespace shallowpi
