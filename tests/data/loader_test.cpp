#include "shallowpi/data/loader.h"

#include <cmath>
#include <map>
#include <set>

#include "data/fake_episodes.h"
#include "data/sampling.h"
#include "test_util.h"

namespace shallowpi::testing {
namespace {

// A dataset, its pipeline and loaders over all of its samples.
class LoaderTest : public ::testing::Test {
 protected:
  void open(const std::vector<FakeOptions>& files = {{}}, const std::vector<double>& weights = {}) {
    dataset_ = std::make_unique<Dataset>(fake_dataset(files, weights));
    pipeline_ = std::make_shared<const SamplePipeline>(
        *dataset_, fake_spec(), identity_stats(), std::make_shared<const Tokenizer>(small_tokenizer()), 512);
    samples_ = dataset_->split(0.0, 0).train;
  }
  std::unique_ptr<Loader> loader(LoaderOptions options, std::int64_t start = 0) {
    return std::make_unique<Loader>(pipeline_, *dataset_, samples_, options, start);
  }

  std::unique_ptr<Dataset> dataset_;
  std::shared_ptr<const SamplePipeline> pipeline_;
  std::vector<Dataset::Sample> samples_;
};

bool equal(const TrainingBatch& a, const TrainingBatch& b) {
  for (std::size_t i = 0; i < a.observation.images_bcyx.size(); ++i)
    if (!a.observation.images_bcyx[i].equal(b.observation.images_bcyx[i])) return false;
  return a.actions_bhd.equal(b.actions_bhd) && a.observation.state_bd.equal(b.observation.state_bd) &&
         a.observation.tokens_bt.equal(b.observation.tokens_bt);
}

// The fake state's first dim names episode and step.
std::vector<float> identities(const TrainingBatch& batch) {
  const torch::Tensor first = batch.observation.state_bd.select(1, 0).contiguous();
  return {first.data_ptr<float>(), first.data_ptr<float>() + first.numel()};
}

TEST_F(LoaderTest, BatchesDoNotDependOnTheNumberOfWorkers) {
  open();
  const auto reference = loader({.batch_size = 5, .workers = 0, .seed = 9});
  const auto one = loader({.batch_size = 5, .workers = 1, .prefetch = 1, .seed = 9});
  const auto four = loader({.batch_size = 5, .workers = 4, .prefetch = 2, .seed = 9});
  const auto other = loader({.batch_size = 5, .workers = 0, .seed = 10});
  int same_as_other_seed = 0;
  for (int n = 0; n < 25; ++n) {
    const TrainingBatch expected = reference->next();
    EXPECT_TRUE(equal(expected, one->next())) << n;
    EXPECT_TRUE(equal(expected, four->next())) << n;
    same_as_other_seed += equal(expected, other->next());
  }
  EXPECT_LT(same_as_other_seed, 3);
}

TEST_F(LoaderTest, ResumesInTheMiddleOfAnEpoch) {
  open();
  const auto whole =
      loader({.batch_size = 5, .workers = 2});  // 12 samples: batch 3 begins within the second epoch
  std::vector<TrainingBatch> batches;
  for (int n = 0; n < 8; ++n) batches.push_back(whole->next());
  for (int start : {1, 3, 7}) {
    const auto resumed = loader({.batch_size = 5, .workers = 2}, start);
    for (int n = start; n < 8; ++n) EXPECT_TRUE(equal(resumed->next(), batches[n])) << start << " " << n;
  }
}

TEST_F(LoaderTest, EverySampleOncePerEpochInANewOrder) {
  open();
  const auto loader = this->loader({.batch_size = 4, .workers = 2, .augmentation = {}});
  std::set<std::vector<float>> orders;
  for (int epoch = 0; epoch < 5; ++epoch) {
    std::vector<float> order;
    for (int n = 0; n < 3; ++n)
      for (float identity : identities(loader->next())) order.push_back(identity);
    EXPECT_EQ(std::set<float>(order.begin(), order.end()).size(), 12u);
    orders.insert(order);
  }
  EXPECT_EQ(orders.size(), 5u);
}

TEST_F(LoaderTest, BatchesMayBeLargerThanTheDataset) {
  open({{.lengths = {3}}});
  const std::vector<float> all = identities(loader({.batch_size = 9, .workers = 1})->next());
  std::map<float, int> counts;
  for (float identity : all) ++counts[identity];
  EXPECT_EQ(counts.size(), 3u);
  for (const auto& [identity, count] : counts) EXPECT_EQ(count, 3) << identity;
}

TEST_F(LoaderTest, AugmentsEveryBatchAnew) {
  open({{.lengths = {1}}});
  const auto wrist_image = [](Loader& loader) { return loader.next().observation.images_bcyx[1]; };
  const auto augmented = loader({.batch_size = 1, .workers = 1});
  EXPECT_FALSE(wrist_image(*augmented).equal(wrist_image(*augmented)));
  const auto plain = loader({.batch_size = 1, .workers = 1, .augmentation = {}});
  EXPECT_TRUE(wrist_image(*plain).equal(wrist_image(*plain)));
}

TEST_F(LoaderTest, RethrowsWhatAWorkerThrew) {
  open({{.lengths = {6}, .fails_at_step = 3}});
  for (int workers : {0, 1, 3}) {
    const auto loader = this->loader({.batch_size = 1, .workers = workers});
    int failed = 0, made = 0;
    for (int n = 0; n < 12; ++n) try {
        loader->next();
        ++made;
      } catch (const CorruptError& error) {
        EXPECT_NE(std::string(error.what()).find("step 3 is broken"), std::string::npos);
        ++failed;
      }
    EXPECT_EQ(failed, 2) << workers;  // once per epoch
    EXPECT_EQ(made, 10) << workers;
  }
}

TEST_F(LoaderTest, ShutsDownWhileWorkersAreBusy) {
  open({{.delay = std::chrono::milliseconds(5)}});
  for (int round = 0; round < 5; ++round) {
    const auto start = std::chrono::steady_clock::now();
    auto loader = this->loader({.batch_size = 4, .workers = 4, .prefetch = 8});
    if (round % 2 == 1) loader->next();
    loader.reset();
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  }
}

TEST_F(LoaderTest, CountsTheTimeSpentWaiting) {
  open({{.delay = std::chrono::milliseconds(10)}});
  for (int workers : {0, 1}) {
    const auto loader = this->loader({.batch_size = 3, .workers = workers});
    EXPECT_EQ(loader->wait_seconds(), 0.0);
    loader->next();
    EXPECT_GE(loader->wait_seconds(), 0.02) << workers;
    EXPECT_LT(loader->wait_seconds(), 5.0) << workers;
  }
}

TEST_F(LoaderTest, RefusesBadOptions) {
  open();
  expect_error<UsageError>([&] { loader({.batch_size = 0}); }, "batch size 0");
  expect_error<UsageError>([&] { loader({.workers = -1}); }, "data.workers is -1");
  expect_error<UsageError>([&] { loader({.workers = 1025}); }, "data.workers is 1025");
  expect_error<UsageError>([&] { loader({.prefetch = 0}); }, "data.prefetch 0");
  expect_error<UsageError>([&] { loader({}, -1); }, "start batch -1");
  samples_.clear();
  expect_error<UsageError>([&] { loader({}); }, "no samples");
}

TEST(Permuted, IsAPermutationOfEverySize) {
  for (std::uint64_t size = 1; size < 300; ++size) {
    std::set<std::uint64_t> seen;
    for (std::uint64_t i = 0; i < size; ++i) seen.insert(permuted(i, size, size * 31));
    ASSERT_EQ(seen.size(), size);
    ASSERT_LT(*seen.rbegin(), size);
  }
}

// Every element comes to every place equally often: chi-square over 20 x 20 cells, 361 degrees of freedom.
TEST(Permuted, IsUniform) {
  constexpr int kSize = 20, kSeeds = 20000;
  std::vector<double> counts(kSize * kSize);
  for (int seed = 0; seed < kSeeds; ++seed)
    for (int i = 0; i < kSize; ++i) ++counts[i * kSize + permuted(i, kSize, seed)];
  const double expected = static_cast<double>(kSeeds) / kSize;
  double chi_square = 0.0;
  for (double count : counts) chi_square += (count - expected) * (count - expected) / expected;
  EXPECT_GT(chi_square, 361 - 5 * std::sqrt(2 * 361.0));
  EXPECT_LT(chi_square, 361 + 5 * std::sqrt(2 * 361.0));
}

TEST(SampleOrder, DrawsByWeight) {
  // 10 samples of weight 1, 30 of weight 3: the second file gets 90 %, evenly over its samples.
  const Dataset dataset = fake_dataset({{.lengths = {10}}, {.lengths = {10, 20}}}, {1.0, 3.0});
  const SampleOrder order(dataset, dataset.split(0.0, 0).train, 5);
  constexpr int kDraws = 40000;
  std::map<std::tuple<int, int, int>, int> counts;
  int second = 0;
  for (int position = 0; position < kDraws; ++position) {
    const Dataset::Sample& sample = order.at(position);
    ++counts[{sample.source, sample.episode, sample.step}];
    second += sample.source == 1;
  }
  EXPECT_NEAR(second / static_cast<double>(kDraws), 0.9, 5 * std::sqrt(0.9 * 0.1 / kDraws));
  EXPECT_EQ(counts.size(), 40u);
  for (const auto& [sample, count] : counts) {
    const double p = (std::get<0>(sample) == 0 ? 1.0 : 3.0) / 100.0;
    EXPECT_NEAR(count, kDraws * p, 5 * std::sqrt(kDraws * p));
  }
}

}  // namespace
}  // namespace shallowpi::testing
