#include "shallowpi/runtime/inspect.h"

#include <algorithm>
#include <iostream>
#include <map>

#include "runtime/observation_message.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"
#include "shallowpi/data/normalize.h"
#include "shallowpi/data/tokenizer.h"
#include "shallowpi/model/checkpoint.h"

namespace shallowpi {
namespace {

constexpr std::string_view kExamplePrompt = "pick up the cup";
constexpr std::int64_t kPaligemmaNewline = 108;
constexpr std::size_t kListed = 8;  // names listed in one finding
constexpr const char* kDamaged = "the files are damaged";

std::string_view format_text(CheckpointFormat format) {
  switch (format) {
    case CheckpointFormat::kShallowPi:
      return "Shallow-pi";
    case CheckpointFormat::kOpenpi:
      return "openpi (PyTorch)";
    case CheckpointFormat::kLeRobot:
      return "LeRobot";
  }
  return "?";
}

/// Examines one folder; every check adds its findings to the report.
class Doctor {
 public:
  explicit Doctor(CheckpointInfo info) : info_(std::move(info)) {}

  InspectReport examine() {
    describe();
    check_weights();
    check_manifest();
    check_statistics();
    check_tokenizer_and_prompt();
    check_horizon();
    check_student();
    for (const std::string& note : info_.notes) ok("read as", note);
    for (const std::string& warning : info_.warnings) warn("assumed", warning, "");
    report_.serve = serve_text();
    return std::move(report_);
  }

 private:
  void fact(const std::string& name, const std::string& value) { report_.facts.emplace_back(name, value); }
  void ok(const std::string& topic, const std::string& text) {
    report_.findings.push_back({FindingLevel::kOk, topic, text, ""});
  }
  void warn(const std::string& topic, const std::string& text, const std::string& advice) {
    report_.findings.push_back({FindingLevel::kWarning, topic, text, advice});
  }
  void problem(const std::string& topic, const std::string& text, const std::string& advice) {
    report_.findings.push_back({FindingLevel::kProblem, topic, text, advice});
  }
  void corrupt(const std::string& topic, const std::string& text, const std::string& advice) {
    problem(topic, text, advice);
    report_.corrupt = true;
  }
  /// What PolicyRunner::load would refuse the folder for.
  void no_serving(const std::string& why) { obstacles_.push_back(why); }
  std::string serve_text() const {
    std::vector<std::string> reasons = obstacles_;
    if (report_.corrupt) reasons.insert(reasons.begin(), kDamaged);
    if (!reasons.empty()) return "cannot run: " + join(reasons, "; ");
    return info_.horizon_known ? "can run" : "can run with --horizon H";
  }

  void describe();
  void describe_files(const SafetensorsFolder& weights);
  void check_weights();
  void check_values(const SafetensorsFolder& weights);
  void check_manifest();
  void check_manifest_of_policy(const CorruptError& damage);
  void check_statistics();
  void check_tokenizer_and_prompt();
  void check_tokenizer(const Tokenizer& tokenizer);
  void show_prompt(const Tokenizer& tokenizer);
  void check_horizon();
  void check_student();

  CheckpointInfo info_;
  InspectReport report_;
  std::vector<std::string> obstacles_;
};

void Doctor::describe() {
  const PolicyConfig& config = info_.config;
  const PolicySpec& spec = info_.spec;
  const ParameterCount parameters = count_parameters(config);
  const auto gemma = [](const GemmaConfig& g) {
    return str(g.depth, " layers, width ", g.width, ", MLP ", g.mlp, ", ", g.heads, " heads x ", g.head_dim);
  };
  fact("folder", info_.folder.string());
  fact("format", std::string(format_text(info_.format)));
  fact("policy", str(enum_name(config.kind), info_.kept_layers.empty() ? "" : ", a student"));
  fact("vision tower",
       str(config.vision.depth, " layers, width ", config.vision.width, ", images of ",
           config.vision.image_size, " pixels, ", config.vision.tokens(), " tokens per camera"));
  fact("backbone", gemma(config.backbone));
  fact("action expert", gemma(config.expert));
  fact("vocabulary", str(config.vocab));
  fact("parameters", str(human_count(parameters.live), " live + ", human_count(parameters.dead), " dead"));
  fact("cameras", spec.image_keys.empty() ? "not named" : join(spec.image_keys, ", "));
  if (spec.image_keys.empty()) no_serving("no camera is named");
  fact("keys of an observation", join(client_keys(spec), ", "));
  fact("robot",
       str(enum_name(spec.robot.kind), ", ", spec.robot.state_dim, " state dims, ", spec.robot.action_dim,
           " action dims", spec.robot.delta_mask.empty() ? "" : ", delta actions"));
  fact("chunk", info_.horizon_known ? str(spec.horizon, " steps") : "not known");
  if (spec.control_hz > 0) fact("actions per second", str(spec.control_hz));
  if (spec.rtc_training_max_delay > 0)
    fact("real-time chunking", str("trained to be given up to ", spec.rtc_training_max_delay, " actions"));
  fact("normalisation", std::string(enum_name(spec.norm_mode)));
  if (spec.demo_image_size > 0) fact("images in its demonstrations", str(spec.demo_image_size, " pixels"));
  fact("image resize", std::string(enum_name(spec.resize_mode)));
  fact("prompt mode", str(enum_name(spec.prompt_mode), ", at most ", spec.max_token_len, " tokens"));
}

void Doctor::describe_files(const SafetensorsFolder& weights) {
  std::map<std::string, std::uint64_t> bytes;
  std::uint64_t total = 0;
  for (const auto& [name, tensor] : weights.tensors()) {
    bytes[c10::toString(tensor.dtype)] += tensor.end - tensor.begin;
    total += tensor.end - tensor.begin;
  }
  std::vector<std::string> parts;
  for (const auto& [dtype, count] : bytes) parts.push_back(str(dtype, " ", human_bytes(count)));
  fact("weights", str(human_bytes(total), " in ", weights.files().size(), " file(s): ", join(parts, ", ")));
}

void Doctor::check_weights() {
  const SafetensorsFolder weights(info_.folder);
  describe_files(weights);
  const auto names = canonical_names(weights);  // complete and well-shaped, or there would be no info_
  std::vector<std::string> left_out;
  for (const auto& [name, tensor] : expected_tensors(info_.config))
    if (names.count(name) == 0) left_out.push_back(name);
  ok("weights", str(names.size(), " tensors, none missing, with the right shapes"));
  if (!left_out.empty())
    ok("weights", str("left out, which no output depends on: ", join(shortened(left_out, kListed), ", ")));
  check_values(weights);
}

void Doctor::check_values(const SafetensorsFolder& weights) {
  std::vector<std::string> bad;
  for (const auto& [name, tensor] : weights.tensors()) {
    if (!c10::isFloatingType(tensor.dtype)) continue;
    for (const torch::Tensor& part : weights.read(name).flatten().split(std::int64_t{1} << 24)) {
      if (torch::isfinite(part).all().item<bool>()) continue;
      bad.push_back(name);
      break;
    }
  }
  if (bad.empty())
    ok("weights", "all values are finite");
  else
    corrupt("weights",
            str(bad.size(), " tensor(s) hold NaN or infinity: ", join(shortened(bad, kListed), ", ")),
            "the run diverged or the file is damaged: take an earlier checkpoint");
}

void Doctor::check_manifest() {
  const std::string intact = "every file has the recorded size and SHA-256";
  try {
    switch (verify_files(info_)) {
      case FilesState::kIntact:
        return ok("manifest", intact);
      case FilesState::kWithoutTrainingState:
        return ok("manifest", intact + "; without training_state/, so no training can go on from here");
      case FilesState::kNoManifest:
        if (info_.format != CheckpointFormat::kShallowPi) return;  // others need not have one
        return warn("manifest",
                    "there is no manifest.json, so it cannot be said whether the files are damaged",
                    "copy the folder again, unless you deleted it after editing a file");
    }
  } catch (const CorruptError& error) {
    check_manifest_of_policy(error);
  }
}

/// Something is damaged: does the policy need it?
void Doctor::check_manifest_of_policy(const CorruptError& damage) {
  try {
    verify_files(info_, OptionalFiles::kUnchecked);
    warn("manifest",
         "training_state/ is damaged, so no training can go on from here; the policy's own files are intact",
         "to go on with the training, copy training_state/ again");
  } catch (const CorruptError&) {
    corrupt("manifest", damage.what(), "");
  }
}

void Doctor::check_statistics() {
  const PolicySpec& spec = info_.spec;
  if (!info_.stats) no_serving("there are no normalisation statistics");
  if (!info_.asset_ids.empty()) return;  // a warning says how to choose
  if (!info_.stats) {
    warn("statistics", "there are no normalisation statistics",
         str("to use the policy, ", how_to_add_stats(info_),
             "; as a start of training (student.checkpoint) it needs none"));
    return;
  }
  try {
    check_stats(info_.stats->state, spec.norm_mode, spec.robot.state_dim, "state");
    check_stats(info_.stats->actions, spec.norm_mode, spec.robot.action_dim, "actions");
    ok("statistics", str("state ", info_.stats->state.width(), " dims, actions ",
                         info_.stats->actions.width(), " dims, usable for ", enum_name(spec.norm_mode)));
  } catch (const UsageError& error) {
    no_serving(error.what());
    problem("statistics", error.what(), "compute them anew on the data that the policy was trained on");
  }
  for (const std::string& sentence : stats_warnings(*info_.stats, spec.norm_mode))
    warn("statistics", sentence,
         "normalised values explode there: widen the range (data.min_norm_range) and retrain");
}

void Doctor::check_tokenizer_and_prompt() {
  std::filesystem::path path = info_.tokenizer;
  try {
    if (path.empty()) {
      path = find_tokenizer("", {});
      warn("tokenizer", str("the folder has none; ", path.string(), " will be used"),
           "copy it into the folder as tokenizer.model, so that the policy does not depend on this machine");
    }
    const Tokenizer tokenizer(path);
    check_tokenizer(tokenizer);
    show_prompt(tokenizer);
  } catch (const CorruptError& error) {
    no_serving("the tokenizer cannot be read");
    problem("tokenizer", error.what(), "replace it by the SentencePiece model of PaliGemma");
  } catch (const UsageError& error) {
    no_serving("there is no tokenizer");
    warn("tokenizer", "the folder has none, and no known cache either", error.what());
  }
}

void Doctor::check_tokenizer(const Tokenizer& tokenizer) {
  const std::string where = tokenizer.path().string();
  const bool is_paligemma = info_.config.vocab == PolicyConfig{}.vocab;
  const std::int64_t vocab = tokenizer.vocab_size();
  const std::vector<std::int64_t> newline = tokenizer.encode("\n");
  const std::string newline_text =
      str("'\\n' is ", newline.size() == 1 ? "piece " : "pieces ", join(newline, " "));
  if (vocab > info_.config.vocab) {
    no_serving("the tokenizer has more pieces than the embedding has rows");
    problem("tokenizer",
            str(where, " has ", vocab, " pieces, the embedding only ", info_.config.vocab, " rows"),
            "this is not the tokenizer that the policy was trained with");
  } else if (tokenizer.bos() != 2)
    problem("tokenizer", str(where, ": bos is ", tokenizer.bos(), ", PaliGemma's is 2"),
            "this is not a tokenizer of PaliGemma's conventions");
  else if (newline.size() != 1 || (is_paligemma && newline[0] != kPaligemmaNewline))
    problem(
        "tokenizer",
        str(where, ": ", newline_text,
            is_paligemma ? str(", PaliGemma's is ", kPaligemmaNewline) : "; it must be a piece of its own"),
        "fetch the tokenizer of google/paligemma-3b-pt-224");
  else
    ok("tokenizer", str(vocab, " pieces for ", info_.config.vocab, " embeddings, bos is 2, ", newline_text));
}

std::string how_to_set(const std::string& what) {
  return str("set ", what, " in shallowpi.json, then delete manifest.json, which no longer fits");
}

/// The text that encode_prompt tokenises, for people to compare with what they trained on.
std::string prompt_text(const PolicySpec& spec, const std::vector<float>& state) {
  std::string text = join(prompt_parts(spec, std::string(kExamplePrompt), state), "");
  for (std::size_t at; (at = text.find('\n')) != std::string::npos;) text.replace(at, 1, "\\n");
  return "<bos>" + text;
}

void Doctor::show_prompt(const Tokenizer& tokenizer) {
  const PolicySpec& spec = info_.spec;
  const std::vector<float> state(std::max<std::int64_t>(spec.robot.state_dim, 0), 0.0f);
  const auto ids = encode_prompt(tokenizer, spec, std::string(kExamplePrompt), state);
  fact("example prompt", prompt_text(spec, state));
  fact("its ids", str(join(ids, " "), " (", ids.size(), ")"));
  if (is_pi0_prompt(spec.prompt_mode) != (info_.config.kind == PolicyKind::kPi0))
    problem("prompt",
            str("a ", enum_name(info_.config.kind), " policy with prompt mode ", enum_name(spec.prompt_mode)),
            str("a wrong prompt mode makes a policy useless: ", how_to_set("prompt_mode")));
  else if (std::ssize(ids) > spec.max_token_len)
    problem("prompt", str("the example does not fit into ", spec.max_token_len, " tokens"),
            how_to_set("a larger max_token_len"));
  else
    ok("prompt", str("mode ", enum_name(spec.prompt_mode), "; the example takes ", ids.size(), " of ",
                     spec.max_token_len, " tokens"));
}

void Doctor::check_horizon() {
  if (info_.horizon_known)
    ok("horizon", str("chunks of ", info_.spec.horizon, " steps"));
  else
    warn("horizon", "the folder does not say how many steps a chunk has",
         str("give --horizon H (", kUsualHorizons, ")"));
}

void Doctor::check_student() {
  if (info_.kept_layers.empty()) return;
  fact("kept layers", join(info_.kept_layers, " "));
  fact("teacher", info_.teacher_fingerprint.empty() ? "not known" : info_.teacher_fingerprint);
  ok("student",
     str("keeps ", info_.kept_layers.size(), " of its teacher's layers: ", join(info_.kept_layers, " ")));
}

/// Advice of one or more lines, below the text of its finding.
std::string indented(const std::string& advice) {
  std::string out, lead = "-> ";
  for (const std::string& line : split(advice, '\n')) {
    out += str(std::string(22, ' '), lead, trim(line), "\n");
    lead = "   ";
  }
  return out;
}

}  // namespace

Json InspectReport::json() const {
  Json out;
  for (const auto& [name, value] : facts) out["facts"][name] = value;
  out["findings"] = Json::array();
  for (const Finding& finding : findings)
    out["findings"].push_back({{"level", std::string(enum_name(finding.level))},
                               {"topic", finding.topic},
                               {"text", finding.text},
                               {"advice", finding.advice}});
  out["facts"]["serve"] = serve;
  out["corrupt"] = corrupt;
  return out;
}

std::string InspectReport::text() const {
  std::size_t width = 0;
  for (const auto& [name, value] : facts) width = std::max(width, name.size());
  std::string out;
  for (const auto& [name, value] : facts)
    out += str(name, std::string(width + 2 - name.size(), ' '), value, "\n");
  out += "\n";
  std::map<FindingLevel, int> counts;
  for (const Finding& finding : findings) {
    ++counts[finding.level];
    const std::string level(enum_name(finding.level));
    out += str(level, std::string(9 - level.size(), ' '), finding.topic,
               std::string(std::max<std::size_t>(finding.topic.size(), 12) + 1 - finding.topic.size(), ' '),
               finding.text, "\n");
    if (!finding.advice.empty()) out += indented(finding.advice);
  }
  out += str("\n", counts[FindingLevel::kProblem], " problem(s), ", counts[FindingLevel::kWarning],
             " warning(s)\nserve: ", serve, "\n");
  return out;
}

InspectReport inspect_checkpoint(const std::filesystem::path& folder) {
  std::optional<CheckpointInfo> info;
  try {
    info = read_checkpoint_info(folder);
  } catch (const CorruptError& error) {
    InspectReport report;
    report.facts.emplace_back("folder", folder.string());
    report.findings.push_back({FindingLevel::kProblem, "checkpoint", error.what(),
                               "the folder is incomplete or damaged: copy or convert it again"});
    report.corrupt = true;
    report.serve = str("cannot run: ", kDamaged);
    return report;
  }
  return Doctor(std::move(*info)).examine();
}

int run_inspect(const InspectOptions& options) {
  const InspectReport report = inspect_checkpoint(options.folder);
  if (options.json)
    std::cout << report.json().dump(2) << "\n";
  else
    std::cout << report.text();
  return static_cast<int>(report.corrupt ? ExitCode::kCorrupt : ExitCode::kDone);
}

}  // namespace shallowpi
