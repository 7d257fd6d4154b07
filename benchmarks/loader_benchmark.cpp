// How fast batches are made from demonstration files, by one thread, everything included: reading, inflating,
// turning and resizing frames, normalisation, prompts. Prints one JSON object; loader_vs_python.py compares
// it with h5py + Pillow.
//   loader_benchmark FILE... --tokenizer MODEL [--size 224] [--batch 32] [--batches 20] [--augment]
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <ctime>
#include <iostream>

#include "shallowpi/base/error.h"
#include "shallowpi/base/json.h"
#include "shallowpi/data/loader.h"
#include "shallowpi/data/stats.h"

using namespace shallowpi;

namespace {

struct Options {
  std::vector<std::string> files;
  std::string tokenizer;
  std::int64_t size = 224, batch = 32, batches = 20;
  bool augment = false;
};

double cpu_seconds() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

Json measure(const Options& options) {
  const Dataset dataset = open_dataset({options.files.begin(), options.files.end()}, DataFormat::kAuto);
  const std::vector<Dataset::Sample> samples = dataset.split(0.0, 0).train;
  PolicySpec spec;
  spec.horizon = 10;
  spec.image_size = options.size;
  spec.image_keys = dataset.camera_names();
  spec.prompt_mode = PromptMode::kPi0Plain;
  spec.robot = {.kind = RobotKind::kJoints,
                .state_dim = dataset.state_dim(),
                .action_dim = dataset.action_dim(),
                .delta_mask = {}};
  const auto tokenizer = std::make_shared<const Tokenizer>(options.tokenizer);
  const NormStats stats = compute_norm_stats(dataset, samples, spec, /*min_range=*/1e-3);
  const auto pipeline =
      std::make_shared<const SamplePipeline>(dataset, spec, stats, tokenizer, tokenizer->vocab_size());
  LoaderOptions loading{.batch_size = options.batch, .workers = 0};
  if (!options.augment) loading.augmentation.reset();
  Loader loader(pipeline, dataset, samples, loading);
  loader.next();  // opens what is opened lazily
  const auto start = std::chrono::steady_clock::now();
  const double cpu_start = cpu_seconds();
  double checksum = 0;
  for (std::int64_t i = 0; i < options.batches; ++i) {
    checksum += loader.next().observation.images_bcyx.front().flatten()[0].item<double>();
  }
  const double cpu = cpu_seconds() - cpu_start;
  const double wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const auto frames =
      static_cast<double>(options.batches * options.batch) * static_cast<double>(spec.image_keys.size());
  return {{"frames", frames},
          {"frames_per_cpu_second", frames / cpu},
          {"frames_per_second", frames / wall},
          {"checksum", checksum}};
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Measures how fast batches are made from demonstration files");
  app.add_option("files", options.files, "HDF5 files")->required();
  app.add_option("--tokenizer", options.tokenizer, "SentencePiece model")->required();
  app.add_option("--size", options.size, "side of the network's images");
  app.add_option("--batch", options.batch, "samples per batch");
  app.add_option("--batches", options.batches, "batches to make");
  app.add_flag("--augment", options.augment, "with openpi's augmentations");
  CLI11_PARSE(app, argc, argv);
  try {
    torch::set_num_threads(1);
    std::cout << measure(options).dump() << '\n';
    return 0;
  } catch (const Error& error) {
    std::cerr << "error: " << error.what() << '\n';
    return static_cast<int>(error.code());
  }
}
