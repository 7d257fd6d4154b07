#include "shallowpi/model/checkpoint.h"

#include <gtest/gtest.h>

#include "shallowpi/base/error.h"
#include "shallowpi/base/files.h"
#include "small_checkpoint.h"

namespace shallowpi {
namespace {

namespace fs = std::filesystem;
using namespace testing;

/// Every tensor of the policy must be bit-equal to the file's under the same name.
void expect_weights(const Policy& policy, const NamedTensors& weights,
                    const std::vector<std::int64_t>& kept = {}) {
  const auto tensors = policy->named_tensors();
  EXPECT_EQ(tensors.size() + 1, expected_tensors(policy->config()).size()) << "all but the dead expert head";
  for (const auto& [name, tensor] : tensors) {
    std::string source = name == kEmbedName ? kHeadName : name;
    for (const std::string& prefix : {kBackboneLayer, kExpertLayer})
      if (!kept.empty() && source.starts_with(prefix)) {
        const std::size_t end = source.find('.', prefix.size());
        source = str(prefix, kept.at(std::stoul(source.substr(prefix.size()))), source.substr(end));
      }
    ASSERT_TRUE(weights.count(source)) << source;
    EXPECT_TRUE(torch::equal(tensor.detach(), weights.at(source).to(tensor.scalar_type()))) << name;
  }
}

TEST(Checkpoint, WeightsThatAreNotFiniteAreRefused) {
  const TempDir dir;
  NamedTensors weights = random_weights(small_config());
  weights.at("action_in_proj.weight")[0][0] = NAN;
  write_weights_file(dir.path(), weights);
  expect_error<CorruptError>([&] { load_policy(read_checkpoint_info(dir.path())); },
                             "action_in_proj.weight is not finite", "inspect");
}

TEST(Checkpoint, AFolderAboveSaysWhereTheWeightsAre) {
  const TempDir dir;
  fs::create_directories(dir / "last");
  write_weights_file(dir / "last", random_weights(small_config()));
  expect_error<UsageError>([&] { read_checkpoint_info(dir.path()); }, "no weights here", "did you mean",
                           "/last?");
}

TEST(Checkpoint, AFolderFarAboveSaysWhereTheLastWeightsAre) {
  const TempDir dir;
  for (const char* step : {"9000", "10000"}) {
    const fs::path folder = dir / "checkpoints" / step / "pretrained_model";
    fs::create_directories(folder);
    write_weights_file(folder, random_weights(small_config()));
  }
  expect_error<UsageError>([&] { read_checkpoint_info(dir.path()); },
                           "did you mean " + (dir / "checkpoints/10000/pretrained_model").string());
}

TEST(Checkpoint, SaysWhatIsToBeDoneWithAdaptersAndOldStatistics) {
  const TempDir dir;
  NamedTensors weights = random_weights(small_config());
  weights["action_in_proj.lora_A.weight"] = torch::zeros({2, 2});
  write_weights_file(dir.path(), weights);
  expect_error<UsageError>([&] { read_checkpoint_info(dir.path()); }, "has LoRA tensors", "merge_and_unload");
  weights.erase("action_in_proj.lora_A.weight");
  weights["normalize_inputs.buffer_observation_state.mean"] = torch::zeros({2});
  write_weights_file(dir.path(), weights);
  expect_error<UsageError>([&] { read_checkpoint_info(dir.path()); }, "migrate_policy_normalization");
}

TEST(Checkpoint, ReadsOpenpiFolders) {
  const TempDir dir;
  const NamedTensors weights = random_weights(small_config());
  write_weights_file(dir.path(), weights);
  write_text(dir / "assets/physical-intelligence/libero/norm_stats.json", norm_stats_json(small_stats()));
  const CheckpointInfo info = read_checkpoint_info(dir.path());
  EXPECT_EQ(info.format, CheckpointFormat::kOpenpi);
  EXPECT_FALSE(info.horizon_known);
  EXPECT_EQ(info.spec.asset_id, "physical-intelligence/libero");
  EXPECT_EQ(info.spec.robot.kind, RobotKind::kLibero);
  EXPECT_EQ(info.spec.prompt_mode, PromptMode::kPi05NoState) << "openpi's pi05_libero";
  EXPECT_EQ(info.spec.norm_mode, NormMode::kQuantile);
  EXPECT_EQ(info.spec.image_size, 28);
  ASSERT_TRUE(info.stats);
  EXPECT_EQ(info.stats->actions.width(), 7u);
  expect_weights(load_policy(info), weights);
  EXPECT_EQ(read_checkpoint_info(dir.path(), 12).spec.horizon, 12);
  EXPECT_TRUE(read_checkpoint_info(dir.path(), 12).horizon_known);
  expect_error<UsageError>([&] { read_checkpoint_info(dir.path(), 0); }, "horizon 0");
}

TEST(Checkpoint, TakesTheHorizonAndTheDefaultsOfPi0FromOpenpi) {
  const TempDir dir;
  write_weights_file(dir.path(), random_weights(small_config(PolicyKind::kPi0)));
  write_text(dir / "config.json", R"({"action_dim": 32, "action_horizon": 15, "precision": "bfloat16"})");
  write_text(dir / "assets/trossen/norm_stats.json", norm_stats_json(small_stats(14, 14)));
  const CheckpointInfo info = read_checkpoint_info(dir.path());
  EXPECT_TRUE(info.horizon_known);
  EXPECT_EQ(info.spec.horizon, 15);
  EXPECT_EQ(info.spec.prompt_mode, PromptMode::kPi0Plain);
  EXPECT_EQ(info.spec.max_token_len, 48);
  EXPECT_EQ(info.spec.norm_mode, NormMode::kZScore);
  EXPECT_EQ(info.spec.robot.kind, RobotKind::kAloha);
  EXPECT_EQ(std::count(info.spec.robot.delta_mask.begin(), info.spec.robot.delta_mask.end(), true), 12);
  write_text(dir / "config.json", R"({"action_horizon": "many"})");
  expect_error<CorruptError>([&] { read_checkpoint_info(dir.path()); }, "config.json", "action_horizon");
}

TEST(Checkpoint, SaysWhereStatisticsBelong) {
  const TempDir dir;
  write_weights_file(dir.path(), random_weights(small_config(PolicyKind::kPi0)));
  write_text(dir / "assets/norm_stats.json", norm_stats_json(small_stats(14, 14)));
  const CheckpointInfo info = read_checkpoint_info(dir.path());
  EXPECT_FALSE(info.stats);
  EXPECT_NE(join(info.warnings, "; ").find("assets/norm_stats.json is not where openpi has it"),
            std::string::npos)
      << join(info.warnings, "; ");
}

TEST(Checkpoint, TakesTheRobotFromTheAssetId) {
  const TempDir dir;
  write_weights_file(dir.path(), random_weights(small_config(PolicyKind::kPi0)));
  const auto robot = [&dir](const std::string& asset_id, const NormStats& stats) {
    std::filesystem::remove_all(dir / "assets");
    write_text(dir / "assets" / asset_id / "norm_stats.json", norm_stats_json(stats));
    return read_checkpoint_info(dir.path()).spec.robot;
  };
  const RobotSpec simulated = robot("lerobot/aloha_sim_transfer_cube_human", small_stats(14, 14));
  EXPECT_EQ(simulated.kind, RobotKind::kAloha);
  EXPECT_TRUE(simulated.delta_mask.empty()) << "openpi's pi0_aloha_sim has absolute actions";
  EXPECT_EQ(read_checkpoint_info(dir.path()).spec.default_prompt, "Transfer cube") << "its client sends none";
  EXPECT_EQ(robot("me/my_aloha_towel", small_stats(14, 14)).delta_mask, make_bool_mask({6, -1, 6, -1}));
  EXPECT_NE(join(read_checkpoint_info(dir.path()).warnings, "\n").find("adapt_to_pi=False"),
            std::string::npos);
  EXPECT_EQ(robot("me/aloha_one_arm", small_stats(7, 7)).kind, RobotKind::kJoints);
  EXPECT_EQ(robot("trossen", small_stats(14, 14)).kind, RobotKind::kAloha);
  const RobotSpec mobile = robot("trossen_mobile", small_stats(14, 16));
  EXPECT_EQ(mobile.kind, RobotKind::kJoints) << "two base velocities more";
  EXPECT_EQ(mobile.action_dim, 16);
  robot("arx", small_stats(14, 14));
  const std::string two_arms = join(read_checkpoint_info(dir.path()).warnings, "\n");
  EXPECT_NE(two_arms.find("'policy.robot.delta_mask=[6, -1, 6, -1]'"), std::string::npos) << two_arms;
  EXPECT_EQ(two_arms.find("max_token_len"), std::string::npos) << "DROID's alone";

  NormStats padded = small_stats(7, 6);
  for (FeatureStats* feature : {&padded.state, &padded.actions})
    for (auto* values : {&feature->mean, &feature->std, &feature->q01, &feature->q99}) values->resize(32);
  const RobotSpec unknown = robot("me/arm", padded);
  EXPECT_EQ(unknown.kind, RobotKind::kJoints);
  EXPECT_EQ(unknown.state_dim, 7) << "zeros are padding";
  EXPECT_EQ(unknown.action_dim, 6);
  const std::string warning = join(read_checkpoint_info(dir.path()).warnings, "\n");
  for (const std::string& part : {std::string("assets of me/arm: the robot is not known"),
                                  str("--init-only OUT teacher.checkpoint=", dir.path().string(),
                                      " 'policy.robot.delta_mask=[5, -1]'")})
    EXPECT_NE(warning.find(part), std::string::npos) << warning;
}

TEST(Checkpoint, TakesNoneOfSeveralRobotsStatistics) {
  const TempDir dir;
  write_weights_file(dir.path(), random_weights(small_config()));
  for (const char* robot : {"trossen", "droid"})
    write_text(dir / "assets" / robot / "norm_stats.json", norm_stats_json(small_stats(8, 8)));
  const CheckpointInfo info = read_checkpoint_info(dir.path());
  EXPECT_FALSE(info.stats);
  EXPECT_EQ(info.asset_ids, (std::vector<std::string>{"droid", "trossen"}));
  ASSERT_EQ(info.warnings.size(), 1u);
  EXPECT_NE(info.warnings[0].find("several robots (droid, trossen), and none is taken"), std::string::npos);
  EXPECT_NE(info.warnings[0].find("data.norm_stats="), std::string::npos);
  EXPECT_EQ(info.spec.robot.kind, RobotKind::kJoints);
}

TEST(Checkpoint, TheStateOfAnOpenpiPi05MayBeWide) {
  const TempDir dir;
  write_weights_file(dir.path(), random_weights(small_config()));
  write_text(dir / "assets/me/humanoid/norm_stats.json", norm_stats_json(small_stats(40, 30)));
  EXPECT_EQ(read_checkpoint_info(dir.path()).spec.robot.state_dim, 40);
  EXPECT_EQ(read_checkpoint_info(dir.path()).spec.robot.action_dim, 30);
}

TEST(Checkpoint, ReadsEveryDtypeAndTheModelPrefix) {
  const TempDir dir;
  NamedTensors weights = random_weights(small_config());
  const std::vector<torch::Dtype> dtypes = {torch::kBFloat16, torch::kFloat32, torch::kFloat16};
  std::size_t i = 0;
  for (auto& [name, tensor] : weights) tensor = tensor.to(dtypes[i++ % dtypes.size()]);
  write_weights_file(dir.path(), renamed(weights, "model."));
  expect_weights(load_policy(read_checkpoint_info(dir.path())), weights);
  const Policy half = load_policy(read_checkpoint_info(dir.path()), torch::kBFloat16);
  for (const auto& [name, tensor] : half->named_tensors())
    EXPECT_EQ(tensor.scalar_type(),
              expected_tensors(half->config()).at(name).keep_float32 ? torch::kFloat32 : torch::kBFloat16)
        << name;
}

TEST(Checkpoint, PrefersEmbedTokensToAStaleHead) {
  const TempDir dir;
  NamedTensors weights = random_weights(small_config());
  weights[kEmbedName] = weights.at(kHeadName);
  weights[kHeadName] = torch::zeros_like(weights.at(kHeadName));
  write_weights_file(dir.path(), weights);
  const Policy policy = load_policy(read_checkpoint_info(dir.path()));
  EXPECT_TRUE(torch::equal(policy->named_tensors().at(kEmbedName).detach(), weights.at(kEmbedName)));
}

TEST(Checkpoint, ReadsShardsAndAPretrainedModelSubfolder) {
  const TempDir dir;
  const NamedTensors weights = random_weights(small_config());
  Json map = Json::object();
  NamedTensors shards[2];
  for (const auto& [name, tensor] : weights) {
    const int shard = name.size() % 2;
    shards[shard][name] = tensor;
    map[name] = str("part-", shard, ".safetensors");
  }
  const fs::path inner = dir.path() / "pretrained_model";
  fs::create_directories(inner);
  for (int i : {0, 1}) save_safetensors(inner / str("part-", i, ".safetensors"), shards[i]);
  write_text(inner / "model.safetensors.index.json", Json{{"weight_map", map}}.dump());
  const CheckpointInfo info = read_checkpoint_info(dir.path());
  EXPECT_EQ(info.folder, inner);
  expect_weights(load_policy(info), weights);
}

TEST(Checkpoint, LoadsAStudentFromTheKeptLayers) {
  const TempDir dir;
  const NamedTensors weights = random_weights(small_config());
  write_weights_file(dir.path(), weights);
  const CheckpointInfo info = read_checkpoint_info(dir.path());
  const Policy student = load_student(info, {1, 3});
  EXPECT_EQ(student->config().depth(), 2);
  expect_weights(student, weights, {1, 3});
  expect_error<UsageError>([&] { load_student(info, {3, 4}); }, "layer 4 does not exist");
}

TEST(Checkpoint, RefusesFoldersWithoutUsableWeights) {
  const TempDir dir;
  expect_error<UsageError>([&] { read_checkpoint_info(dir / "absent"); }, "no such checkpoint folder");
  expect_error<UsageError>([&] { read_checkpoint_info("lerobot/pi05_libero"); },
                           "hf download lerobot/pi05_libero --local-dir checkpoints/pi05_libero");
  expect_error<UsageError>([&] { read_checkpoint_info(dir.path()); }, "no weights here");
  write_text(dir / "pytorch_model.bin", "pickle");
  expect_error<UsageError>([&] { read_checkpoint_info(dir.path()); }, "pytorch_model.bin", "never read");
  expect_error<UsageError>([&] { read_checkpoint_info(dir / "pytorch_model.bin"); }, "this is a file");
  write_text(dir / "peft/adapter_config.json", "{}");
  expect_error<UsageError>([&] { read_checkpoint_info(dir / "peft"); }, "merge the adapter into its base",
                           "scripts/merge_adapter.py");
  write_text(dir / "jax/params/_METADATA", "{}");
  const std::string jax = dir / "jax";
  for (const char* folder : {"jax", "jax/", "jax/params"})
    expect_error<UsageError>([&] { read_checkpoint_info(dir / folder); },
                             str("convert_jax.py ", jax, " --out ", jax, "_pytorch --horizon H"),
                             "does not say (LIBERO policies");
}

TEST(Checkpoint, RefusesTruncatedAndForeignFiles) {
  const TempDir dir;
  write_weights_file(dir.path(), random_weights(small_config()));
  const std::string bytes = read_file(dir / "model.safetensors");
  write_text(dir / "model.safetensors", bytes.substr(0, bytes.size() - 100));
  expect_error<CorruptError>([&] { read_checkpoint_info(dir.path()); }, "model.safetensors");
  write_weights_file(dir.path(), {{"transformer.h.0.attn.weight", torch::zeros({2, 2})}});
  expect_error<CorruptError>([&] { read_checkpoint_info(dir.path()); }, "neither a pi0 nor a pi05",
                             "transformer.h.0", dir.path().string());
}

TEST(Checkpoint, ListsEveryDifferenceAtOnce) {
  const TempDir dir;
  NamedTensors weights = random_weights(small_config());
  weights.erase("action_in_proj.weight");
  weights.erase(kBackboneLayer + "2.mlp.up_proj.weight");
  weights["extra.weight"] = torch::zeros({3});
  weights[kExpertLayer + "0.self_attn.q_proj.weight"] = torch::zeros({5, 5});
  weights["time_mlp_in.bias"] = torch::zeros({8}, torch::kInt64);
  write_weights_file(dir.path(), weights);
  expect_error<CorruptError>(
      [&] { read_checkpoint_info(dir.path()); }, "missing (2)", "action_in_proj.weight [8, 32]",
      kBackboneLayer + "2.mlp.up_proj.weight", "unexpected (1)", "extra.weight [3]", "misshapen (2)",
      kExpertLayer + "0.self_attn.q_proj.weight [5, 5], expected [32, 8]", "time_mlp_in.bias has type");
  weights = random_weights(small_config());
  for (int i = 0; i < 30; ++i) weights[str("extra.", i)] = torch::zeros({1});
  write_weights_file(dir.path(), weights);
  expect_error<CorruptError>([&] { read_checkpoint_info(dir.path()); }, "unexpected (30)", "and 10 more");
}

TEST(Checkpoint, RefusesStacksOfDifferentDepthAndAmbiguousNames) {
  const TempDir dir;
  NamedTensors weights = random_weights(small_config());
  std::erase_if(weights, [](const auto& entry) { return entry.first.starts_with(kExpertLayer + "3."); });
  write_weights_file(dir.path(), weights);
  expect_error<CorruptError>([&] { read_checkpoint_info(dir.path()); }, "4 layers and the expert 3");
  weights = random_weights(small_config());
  weights["model.action_in_proj.bias"] = torch::zeros({8});
  write_weights_file(dir.path(), weights);
  expect_error<CorruptError>([&] { read_checkpoint_info(dir.path()); }, "have the same meaning");
}

CheckpointContents small_contents() {
  CheckpointContents contents;
  contents.config = small_config(PolicyKind::kPi05, 2);
  contents.spec.horizon = 7;
  contents.spec.image_size = 28;
  contents.spec.image_keys = {"base_0_rgb", "left_wrist_0_rgb"};
  contents.spec.prompt_mode = PromptMode::kPi05NoState;
  contents.spec.norm_mode = NormMode::kLeRobotQuantiles;
  contents.spec.resize_mode = ResizeMode::kTorch;
  contents.spec.robot.delta_mask = {true, true, false};
  contents.spec.asset_id = "two/levels";
  contents.spec.default_prompt = "pick up \"it\"";
  contents.spec.demo_image_size = 128;
  contents.spec.control_hz = 12.5;
  contents.spec.rtc_training_max_delay = 6;
  contents.stats = small_stats();
  contents.kept_layers = {0, 3};
  contents.teacher_fingerprint = "abc";
  return contents;
}

NamedTensors without_heads(NamedTensors weights) {
  auto node = weights.extract(kHeadName);
  node.key() = kEmbedName;
  weights.insert(std::move(node));
  weights.erase(kDeadHeadName);
  return weights;
}

TEST(Checkpoint, WritesItsOwnFormatAndReadsItBack) {
  const TempDir dir;
  CheckpointContents contents = small_contents();
  contents.tokenizer = "tokenizer bytes";
  const NamedTensors weights = random_weights(contents.config);
  publish_folder(dir / "out", [&](const fs::path& folder) {
    write_checkpoint_files(folder, contents, without_heads(weights), torch::kFloat32);
  });
  verify_manifest(dir / "out");
  const CheckpointInfo info = read_checkpoint_info(dir / "out");
  EXPECT_EQ(info.format, CheckpointFormat::kShallowPi);
  EXPECT_EQ(info.spec.horizon, 7);
  EXPECT_EQ(info.spec.image_keys, contents.spec.image_keys);
  EXPECT_EQ(info.spec.prompt_mode, PromptMode::kPi05NoState);
  EXPECT_EQ(info.spec.norm_mode, NormMode::kLeRobotQuantiles);
  EXPECT_EQ(info.spec.resize_mode, ResizeMode::kTorch);
  EXPECT_EQ(info.spec.robot.delta_mask, contents.spec.robot.delta_mask);
  EXPECT_EQ(info.spec.default_prompt, contents.spec.default_prompt);
  EXPECT_EQ(info.spec.demo_image_size, 128);
  EXPECT_EQ(info.spec.control_hz, 12.5);
  EXPECT_EQ(info.spec.rtc_training_max_delay, 6);
  EXPECT_EQ(info.kept_layers, contents.kept_layers);
  EXPECT_EQ(info.teacher_fingerprint, "abc");
  ASSERT_TRUE(info.stats);
  EXPECT_EQ(info.stats->state.q99, contents.stats->state.q99);
  EXPECT_EQ(read_file(info.tokenizer), "tokenizer bytes");
  expect_weights(load_policy(info), weights);
  fs::remove(dir / "out/shallowpi.json");
  expect_error<CorruptError>([&] { read_checkpoint_info(dir / "out"); },
                             "manifest.json lists shallowpi.json, which is missing");
}

TEST(Checkpoint, ItsFilesAreIntactWithoutTheTrainingState) {
  const TempDir dir;
  const CheckpointContents contents = small_contents();
  publish_folder(dir / "out", [&](const fs::path& folder) {
    write_checkpoint_files(folder, contents, without_heads(random_weights(contents.config)));
    write_text(folder / "training_state/state.json", "{}");
  });
  const CheckpointInfo info = read_checkpoint_info(dir / "out");
  EXPECT_EQ(verify_files(info), FilesState::kIntact);
  fs::remove_all(dir / "out/training_state");
  EXPECT_EQ(verify_files(info), FilesState::kWithoutTrainingState);
  export_checkpoint(dir / "out", CheckpointFormat::kOpenpi, dir / "exported");
  fs::remove(dir / "out/README.md");
  expect_error<CorruptError>([&] { verify_files(info); }, "README.md", "missing");
  fs::remove(dir / "out/manifest.json");
  EXPECT_EQ(verify_files(info), FilesState::kNoManifest);
}

TEST(Checkpoint, WritesTheSameBytesTwiceAndRoundsAllButTheFloat32Tensors) {
  const TempDir dir;
  const CheckpointContents contents = small_contents();
  const NamedTensors weights = random_weights(contents.config);
  write_weights_file(dir / "teacher", weights);
  const SafetensorsFolder teacher(dir / "teacher");
  for (const char* name : {"a", "b"}) {
    fs::create_directories(dir / name);
    write_checkpoint_files(dir / name, contents, without_heads(weights), torch::kBFloat16, &teacher);
  }
  for (const char* file : {"model.safetensors", "config.json", "shallowpi.json", "README.md"})
    EXPECT_EQ(read_file(dir / "a" / file), read_file(dir / "b" / file)) << file;
  const NamedTensors stored = load_safetensors(dir / "a/model.safetensors");
  EXPECT_EQ(stored.size(), expected_tensors(contents.config).size())
      << "the dead head comes from the teacher";
  for (const auto& [name, expected] : expected_tensors(contents.config)) {
    const torch::Tensor& tensor = stored.at(name == kEmbedName ? kHeadName : name);
    EXPECT_EQ(tensor.scalar_type(), expected.keep_float32 ? torch::kFloat32 : torch::kBFloat16) << name;
  }
}

TEST(Checkpoint, RefusesADamagedShallowpiJson) {
  const TempDir dir;
  const CheckpointContents contents = small_contents();
  write_checkpoint_files(dir.path(), contents, without_heads(random_weights(contents.config)),
                         torch::kFloat32);
  const Json good = read_json(dir / "shallowpi.json");
  const auto with = [&](const char* key, const Json& value) {
    Json json = good;
    json[key] = value;
    write_text(dir / "shallowpi.json", json.dump());
    return [&] { read_checkpoint_info(dir.path()); };
  };
  expect_error<UsageError>(with("format_version", 2), "format version 2");
  expect_error<CorruptError>(with("asset_id", "../../etc"), "asset_id");
  expect_error<CorruptError>(with("horizon", 0), "horizon is 0");
  expect_error<CorruptError>(with("horizon", "7"), "horizon");
  expect_error<CorruptError>(with("demo_image_size", -1), "demo_image_size is -1");
  expect_error<CorruptError>(with("control_hz", -1), "control_hz is -1");
  expect_error<CorruptError>(with("rtc_training_max_delay", 7), "rtc_training_max_delay is 7", "horizon, 7");
  expect_error<CorruptError>(with("prompt_mode", "loud"), "'loud' is not one of");
  expect_error<CorruptError>(with("kept_layers", {0, 1, 2}), "kept_layers lists 3");
  Json robot = good["robot"];
  robot["delta_mask"] = std::vector<bool>(9, true);
  expect_error<CorruptError>(with("robot", robot), "shallowpi.json", "delta_mask marks dim 8");
  Json architecture = good["architecture"];
  architecture["layers"] = 6;
  expect_error<CorruptError>(with("architecture", architecture), "do not belong together");
  with("norm_epsilon", 1e-8)();
}

TEST(Checkpoint, RefusesToWriteWhatDoesNotFit) {
  const TempDir dir;
  CheckpointContents contents = small_contents();
  NamedTensors weights = without_heads(random_weights(contents.config));
  weights.erase("time_mlp_in.bias");
  expect_error<Error>([&] { write_checkpoint_files(dir.path(), contents, weights); },
                      "'time_mlp_in.bias' is missing");
  contents.spec.image_size = 224;
  expect_error<UsageError>([&] { write_checkpoint_files(dir.path(), contents, weights); },
                           "the vision tower takes 28");
}

TEST(Checkpoint, InitialisesAStudentFromFileToFile) {
  const TempDir dir;
  NamedTensors weights = random_weights(small_config());
  for (auto& [name, tensor] : weights)
    if (name.find("proj") != std::string::npos) tensor = tensor.to(torch::kBFloat16);
  write_weights_file(dir / "teacher", weights);
  const CheckpointInfo teacher = read_checkpoint_info(dir / "teacher", 5);
  init_student(teacher, {0, 2}, dir / "student");
  verify_manifest(dir / "student");
  const CheckpointInfo info = read_checkpoint_info(dir / "student");
  EXPECT_EQ(info.kept_layers, (std::vector<std::int64_t>{0, 2}));
  EXPECT_EQ(info.teacher_fingerprint, weights_fingerprint(teacher));
  EXPECT_EQ(info.spec.horizon, 5);
  const NamedTensors stored = load_safetensors(dir / "student/model.safetensors");
  EXPECT_EQ(stored.at(kExpertLayer + "1.self_attn.q_proj.weight").scalar_type(), torch::kBFloat16)
      << "kept as stored";
  EXPECT_TRUE(torch::equal(stored.at(kDeadHeadName), weights.at(kDeadHeadName)));
  expect_weights(load_policy(info), weights, {0, 2});
  expect_error<UsageError>([&] { init_student(teacher, {0, 4}, dir / "other"); }, "layer 4 does not exist");
  EXPECT_FALSE(fs::exists(dir / "other"));
  init_student(info, {0, 1}, dir / "copy");  // which remains a student of that teacher
  const CheckpointInfo copy = read_checkpoint_info(dir / "copy");
  EXPECT_EQ(copy.kept_layers, info.kept_layers);
  EXPECT_EQ(copy.teacher_fingerprint, info.teacher_fingerprint);
}

TEST(Checkpoint, FingerprintsWhateverTheNumberOfHeads) {
  const TempDir dir;
  CheckpointContents contents = small_contents();
  for (GemmaConfig* gemma : {&contents.config.backbone, &contents.config.expert}) gemma->heads = 2;
  write_checkpoint_files(dir.path(), contents, without_heads(random_weights(contents.config)));
  EXPECT_EQ(weights_fingerprint(read_checkpoint_info(dir.path())).size(), 64u);
}

TEST(Checkpoint, FingerprintsLiveWeightsWhateverTheirNames) {
  const TempDir dir;
  NamedTensors weights = random_weights(small_config());
  write_weights_file(dir / "openpi", weights);
  write_weights_file(dir / "lerobot", renamed(weights, "model."));
  const auto fingerprint_of = [&](const char* name) {
    return weights_fingerprint(read_checkpoint_info(dir / name, 5));
  };
  const std::string fingerprint = fingerprint_of("openpi");
  EXPECT_EQ(fingerprint.size(), 64u);
  EXPECT_EQ(fingerprint_of("lerobot"), fingerprint);
  weights[kDeadHeadName] = weights[kDeadHeadName] + 1;
  weights[kBackboneLayer + "3.mlp.up_proj.weight"] = weights[kBackboneLayer + "3.mlp.up_proj.weight"] + 1;
  write_weights_file(dir / "dead", weights);
  EXPECT_EQ(fingerprint_of("dead"), fingerprint) << "dead tensors do not count";
  weights["action_out_proj.bias"][0] += 1;
  write_weights_file(dir / "live", weights);
  EXPECT_NE(fingerprint_of("live"), fingerprint);
}

}  // namespace
}  // namespace shallowpi
