// A tiny policy, a few made-up demonstrations and a configuration that trains on them in a second.
#pragma once

#include <fstream>

#include "data/hdf5_fixtures.h"
#include "distill/trainer.h"
#include "shallowpi/base/safetensors.h"
#include "shallowpi/distill/run.h"
#include "test_util.h"

namespace shallowpi::testing {

/// Demonstrations with a motion that can be learned, in a scratch folder where runs go, too.
class TrainingFixture {
 public:
  TrainingFixture() {
    torch::set_num_threads(1);
    write_demos("demos.hdf5");
  }

  /// Four demonstrations of twelve steps, which say their control rate where it is not 0.
  void write_demos(const std::string& name, int control_hz = 0) const {
    LiberoFixture libero;
    libero.control_hz = control_hz;
    libero.demos = 4;
    libero.steps = 12;
    libero.actions = [](int demo) {
      std::vector<double> values;
      for (int step = 0; step < 12; ++step)
        for (int dim = 0; dim < 7; ++dim) values.push_back(std::sin(0.5 * step + dim + 0.1 * demo));
      return values;
    };
    write_libero(dir_ / name, libero);
  }

  std::filesystem::path operator/(const std::string& name) const { return dir_ / name; }

  /// A run in folder `name`: a pi0.5 of 4 layers from scratch, unless `more` says otherwise. `more` wins.
  ResolvedConfig config(const std::string& name, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> all = {
        "output_dir=" + (dir_ / name).string(),
        "data.files=" + (dir_ / "demos.hdf5").string(),
        str("data.tokenizer=", SHALLOWPI_SOURCE_DIR, "/tests/data/tokenizer/small.model"),
        "data.held_out_fraction=0.25",
        "data.drop_noops=false",
        "data.min_norm_range=0.05",
        "optimizer.peak_lr=3e-3",
        "optimizer.end_lr=1e-4",
        "optimizer.warmup_steps=2",
        "optimizer.decay_steps=100",
        "optimizer.ema_decay=0.9",
        "train.steps=6",
        "train.batch_size=4",
        "train.log_every=2",
        "train.eval_every=3",
        "train.save_every=3",
        "train.keep_every=0",
        "seed=1",
        "threads=1"};
    bool from_scratch = true;
    for (const std::string& item : more)
      from_scratch &= !item.starts_with("teacher.checkpoint=") && !item.starts_with("student.checkpoint=");
    if (from_scratch)
      for (const char* item : kScratch) all.emplace_back(item);
    all.insert(all.end(), more.begin(), more.end());
    return load_distill_config({}, all);
  }

  /// The setting for other demonstrations, some of whose frames have an infinite loss.
  std::string extreme_demos() const {
    LiberoFixture libero;
    libero.demos = 4;
    libero.steps = 12;
    libero.actions = [](int demo) {
      std::vector<double> values(std::size_t{12} * 7, 0.5);
      if (demo < 2) values.back() = 1e30;  // one of the two at least is trained on
      return values;
    };
    write_libero(dir_ / "extreme.hdf5", libero);
    return "data.files=" + (dir_ / "extreme.hdf5").string();
  }

  int run(const std::string& name, const std::vector<std::string>& more = {},
          const std::string& resume = "auto") const {
    return run_distill(config(name, more), {.resume = resume, .quiet = true});
  }

  /// A trained 4-layer policy, as the teacher of a distillation.
  std::string teacher() const {
    if (!std::filesystem::exists(dir_ / "teacher"))
      run("teacher", {"train.steps=60", "train.save_every=60", "train.eval_every=60"});
    return (dir_ / "teacher" / "last").string();
  }

 private:
  static constexpr const char* kScratch[] = {"student.architecture.kind=pi05",
                                             "student.architecture.vocab=512",
                                             "student.architecture.vision.depth=1",
                                             "student.architecture.vision.width=32",
                                             "student.architecture.vision.mlp=32",
                                             "student.architecture.vision.heads=16",
                                             "student.architecture.vision.patch=8",
                                             "student.architecture.vision.image_size=16",
                                             "student.architecture.backbone.depth=4",
                                             "student.architecture.backbone.width=32",
                                             "student.architecture.backbone.mlp=32",
                                             "student.architecture.backbone.heads=8",
                                             "student.architecture.backbone.head_dim=8",
                                             "student.architecture.expert.depth=4",
                                             "student.architecture.expert.width=16",
                                             "student.architecture.expert.mlp=32",
                                             "student.architecture.expert.heads=8",
                                             "student.architecture.expert.head_dim=8",
                                             "policy.horizon=4",
                                             "policy.image_keys=[base_0_rgb, left_wrist_0_rgb]",
                                             "policy.prompt_mode=pi05_no_state",
                                             "policy.norm_mode=quantile",
                                             "policy.max_token_len=32"};
  TempDir dir_;
};

/// The lines of a metrics.jsonl that have `key`.
inline std::vector<Json> metric_lines(const std::filesystem::path& run, const std::string& key) {
  std::ifstream file(run / "metrics.jsonl");
  std::vector<Json> lines;
  for (std::string line; std::getline(file, line);)
    if (Json json = Json::parse(line); json.contains(key)) lines.push_back(std::move(json));
  return lines;
}

/// Every file of two checkpoints has the same bytes.
inline void expect_same_folder(const std::filesystem::path& a, const std::filesystem::path& b) {
  namespace fs = std::filesystem;
  std::size_t files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(fs::canonical(a))) {
    if (!entry.is_regular_file()) continue;
    const fs::path name = entry.path().lexically_relative(fs::canonical(a));
    ASSERT_TRUE(fs::exists(b / name)) << name;
    EXPECT_EQ(read_file(entry.path()), read_file(b / name)) << name;
    ++files;
  }
  EXPECT_GT(files, 3u);
}

}  // namespace shallowpi::testing
