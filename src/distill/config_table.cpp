#include "distill/config_table.h"

namespace shallowpi {
namespace {

constexpr const char* kDevices = "auto, cpu, cuda:N, several as cuda:0,cuda:1, or cuda:all";
constexpr double kMany = 1e9;  // no count of steps or samples is larger

// A field whose value is a list or of several types.
void add(ConfigTable& table, std::string name, std::string type, std::string help,
         std::function<void(const YamlNode&)> read, std::function<std::string()> write) {
  table.custom({std::move(name), std::move(help), std::move(type), "", std::move(read), std::move(write)});
}

DataFile read_data_file(const YamlNode& node) {
  DataFile file;
  if (node.kind != YamlNode::Kind::kMap) {
    file.path = yaml_text(node);
  } else {
    for (std::size_t i = 0; i < node.keys.size(); ++i) {
      const std::string& key = node.keys[i];
      if (key != "path" && key != "weight")
        throw UsageError(str("an item has the unknown key '", key, "'; it has a path and a weight"));
      if (key == "path") file.path = yaml_text(node.children[i]);
      if (key == "weight") file.weight = yaml_number(node.children[i]);
    }
  }
  if (file.path.empty()) throw UsageError("an item has no path");
  if (file.weight <= 0) throw UsageError(str("the weight of ", file.path, " is not > 0"));
  return file;
}

std::vector<DataFile> read_data_files(const YamlNode& node) {
  if (node.kind != YamlNode::Kind::kList) return {read_data_file(node)};
  std::vector<DataFile> files;
  for (const YamlNode& item : node.children) files.push_back(read_data_file(item));
  return files;
}

std::string write_data_files(const std::vector<DataFile>& files) {
  std::vector<std::string> items;
  for (const DataFile& file : files)
    items.push_back(file.weight == 1.0
                        ? to_yaml(file.path)
                        : str("{path: ", to_yaml(file.path), ", weight: ", to_yaml(file.weight), "}"));
  return str("[", join(items, ", "), "]");
}

template <typename Number>
std::vector<Number> read_list(const YamlNode& node, const char* of, Number (*read)(const YamlNode&)) {
  if (node.kind != YamlNode::Kind::kList) throw UsageError(str("is not a list of ", of));
  std::vector<Number> numbers;
  for (const YamlNode& item : node.children) numbers.push_back(read(item));
  return numbers;
}

std::vector<std::int64_t> read_integers(const YamlNode& node) {
  return read_list(node, "whole numbers", yaml_integer);
}

std::vector<double> read_deviations(const YamlNode& node) {
  return read_list<double>(node, "numbers", [](const YamlNode& item) {
    const double number = yaml_number(item);
    if (number < 0) throw UsageError(str(item.text, " is negative"));
    return number;
  });
}

void read_layer_map(const YamlNode& node, StudentConfig& student) {
  if (node.kind != YamlNode::Kind::kList) {
    const std::string name = yaml_text(node);
    const auto rule = find_enum<LayerMapRule>(name);
    if (!rule)
      throw UsageError(str("'", name, "' is not one of ", join(enum_names<LayerMapRule>(), ", "),
                           " or a list [0, 3, ...]"));
    student.layer_map = *rule;
    student.layer_list.clear();
    return;
  }
  student.layer_list = read_integers(node);
  if (student.layer_list.empty()) throw UsageError("the list of kept layers is empty");
}

// [6, -1] or [true, true, ..., false].
std::vector<bool> read_mask(const YamlNode& node) {
  if (node.kind != YamlNode::Kind::kList) throw UsageError("is not a list: write runs such as [6, -1]");
  const bool is_bools =
      !node.children.empty() && (node.children[0].text == "true" || node.children[0].text == "false");
  if (is_bools) {
    std::vector<bool> mask;
    for (const YamlNode& item : node.children) mask.push_back(yaml_bool(item));
    return mask;
  }
  const std::vector<std::int64_t> runs = read_integers(node);
  for (const std::int64_t run : runs)
    if (run == 0 || run < -32 || run > 32)
      throw UsageError(str("a run of ", run, " dims; it must be 1..32 or -32..-1"));
  return make_bool_mask(runs);
}

std::string write_mask(const std::vector<bool>& mask) {
  std::vector<std::int64_t> runs;
  for (std::size_t i = 0; i < mask.size(); ++i) {
    if (i == 0 || mask[i] != mask[i - 1]) runs.push_back(0);
    runs.back() += mask[i] ? 1 : -1;
  }
  return to_yaml(runs);
}

void add_general(ConfigTable& table, DistillConfig& config) {
  table.section("", "The run.");
  table.text("output_dir", config.output_dir,
             "Folder of the run: checkpoints, metrics and the resolved configuration.");
  table.integer("seed", config.seed, "Seed of every random draw.", at_least(0));
  add(
      table, "device", kDevices,
      "Where to compute; auto takes a GPU where there is one. Each of several computes its part of every "
      "batch.",
      [&config](const YamlNode& node) {
        std::string device = yaml_text(node);
        if (!is_device_list(device)) throw UsageError(str("'", device, "' is not ", kDevices));
        config.device = std::move(device);
      },
      [&config] { return to_yaml(config.device); });
  table.choice("dtype", config.dtype, {"auto", "float32", "bfloat16"},
               "Precision of the student's computation; auto is bfloat16 on a GPU and float32 on a CPU. "
               "Master weights are always float32.");
  table.integer("threads", config.threads,
                "CPU threads for computation; 0 takes all cores. Of several devices on a CPU each takes as "
                "many, or divides the cores.",
                between(0, 1024));
}

void add_gemma(ConfigTable& table, const std::string& name, GemmaConfig& gemma) {
  table.integer(name + ".depth", gemma.depth, "Layers; backbone and expert must agree.", between(1, 256));
  table.integer(name + ".width", gemma.width, "Channels of the residual stream.", between(1, 65536));
  table.integer(name + ".mlp", gemma.mlp, "Channels within the MLP.", between(1, 1048576));
  table.integer(name + ".heads", gemma.heads, "Query heads; backbone and expert must agree.",
                between(1, 256));
  table.integer(name + ".kv_heads", gemma.kv_heads, "Key and value heads: 1, all that pi0 and pi0.5 have.",
                between(1, 256));
  table.integer(name + ".head_dim", gemma.head_dim, "Channels per head; backbone and expert must agree.",
                between(2, 4096));
}

void add_models(ConfigTable& table, TeacherConfig& teacher, StudentConfig& student) {
  table.section("teacher",
                "The policy to distil. Without one, the student is trained on the task loss alone.");
  table.text("checkpoint", teacher.checkpoint, "Folder in our, openpi's or LeRobot's format.");
  table.choice("dtype", teacher.dtype, {"auto", "float32", "bfloat16"},
               "Precision of the frozen teacher; auto is bfloat16 on a GPU and float32 on a CPU.");

  table.section("student", "The policy to train.");
  table.text("checkpoint", student.checkpoint, "Folder to start from instead of the teacher's layers.");
  table.integer("layers", student.layers,
                "Layers in backbone and expert; 0 takes as many as the model it starts from.",
                between(0, 256));
  add(
      table, "layer_map", "one of " + join(enum_names<LayerMapRule>(), ", ") + ", or a list [0, 3, ...]",
      "Which teacher layers the student keeps: floor(i N/L), floor((i+1) N/L) - 1, both ends, or exactly "
      "these.",
      [&student](const YamlNode& node) { read_layer_map(node, student); },
      [&student] {
        return student.layer_list.empty() ? std::string(enum_name(student.layer_map))
                                          : to_yaml(student.layer_list);
      });

  PolicyConfig& sizes = student.architecture;
  table.section("student.architecture",
                "Sizes for training from scratch, without a teacher and without student.checkpoint.", true);
  table.choice("kind", sizes.kind,
               "The state as a token and plain RMSNorm (pi0), or adaptive RMSNorm (pi05).");
  table.integer("vocab", sizes.vocab, "Rows of the token embedding.", between(1, 10000000));
  table.integer(
      "action_dim", sizes.action_dim,
      "Dims of state and actions in the network, at least the robot's; without a base model to match, "
      "the robot's own spare the expert the noise of the padding.",
      between(1, 1024));
  table.integer("vision.depth", sizes.vision.depth, "Layers of the SigLIP tower.", between(1, 256));
  table.integer("vision.width", sizes.vision.width, "Channels of the tower.", between(1, 65536));
  table.integer("vision.mlp", sizes.vision.mlp, "Channels within the tower's MLP.", between(1, 1048576));
  table.integer("vision.heads", sizes.vision.heads, "Heads of the tower; they divide its width.",
                between(1, 256));
  table.integer("vision.patch", sizes.vision.patch, "Side of a patch in pixels.", between(1, 1024));
  table.integer("vision.image_size", sizes.vision.image_size, "Side of the square image in pixels.",
                between(1, 4096));
  add_gemma(table, "backbone", sizes.backbone);
  add_gemma(table, "expert", sizes.expert);
}

void add_policy(ConfigTable& table, PolicySpec& policy) {
  table.section("policy",
                "How the policy sees and acts. A teacher or checkpoint decides; only keys that are set here "
                "override it.",
                true);
  table.integer("horizon", policy.horizon, "Action steps per chunk.", between(1, kMaxHorizon));
  table.integer("image_size", policy.image_size, "Side in pixels of the square image that the tower sees.",
                between(1, 4096));
  table.texts(
      "image_keys", policy.image_keys,
      "Cameras in the order of the prefix (base_0_rgb, left_wrist_0_rgb, right_wrist_0_rgb). The others are "
      "skipped, not blackened.");
  table.choice(
      "prompt_mode", policy.prompt_mode,
      "How the instruction (and in pi0.5 the state) becomes text; of a pi0 from scratch: pi0_plain. A wrong "
      "mode makes a useless policy.");
  table.integer("max_token_len", policy.max_token_len, "Tokens of a prompt at most; longer ones are cut.",
                between(1, 4096));
  table.choice("norm_mode", policy.norm_mode, "How state and actions are normalised.");
  table.choice("resize_mode", policy.resize_mode,
               "Image resizing as in openpi (pillow), LeRobot (torch) or its 0.4.x.");
  table.choice("robot.kind", policy.robot.kind, "Conversion between the robot's numbers and the policy's.");
  table.integer("robot.state_dim", policy.robot.state_dim, "Real state dims.", between(1, kMaxTextStateDim));
  table.integer("robot.action_dim", policy.robot.action_dim, "Real action dims.", between(1, 32));
  add(
      table, "robot.delta_mask", "list of runs or of true and false",
      "Action dims relative to the state at the chunk's start: [6, -1] is six that are and one that is not.",
      [&policy](const YamlNode& node) { policy.robot.delta_mask = read_mask(node); },
      [&policy] { return write_mask(policy.robot.delta_mask); });
  table.integer(
      "rtc_training_max_delay", policy.rtc_training_max_delay,
      "Real-time chunking: half of the flow draws are given their first 1 to this many actions, clean, and "
      "learn to continue them. At least the latency in control steps; 0: none.",
      between(0, kMaxHorizon - 1));
  table.text("asset_id", policy.asset_id, "Folder of norm_stats.json under a checkpoint's assets/.");
  table.text("default_prompt", policy.default_prompt, "Instruction where the data or the robot gives none.");
}

void add_data(ConfigTable& table, DataConfig& data) {
  table.section("data", "Demonstrations.");
  add(
      table, "files", "path, list of paths, or list of {path, weight}",
      "HDF5 files, or recordings of a server; * and ? match. A weight (default 1) multiplies how often each "
      "frame of the file is drawn.",
      [&data](const YamlNode& node) { data.files = read_data_files(node); },
      [&data] { return write_data_files(data.files); });
  table.choice("format", data.format, "Layout of the files; auto looks into them.");
  table.choice("alignment", data.alignment,
               "LIBERO: was obs[j] recorded after actions[j] (raw, as published) or before (aligned)?");
  table.flag("drop_noops", data.drop_noops,
             "LIBERO: drop steps that neither move the arm nor switch the gripper.");
  table.number(
      "held_out_fraction", data.held_out_fraction,
      "Share of each file's episodes kept for evaluation, at least one where > 0; files of one episode "
      "are split together.",
      from_below(0, 1));
  table.integer("workers", data.workers, "Loader threads; batches do not depend on their number.",
                between(1, 256));
  table.integer("prefetch", data.prefetch, "Batches prepared ahead.", between(1, 1024));
  table.flag("augment", data.augment, "openpi's crop, rotation and colour augmentations, drawn per sample.");
  add(
      table, "state_noise", "list of numbers >= 0",
      "Standard deviation of what training adds to each state dim, in raw units; the actions stay. Keeps a "
      "policy from reading its place in a demonstration off the state.",
      [&data](const YamlNode& node) { data.state_noise = read_deviations(node); },
      [&data] { return to_yaml(data.state_noise); });
  table.text("norm_stats", data.norm_stats,
             "A norm_stats.json, or compute; empty takes the teacher's or checkpoint's, else (or where "
             "student.checkpoint is for another robot than policy.*) computes them from the data.");
  table.number("min_norm_range", data.min_norm_range,
               "Smallest half-range (or standard deviation) in computed statistics, in raw units.",
               at_least(0));
  add(
      table, "hidden_state_dims", "list of whole numbers",
      "State dims, counted from 0, that computed statistics make the policy blind to, such as [3, 4, 5]: in "
      "scripted demonstrations an orientation that hardly moves works as a clock.",
      [&data](const YamlNode& node) { data.hidden_state_dims = read_integers(node); },
      [&data] { return to_yaml(data.hidden_state_dims); });
  table.text("tokenizer", data.tokenizer,
             "A SentencePiece model; empty takes the checkpoint's, else openpi's or Hugging Face's cached "
             "PaliGemma one.");
}

void add_objective(ConfigTable& table, FlowConfig& flow, LossConfig& loss) {
  table.section(
      "flow", "Flow matching. t = 1 is noise; t is drawn from Beta(beta_alpha, beta_beta) * 0.999 + 0.001.");
  table.number("beta_alpha", flow.beta_alpha, "First parameter of the Beta distribution.", above_to(0, 1000));
  table.number("beta_beta", flow.beta_beta, "Second parameter of the Beta distribution.", above_to(0, 1000));
  table.integer("draws", flow.draws,
                "Draws of noise and t per observation; the observation is encoded once for all.",
                between(1, 256));

  table.section("loss",
                "L = task * L_task + kd * L_kd + attn * L_attn. Without a teacher, kd and attn are 0.");
  table.number("task", loss.task, "Weight of the velocity error against the demonstration.", at_least(0));
  table.number("kd", loss.kd, "Weight of the velocity error against the teacher.", at_least(0));
  table.number("attn", loss.attn,
               "Weight of the attention divergence from the teacher; 0 skips its computation.", at_least(0));
  table.choice("attn_placement", loss.attn_placement, "The student layer whose attention is matched.");
  table.choice("attn_queries", loss.attn_queries,
               "Queries of the action tokens, or of all tokens (an ablation).");
  table.choice("dims", loss.dims,
               "Squared errors over all padded action dims (openpi) or the robot's own. From scratch keep "
               "padded: sampling denoises the padding too.");
}

void add_optimizer(ConfigTable& table, OptimizerConfig& optimizer) {
  table.section("optimizer",
                "AdamW with linear warm-up, cosine decay, gradient clipping and an average of the weights.");
  table.number("peak_lr", optimizer.peak_lr, "Learning rate after the warm-up.", above_to(0, 1));
  table.number("end_lr", optimizer.end_lr, "Learning rate after the decay.", between(0, 1));
  table.integer("warmup_steps", optimizer.warmup_steps, "Steps of linear warm-up.", between(0, kMany));
  table.integer("decay_steps", optimizer.decay_steps,
                "Step at which the cosine reaches end_lr, warm-up included.", between(1, kMany));
  table.number("beta1", optimizer.beta1, "Decay of the first moment.", from_below(0, 1));
  table.number("beta2", optimizer.beta2, "Decay of the second moment.", from_below(0, 1));
  table.number("eps", optimizer.eps, "Added to the root of the second moment.", above_to(0, 1));
  table.number("weight_decay", optimizer.weight_decay, "Decoupled weight decay.", between(0, 1));
  table.number("clip_norm", optimizer.clip_norm, "Largest global gradient norm; 0 does not clip.",
               at_least(0));
  table.number("ema_decay", optimizer.ema_decay,
               "Decay of the averaged weights, which are saved; 0 keeps none.", from_below(0, 1));
  table.texts(
      "freeze", optimizer.freeze,
      "Patterns (* and ?) over openpi's tensor names that are not trained: [\"*vision_tower*\"]; with "
      "[\"paligemma_with_expert.paligemma.*\"] only the action expert is.");
}

void add_training(ConfigTable& table, TrainConfig& train) {
  table.section("train", "The training loop.");
  table.integer("steps", train.steps, "Optimiser steps.", between(1, kMany));
  table.integer("batch_size", train.batch_size, "Samples per step.", between(1, 1 << 20));
  table.integer(
      "accumulate", train.accumulate,
      "Parts that a batch is computed in; the memory falls, the result stays (with loss.attn_queries "
      "all: where the parts have as many tokens).",
      between(1, 1 << 20));
  table.flag("activation_checkpointing", train.activation_checkpointing,
             "Recompute each layer in the backward pass: a third more time, far less memory.");
  table.integer("log_every", train.log_every, "Steps between lines of metrics.", between(1, kMany));
  table.integer("eval_every", train.eval_every, "Steps between losses on held-out episodes; 0 never.",
                between(0, kMany));
  table.integer("eval_frames", train.eval_frames, "Held-out frames per evaluation.", between(1, kMany));
  table.integer("save_every", train.save_every, "Steps between checkpoints; the last step is always saved.",
                between(1, kMany));
  table.integer("keep_last", train.keep_last, "Newest checkpoints kept.", between(1, kMany));
  table.integer(
      "trace_step", train.trace_step,
      "Step whose timeline is written to trace.json in the run's folder, for chrome://tracing; 0: none.",
      at_least(0));
  table.integer("keep_every", train.keep_every,
                "Checkpoints at multiples of this step are kept forever; 0 none.", between(0, kMany));
  table.flag("keep_best", train.keep_best, "Keep the checkpoint with the lowest held-out loss.");
  table.number("outlier_sigma", train.outlier_sigma,
               "Skip steps whose gradient norm is this many deviations above its running mean; 0 skips none.",
               at_least(0));
  table.integer("max_skipped", train.max_skipped,
                "Skipped steps in a row after which training stops with exit code 4.", between(1, kMany));
}

}  // namespace

ConfigTable distill_table(DistillConfig& config) {
  ConfigTable table;
  add_general(table, config);
  add_models(table, config.teacher, config.student);
  add_policy(table, config.policy);
  add_data(table, config.data);
  add_objective(table, config.flow, config.loss);
  add_optimizer(table, config.optimizer);
  add_training(table, config.train);
  return table;
}

}  // namespace shallowpi
