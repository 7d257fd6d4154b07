// Helpers for all tests: scratch folders, comparison of tensors, expected errors.
#pragma once

#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>
#include <type_traits>

#include "shallowpi/base/error.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/text.h"

namespace shallowpi::testing {

/// A fresh folder that is removed with the object.
class TempDir {
 public:
  TempDir() {
    static std::atomic<int> counter{0};
    path_ = std::filesystem::temp_directory_path() / str("shallowpi-test-", ::getpid(), "-", counter++);
    std::filesystem::create_directories(path_);
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// A file of tests/data.
inline std::filesystem::path test_data(const std::string& name) {
  return std::filesystem::path(SHALLOWPI_TEST_DATA) / name;
}

/// Plain writing of a file, its parents included.
inline void write_text(const std::filesystem::path& path, std::string_view bytes) {
  std::filesystem::create_directories(path.parent_path());
  // ext4 flushes a file that is truncated and written again, which would make tests of many files slow.
  std::error_code ignored;
  std::filesystem::remove(path, ignored);
  std::ofstream out(path, std::ios::binary);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  ASSERT_TRUE(out.good()) << path;
}

/// Equal shape, and |got - expected| <= atol + rtol |expected| everywhere (NaN equals NaN). Dtypes may
/// differ. Says where and by how much it failed: EXPECT_TRUE(tensor_near(got, expected, 1e-5)).
inline ::testing::AssertionResult tensor_near(const torch::Tensor& got, const torch::Tensor& expected,
                                              double atol, double rtol = 0) {
  if (!got.defined() || !expected.defined()) return ::testing::AssertionFailure() << "a tensor is undefined";
  if (got.sizes() != expected.sizes())
    return ::testing::AssertionFailure() << "shape " << got.sizes() << " instead of " << expected.sizes();
  const auto wide = [](const torch::Tensor& t) {
    return t.detach().to(torch::kCPU, torch::kFloat64).reshape(-1);
  };
  const torch::Tensor g = wide(got), e = wide(expected);
  const torch::Tensor bad = torch::isclose(g, e, rtol, atol, /*equal_nan=*/true).logical_not();
  const auto count = bad.sum().item<std::int64_t>();
  if (count == 0) return ::testing::AssertionSuccess();
  const torch::Tensor gap = (g - e).abs();
  const auto first = bad.nonzero()[0][0].item<std::int64_t>();
  return ::testing::AssertionFailure()
         << count << " of " << g.numel() << " elements differ; first at flat index " << first << ": "
         << g[first].item<double>() << " instead of " << e[first].item<double>() << "; largest gap "
         << gap.nan_to_num(INFINITY).max().item<double>() << " (largest value "
         << e.abs().max().item<double>() << ")";
}

/// As tensor_near, as a non-fatal failure.
inline void expect_tensor_near(const torch::Tensor& got, const torch::Tensor& expected, double atol,
                               double rtol = 0, const std::string& name = "") {
  EXPECT_TRUE(tensor_near(got, expected, atol, rtol)) << name;
}

/// `function` must throw exactly an E, whose message holds every one of `substrings`.
template <typename E, typename... Substrings>
void expect_error(const std::function<void()>& function, const Substrings&... substrings) {
  try {
    function();
  } catch (const E& error) {
    EXPECT_EQ(typeid(error), typeid(E)) << error.what();
    const std::string message = error.what();
    for (const std::string& part : std::initializer_list<std::string>{substrings...})
      EXPECT_NE(message.find(part), std::string::npos) << "no \"" << part << "\" in: " << message;
    return;
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another exception: " << error.what();
    return;
  }
  ADD_FAILURE() << "no exception";
}

}  // namespace shallowpi::testing
