// Full-size policies on this machine: writes a bf16 file of random weights tensor by tensor, loads it,
// samples one action chunk, and initialises a 6-layer student; reports times and peak memory.
//   usage: full_size_check pi0|pi05 SCRATCH_DIR [MAX_GIB]      (SCRATCH_DIR needs 8 GB for the teacher, 5 for
//   the student)
// The stages run as processes of their own, so that each has its own peak. Exit code 1 where one exceeds
// MAX_GIB (24).
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <functional>
#include <iostream>

#include "model/checkpoint_internal.h"
#include "model/tensor_names.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"
#include "shallowpi/model/layer_map.h"

namespace shallowpi {
namespace {

namespace fs = std::filesystem;
constexpr std::int64_t kHorizon = 50, kPromptTokens = 64, kCameras = 2, kStudentLayers = 6;

void write_teacher(PolicyKind kind, const fs::path& folder) {
  fs::create_directories(folder);
  PolicyConfig config;
  config.kind = kind;
  TensorPlan plan;
  for (const auto& [name, tensor] : expected_tensors(config)) {
    const auto shape = tensor.shape;
    const double scale = shape.size() > 1 ? 1 / std::sqrt(static_cast<double>(shape[1])) : 0.02;
    // uniform_ in place: bf16 normal_ would be several times slower for the same purpose
    plan[name == names::kEmbedTokens ? names::kTiedHead : name] = {
        torch::kBFloat16, shape,
        [shape, scale] { return torch::empty(shape, torch::kBFloat16).uniform_(-scale, scale); }};
  }
  write_safetensors(folder / SafetensorsFolder::kFile, plan, checkpoint::tied_metadata());
}

void load_and_sample(const fs::path& folder) {
  const torch::NoGradGuard no_grad;
  Policy policy = load_policy(read_checkpoint_info(folder, kHorizon), torch::kBFloat16);
  const std::int64_t side = policy->config().vision.image_size;
  Observation observation;
  for (std::int64_t i = 0; i < kCameras; ++i) {
    observation.images_bcyx.push_back(torch::rand({1, 3, side, side}) * 2 - 1);
    observation.image_masks_b.push_back(torch::ones({1}, torch::kBool));
  }
  observation.tokens_bt = torch::randint(3, 1000, {1, kPromptTokens}, torch::kInt64);
  observation.token_mask_bt = torch::ones({1, kPromptTokens}, torch::kBool);
  observation.state_bd = torch::zeros({1, policy->config().action_dim});
  const torch::Tensor noise = torch::randn({1, kHorizon, policy->config().action_dim});
  const torch::Tensor actions = policy->sample_actions(observation, noise);
  if (!actions.isfinite().all().item<bool>()) throw Error("the sampled actions are not finite");
}

void make_student(const fs::path& teacher, const fs::path& out) {
  const CheckpointInfo info = read_checkpoint_info(teacher, kHorizon);
  init_student(info, layer_map(LayerMapRule::kUniform, kStudentLayers, info.config.depth()), out);
  const Policy student = load_policy(read_checkpoint_info(out), torch::kBFloat16);
  if (student->config().depth() != kStudentLayers) throw Error("the student has another depth");
}

/// Removes what the stages wrote, also where one fails.
struct Scratch {
  fs::path folder;
  ~Scratch() {
    std::error_code ignored;
    fs::remove_all(folder, ignored);
  }
};

/// Runs `work` in a process of its own and prints what it took; returns its peak memory in GiB.
double stage(const std::string& name, const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  const pid_t child = ::fork();
  if (child < 0) throw Error("cannot start another process");
  if (child == 0) {
    try {
      work();
    } catch (const std::exception& error) {
      std::cerr << error.what() << std::endl;
      ::_exit(1);
    }
    ::_exit(0);
  }
  int status = 0;
  rusage usage{};
  if (::wait4(child, &status, 0, &usage) != child || status != 0) throw Error(str(name, " failed"));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const double gib = static_cast<double>(usage.ru_maxrss) / (1 << 20);
  std::cout << "| " << name << " | " << fixed(seconds, 1) << " | " << fixed(gib, 2) << " |" << std::endl;
  return gib;
}

int check(PolicyKind kind, const fs::path& folder, double max_gib) {
  const Scratch scratch{folder / str("full_size_", enum_name(kind))};
  const fs::path teacher = scratch.folder / "teacher", student = scratch.folder / "student";
  std::cout << "| " << enum_name(kind) << " | seconds | peak GiB |\n|---|---|---|" << std::endl;
  double peak = stage("write random weights (bf16)", [&] { write_teacher(kind, teacher); });
  peak =
      std::max(peak, stage("load and sample one chunk (bf16, 10 steps)", [&] { load_and_sample(teacher); }));
  peak =
      std::max(peak, stage("initialise and load a 6-layer student", [&] { make_student(teacher, student); }));
  if (peak <= max_gib) return 0;
  std::cerr << "peak memory " << peak << " GiB exceeds " << max_gib << std::endl;
  return 1;
}

}  // namespace
}  // namespace shallowpi

int main(int argc, char** argv) {
  using namespace shallowpi;
  try {
    if (argc < 3) throw UsageError("usage: full_size_check pi0|pi05 SCRATCH_DIR [MAX_GIB]");
    return check(parse_enum<PolicyKind>(argv[1], "the model"), argv[2], argc > 3 ? std::stod(argv[3]) : 24.0);
  } catch (const Error& error) {
    std::cerr << error.what() << std::endl;
    return static_cast<int>(error.code());
  }
}
