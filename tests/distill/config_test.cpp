#include "shallowpi/distill/config.h"

#include <gtest/gtest.h>

#include <regex>

#include "shallowpi/base/files.h"
#include "test_util.h"

namespace shallowpi {
namespace {

using testing::TempDir;
using testing::write_text;

const std::vector<std::string> kTeacher = {"teacher.checkpoint=teacher", "data.files=demos/*.hdf5",
                                           "output_dir=out"};

std::vector<std::string> with(std::vector<std::string> base, const std::vector<std::string>& more) {
  base.insert(base.end(), more.begin(), more.end());
  return base;
}

ResolvedConfig load(const std::vector<std::string>& overrides) {
  return load_distill_config({}, with(kTeacher, overrides));
}

// The message for these overrides of a sound distillation; empty where they are accepted.
std::string problems(const std::vector<std::string>& overrides, ConfigUse use = ConfigUse::kTrain) {
  try {
    load_distill_config({}, with(kTeacher, overrides), use);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

TEST(DistillConfig, DefaultsAreOpenpis) {
  const DistillConfig config = load({}).config;
  EXPECT_EQ(config.optimizer.peak_lr, 2.5e-5);
  EXPECT_EQ(config.train.batch_size, 64);
  EXPECT_EQ(config.loss.kd, 1.0);
  EXPECT_EQ(config.student.layer_map, LayerMapRule::kUniform);
}

TEST(DistillConfig, DataFilesTakeThreeForms) {
  EXPECT_EQ(load({"data.files=a.hdf5"}).config.data.files.at(0).path, "a.hdf5");
  EXPECT_EQ(load({"data.files=[a.hdf5, b/*.hdf5]"}).config.data.files.at(1).path, "b/*.hdf5");
  const auto files = load({"data.files=[{path: a.hdf5, weight: 2.5}, b.hdf5]"}).config.data.files;
  ASSERT_EQ(files.size(), 2u);
  EXPECT_EQ(files[0].weight, 2.5);
  EXPECT_EQ(files[1].weight, 1.0);
  EXPECT_NE(problems({"data.files=[{path: a, wight: 2}]"}).find("unknown key 'wight'"), std::string::npos);
  EXPECT_NE(problems({"data.files=[{weight: 2}]"}).find("an item has no path"), std::string::npos);
  EXPECT_NE(problems({"data.files=[{path: a, weight: 0}]"}).find("the weight of a is not > 0"),
            std::string::npos);
  EXPECT_NE(problems({"data.files=[]"}).find("data.files: is not set"), std::string::npos);
}

TEST(DistillConfig, LayerMapTakesARuleOrAList) {
  EXPECT_EQ(load({"student.layer_map=tinybert"}).config.student.layer_map, LayerMapRule::kTinyBert);
  EXPECT_EQ(load({"student.layer_map=[0, 5, 17]"}).config.student.layer_list,
            (std::vector<std::int64_t>{0, 5, 17}));
  EXPECT_TRUE(
      load({"student.layer_map=[0, 5]", "student.layer_map=uniform"}).config.student.layer_list.empty());
  EXPECT_NE(problems({"student.layer_map=top"}).find("'top' is not one of uniform, tinybert, endpoints"),
            std::string::npos);
  EXPECT_NE(problems({"student.layer_map=[]"}).find("the list of kept layers is empty"), std::string::npos);
  EXPECT_NE(problems({"student.layer_map=[0, x]"}).find("'x' is not a whole number"), std::string::npos);
  for (const char* bad : {"[3, 0]", "[0, 0, 1]", "[-1, 2]"})
    EXPECT_NE(problems({str("student.layer_map=", bad)}).find("is not a rising list"), std::string::npos)
        << bad;
  EXPECT_NE(problems({"student.layer_map=[0, 1]", "student.layers=3"}).find("contradicts student.layer_map"),
            std::string::npos);
  EXPECT_NE(problems({"student.layer_map=endpoints", "student.layers=1"}).find("needs student.layers >= 2"),
            std::string::npos);
}

TEST(DistillConfig, DeltaMaskTakesRunsOrBools) {
  const std::vector<bool> mask = {true, true, false};
  EXPECT_EQ(load({"policy.robot.delta_mask=[2, -1]"}).config.policy.robot.delta_mask, mask);
  EXPECT_EQ(load({"policy.robot.delta_mask=[true, true, false]"}).config.policy.robot.delta_mask, mask);
  EXPECT_TRUE(load({"policy.robot.delta_mask=[]"}).config.policy.robot.delta_mask.empty());
  EXPECT_NE(problems({"policy.robot.delta_mask=[99]"}).find("a run of 99 dims"), std::string::npos);
  EXPECT_NE(problems({"data.hidden_state_dims=3"}).find("is not a list of whole numbers"), std::string::npos);
  EXPECT_NE(problems({"data.state_noise=[0.1, -1]"}).find("-1 is negative"), std::string::npos);
  EXPECT_NE(problems({"policy.robot.delta_mask=6"}).find("is not a list"), std::string::npos);
  EXPECT_NE(problems({"policy.robot.delta_mask=[8]", "policy.robot.action_dim=7"}).find("covers 8 dims"),
            std::string::npos);
  EXPECT_NE(problems({"policy.robot.delta_mask=[4]", "policy.robot.state_dim=3"}).find("dim 3 is relative"),
            std::string::npos);
}

TEST(DistillConfig, WithoutATeacherTheDistillationLossesAreOff) {
  const std::vector<std::string> scratch = {"data.files=a", "output_dir=b", "policy.image_keys=[base_0_rgb]"};
  const DistillConfig config = load_distill_config({}, scratch).config;
  EXPECT_EQ(config.loss.task, 1.0);
  EXPECT_EQ(config.loss.kd, 0.0);
  EXPECT_EQ(config.loss.attn, 0.0);
  testing::expect_error<UsageError>(
      [&] {
        load_distill_config({}, with(scratch, {"loss.kd=1", "loss.attn=0.5"}));
      },
      "command line: loss.kd: needs a teacher.checkpoint",
      "command line: loss.attn: needs a teacher.checkpoint");
}

TEST(DistillConfig, FromScratchTheSizesMustBeSound) {
  const std::vector<std::string> scratch = {"data.files=a", "output_dir=b"};
  testing::expect_error<UsageError>(
      [&] {
        load_distill_config({}, with(scratch, {"student.architecture.expert.depth=3", "student.layers=19",
                                               "student.layer_map=[0]", "policy.image_size=64"}));
      },
      "student.layers: 19 is more than", "policy.image_keys: is not set", "policy.image_size: 64 is not",
      "student.layer_map: a list needs a teacher.checkpoint", "student.architecture: ");
  const auto small = load_distill_config(
      {}, with(scratch, {"policy.image_keys=[a]", "student.architecture.vision.image_size=56"}));
  EXPECT_EQ(small.config.policy.image_size, 56);
  EXPECT_NE(problems({"student.architecture.vocab=512"}).find("the sizes come from the checkpoint"),
            std::string::npos);
}

TEST(DistillConfig, FromScratchThePromptModeFollowsTheKind) {
  const auto scratch = [](const std::vector<std::string>& more) {
    return load_distill_config({}, with({"data.files=a", "output_dir=b", "policy.image_keys=[a]"}, more));
  };
  const std::string pi0 = "student.architecture.kind=pi0";
  EXPECT_EQ(scratch({pi0}).config.policy.prompt_mode, PromptMode::kPi0Plain);
  EXPECT_EQ(scratch({}).config.policy.prompt_mode, PromptMode::kPi05State);
  EXPECT_NO_THROW(scratch({"policy.prompt_mode=pi05_no_state"}));
  testing::expect_error<UsageError>(
      [&] {
        scratch({pi0, "policy.prompt_mode=pi05_no_state"});
      },
      "policy.prompt_mode: pi05_no_state makes a useless policy", "set pi0_plain");
  testing::expect_error<UsageError>([&] { scratch({"policy.prompt_mode=pi0_plain"}); },
                                    "set pi05_state, pi05_state_padded32 or pi05_no_state");
}

TEST(DistillConfig, ChecksAcrossKeys) {
  EXPECT_NE(problems({"train.batch_size=10", "train.accumulate=4"})
                .find("10 is not divisible by train.accumulate, 4"),
            std::string::npos);
  EXPECT_NE(problems({"data.held_out_fraction=0"}).find("train.eval_every: evaluates held-out episodes"),
            std::string::npos);
  EXPECT_EQ(problems({"data.held_out_fraction=0", "train.eval_every=0"}), "");
  EXPECT_NE(problems({"optimizer.end_lr=0.1"}).find("0.1 is above peak_lr, 2.5e-05"), std::string::npos);
  EXPECT_NE(problems({"optimizer.decay_steps=10"}).find("1000 is more than decay_steps, 10"),
            std::string::npos);
  EXPECT_NE(problems({"train.steps=10", "train.trace_step=11"}).find("11 is beyond train.steps, 10"),
            std::string::npos);
  EXPECT_NE(problems({"loss.task=0", "loss.kd=0", "loss.attn=0"}).find("loss: all weights are 0"),
            std::string::npos);
  EXPECT_NE(problems({"policy.image_keys=[a, b, a]"}).find("names a camera twice"), std::string::npos);
  EXPECT_NE(problems({"policy.robot.kind=aloha"}).find("aloha has 14 state and 14 action dims"),
            std::string::npos);
  EXPECT_NE(problems({"device=gpu"}).find("device: 'gpu' is not auto, cpu, cuda:N, several"),
            std::string::npos);
}

TEST(DistillConfig, WhatIsNeededDependsOnTheUse) {
  testing::expect_error<UsageError>([] { load_distill_config({}, {}); }, "output_dir: is not set",
                                    "data.files: is not set");
  testing::expect_error<UsageError>([] { load_distill_config({}, {}, ConfigUse::kInitOnly); },
                                    "teacher.checkpoint: is not set");
  EXPECT_NO_THROW(load_distill_config({}, {"teacher.checkpoint=t"}, ConfigUse::kInitOnly));
  EXPECT_NO_THROW(load_distill_config({}, {}, ConfigUse::kAny));
}

TEST(DistillConfig, AllProblemsOfFileOverridesAndChecksComeTogether) {
  TempDir folder;
  write_text(folder / "c.yaml",
             "teacher: {checkpoint: t}\ntrainn: {steps: 1}\ntrain:\n  batch_size: 3\n  accumulate: 2\n");
  testing::expect_error<UsageError>(
      [&] { load_distill_config(folder / "c.yaml", {"train.steps=0"}); }, "5 problems",
      "c.yaml:2: trainn: unknown key; did you mean train?",
      "command line: train.steps: 0 is out of range; it must be >= 1 and <= 1000000000",
      "output_dir: is not set", "data.files: is not set", "c.yaml:4: train.batch_size: 3 is not divisible");
}

TEST(DistillConfig, AFileThatCannotBeReadIsTheOnlyProblem) {
  TempDir folder;
  write_text(folder / "c.yaml", "output_dir: [out\n");
  for (const char* name : {"none.yaml", "c.yaml"}) {
    try {
      load_distill_config(folder / name, {});
      ADD_FAILURE() << name;
    } catch (const UsageError& error) {
      EXPECT_EQ(std::string(error.what()).find("is not set"), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
    }
  }
  // A key with a wrong value is not reported as missing too.
  const std::string message = problems({"data.files={x: 1}"});
  EXPECT_NE(message.find("data.files: an item has the unknown key 'x'"), std::string::npos) << message;
  EXPECT_EQ(message.find("data.files: is not set"), std::string::npos) << message;
}

TEST(DistillConfig, AValueInPlaceOfAGroupIsTheOnlyProblem) {
  TempDir folder;
  write_text(folder / "c.yaml",
             "output_dir: out\ndata: {files: a.hdf5}\nteacher: path\nstudent: {layer_map: [0, 2]}\n");
  try {
    load_distill_config(folder / "c.yaml", {});
    ADD_FAILURE();
  } catch (const UsageError& error) {
    EXPECT_EQ(error.what(), str("bad configuration: ", (folder / "c.yaml").string(),
                                ":3: teacher: is a group of keys, not a value"));
  }
}

TEST(DistillConfig, PathsAreTakenAsTheyAre) {
  EXPECT_NE(
      problems({"output_dir=~/q2"}).find("output_dir: ~/q2: write the full path; ~ is not expanded here"),
      std::string::npos);
  for (const char* key : {"output_dir", "teacher.checkpoint", "student.checkpoint", "data.files",
                          "data.norm_stats", "data.tokenizer"})
    EXPECT_NE(problems({str(key, "=${HOME}/q2")}).find(str(key, ": ${HOME}/q2: write the full path")),
              std::string::npos)
        << key;
  EXPECT_EQ(problems({"output_dir=./~q2", "data.norm_stats=a~b"}), "");
}

TEST(DistillConfig, AFolderIsNoFile) {
  TempDir folder;
  testing::expect_error<UsageError>([&] { load_distill_config(folder.path(), {}); },
                                    "is a folder; name a YAML file");
  testing::write_text(folder / "config.yaml", "output_dir: here");
  testing::expect_error<UsageError>([&] { load_distill_config(folder.path(), {}); }, "is a folder",
                                    (folder / "config.yaml").string());
}

TEST(DistillConfig, ADumpRepeatsTheRun) {
  TempDir folder;
  const std::vector<std::vector<std::string>> runs = {
      {},
      {"student.layer_map=[0, 9]", "loss.attn_queries=all", "data.files=[{path: a b.hdf5, weight: 0.5}, c]",
       "optimizer.freeze=[\"*vision_tower*\"]", "policy.robot.delta_mask=[3, -2]",
       "policy.default_prompt=pick: \"it\"", "policy.prompt_mode=pi05_no_state", "seed=123456789012345",
       "optimizer.peak_lr=1.7e-4", "device=cuda:1", "data.hidden_state_dims=[3, 5]",
       "data.state_noise=[0.01, 0, 1.5]"},
      {"train.save_every=1500"},
      {"teacher.checkpoint=", "policy.image_keys=[base_0_rgb]", "student.architecture.kind=pi0",
       "student.architecture.vision.image_size=112"},
  };
  for (const auto& overrides : runs) {
    const ResolvedConfig first = load(overrides);
    write_text(folder / "dump.yaml", dump_config(first));
    const ResolvedConfig second = load_distill_config(folder / "dump.yaml", {});
    EXPECT_EQ(dump_config(second), dump_config(first));
    EXPECT_EQ(second.config.data.files.size(), first.config.data.files.size());
    EXPECT_EQ(second.config.policy.image_size, first.config.policy.image_size);
    EXPECT_EQ(second.config.policy.default_prompt, first.config.policy.default_prompt);
    // Only what was set may override a checkpoint in the repeated run.
    for (const std::string& key : config_keys())
      if (key.starts_with("policy.")) EXPECT_EQ(second.is_set(key), first.is_set(key)) << key;
  }
}

TEST(DistillConfig, OnlySetPolicyKeysOverrideACheckpoint) {
  PolicySpec spec;
  spec.horizon = 10;
  spec.prompt_mode = PromptMode::kPi05StatePadded32;
  spec.image_keys = {"a", "b", "c"};
  spec.robot.delta_mask = {true};
  apply_policy_overrides(load({}), spec);
  EXPECT_EQ(spec.horizon, 10);
  EXPECT_EQ(spec.prompt_mode, PromptMode::kPi05StatePadded32);
  apply_policy_overrides(load({"policy.horizon=20", "policy.image_keys=[a, \"b c\"]",
                               "policy.robot.delta_mask=[-1, 2]", "policy.default_prompt=pick: it"}),
                         spec);
  EXPECT_EQ(spec.horizon, 20);
  EXPECT_EQ(spec.prompt_mode, PromptMode::kPi05StatePadded32);
  EXPECT_EQ(spec.image_keys, (std::vector<std::string>{"a", "b c"}));
  EXPECT_EQ(spec.robot.delta_mask, (std::vector<bool>{false, true, true}));
  EXPECT_EQ(spec.default_prompt, "pick: it");
}

TEST(DistillConfig, EveryKeyReadsBackItsOwnDefault) {
  // Each key on its own: catches a field that is bound to the wrong variable, or written in a form that it
  // does not read.
  const std::string defaults = dump_config(load_distill_config({}, {}, ConfigUse::kAny));
  TempDir folder;
  const std::string uncommented =
      std::regex_replace(defaults, std::regex(R"((\n +)# ([a-z_0-9]+: ))"), "$1$2");
  write_text(folder / "all.yaml", uncommented);
  const ResolvedConfig all =
      load_distill_config(folder / "all.yaml", {"student.checkpoint="}, ConfigUse::kAny);
  const std::vector<std::string> keys = config_keys();
  EXPECT_EQ(all.set_keys.size(), keys.size());
  EXPECT_EQ(std::set<std::string>(keys.begin(), keys.end()), all.set_keys);
}

TEST(DistillConfig, DocumentationIsUpToDate) {
  EXPECT_EQ(read_file(std::filesystem::path(SHALLOWPI_SOURCE_DIR) / "docs" / "config.md"), config_markdown())
      << "run: build/bin/shallowpi-distill --dump-config=markdown > docs/config.md";
  for (const std::string& key : config_keys())
    EXPECT_NE(config_help().find("  " + key + "="), std::string::npos) << key;
}

TEST(DistillConfig, EveryConfigurationOfTheProjectIsSound) {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(
           std::filesystem::path(SHALLOWPI_SOURCE_DIR) / "configs")) {
    if (entry.path().extension() != ".yaml") continue;
    EXPECT_NO_THROW(load_distill_config(entry.path(), {})) << entry.path();
    ++count;
  }
  EXPECT_GE(count, 29u);
}

TEST(DistillConfig, TheAblationsDifferAsTheTableSays) {
  const std::filesystem::path folder = std::filesystem::path(SHALLOWPI_SOURCE_DIR) / "configs" / "ablations";
  for (int layers : {9, 6, 4}) {
    const auto row = [&](const std::string& name) {
      return load_distill_config(folder / str(name, "_l", layers, ".yaml"), {}).config;
    };
    for (const char* name : {"a_task", "a_task_kd", "a_task_kd_attn", "b_first", "b_last", "c_all"}) {
      EXPECT_EQ(row(name).student.layers, layers);
      EXPECT_EQ(row(name).output_dir, str("runs/ablations/", name, "_l", layers));
      EXPECT_EQ(row(name).train.steps, 30000);
      EXPECT_EQ(row(name).train.batch_size, 64);
    }
    EXPECT_EQ(row("a_task").loss.kd, 0);
    EXPECT_EQ(row("a_task_kd").loss.attn, 0);
    EXPECT_EQ(row("a_task_kd_attn").loss.attn, 1);
    EXPECT_EQ(row("b_first").loss.attn_placement, AttentionPlacement::kFirst);
    EXPECT_EQ(row("b_last").loss.attn_placement, AttentionPlacement::kLast);
    EXPECT_EQ(row("c_all").loss.attn_queries, AttentionQueries::kAll);
  }
}

}  // namespace
}  // namespace shallowpi
