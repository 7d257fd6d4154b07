// Thousands of seeded mutations of good files: the readers may refuse them, but only with an error of ours.
#include <functional>
#include <random>

#include "base/safetensors_bytes.h"
#include "shallowpi/base/json.h"
#include "shallowpi/base/manifest.h"
#include "shallowpi/base/norm_stats.h"
#include "shallowpi/base/safetensors.h"
#include "test_util.h"

namespace shallowpi {
namespace {

using testing::TempDir;
using testing::write_text;

/// Pieces that break parsers: numbers at the edges, structure, wrong types, control characters.
const std::vector<std::string>& tokens() {
  static const std::vector<std::string> list = {"0",
                                                "-1",
                                                "1e3",
                                                "1e999",
                                                "18446744073709551615",
                                                "18446744073709551616",
                                                "9223372036854775808",
                                                "4294967296",
                                                "[",
                                                "]",
                                                "{",
                                                "}",
                                                ",",
                                                ":",
                                                "\"",
                                                "\\",
                                                "null",
                                                "true",
                                                "NaN",
                                                "\"F32\"",
                                                "\"F4\"",
                                                "\"dtype\":",
                                                "\"shape\":[",
                                                "\"data_offsets\":[0,",
                                                "\"__metadata__\":",
                                                "\\u0000",
                                                "\\ud800",
                                                std::string(1, '\0'),
                                                "\xff",
                                                "\xEF\xBB\xBF",
                                                std::string(70, '['),
                                                "\"mean\":[",
                                                "\"q01\":null",
                                                "  "};
  return list;
}

class Mutator {
 public:
  explicit Mutator(std::uint64_t seed) : random_(seed) {}

  std::size_t below(std::size_t limit) { return limit == 0 ? 0 : random_() % limit; }

  /// `text` after one to four edits: bits, cuts, repeats, tokens, and digits, which keep the structure.
  std::string mutate(std::string text) {
    for (std::size_t edits = 1 + below(4); edits > 0; --edits) edit(text);
    return text;
  }

 private:
  void edit(std::string& text) {
    const std::size_t at = below(text.size()),
                      length = below(std::min<std::size_t>(text.size() - at, 40) + 1);
    switch (below(6)) {
      case 0:
        if (!text.empty()) text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
        break;
      case 1:
        text.erase(at, length);
        break;
      case 2:
        text.insert(at, text.substr(below(text.size()), length));
        break;
      case 3:
        text.insert(at, tokens()[below(tokens().size())]);
        break;
      case 4:
        text.replace(at, length, tokens()[below(tokens().size())]);
        break;
      default:
        change_number(text, at);
    }
  }
  /// The next number after `at` becomes another one.
  void change_number(std::string& text, std::size_t at) {
    const std::size_t begin = text.find_first_of("0123456789", at);
    if (begin == std::string::npos) return;
    const std::size_t end = std::min(text.find_first_not_of("0123456789", begin), text.size());
    const std::string values[] = {str(below(20)), "0",   str(std::uint64_t{random_()}),
                                  "-1",           "2.0", "9223372036854775807"};
    text.replace(begin, end - begin, values[below(std::size(values))]);
  }
  std::mt19937_64 random_;
};

/// Runs `read` on mutations of `good` and returns how many were refused.
int survive(const std::string& good, int count, std::uint64_t seed,
            const std::function<void(const std::string&)>& read) {
  Mutator mutator(seed);
  int refused = 0;
  for (int i = 0; i < count; ++i) {
    const std::string bad = mutator.mutate(good);
    try {
      read(bad);
    } catch (const Error& error) {
      ++refused;
      EXPECT_NE(error.what()[0], '\0');
    } catch (const std::exception& error) {
      ADD_FAILURE() << "mutation " << i << " of seed " << seed << ": not one of our errors: " << error.what()
                    << "\n"
                    << bad;
    }
  }
  return refused;
}

constexpr const char* kStats =
    R"({"norm_stats": {"state": {"mean": [0.5, 1], "std": [1, 2], "q01": [0, 0], "q99": [1, 3]},
 "actions": {"mean": [1e-3], "std": [0], "q01": null, "q99": null}}})";

TEST(Mutations, OfJsonGiveOnlyOurErrors) {
  EXPECT_NO_THROW(parse_json(kStats, "x"));
  const int refused = survive(kStats, 5000, 1, [](const std::string& text) {
    parse_json(text, "mutated").dump();  // throws where a string is not UTF-8
  });
  EXPECT_GT(refused, 2500);
  EXPECT_LT(refused, 5000);
}

TEST(Mutations, OfStatisticsGiveOnlyOurErrors) {
  const TempDir folder;
  const int refused = survive(kStats, 2000, 2, [&](const std::string& text) {
    write_text(folder / "norm_stats.json", text);
    norm_stats_json(read_norm_stats(folder / "norm_stats.json"));
  });
  EXPECT_GT(refused, 1000);
}

TEST(Mutations, OfSafetensorsHeadersGiveOnlyOurErrors) {
  const TempDir folder;
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("b":{"dtype":"BOOL","shape":[],"data_offsets":[24,25]},"c":{"dtype":"BF16","shape":[0],"data_offsets":[25,25]}})";
  const int refused = survive(header, 5000, 3, [&](const std::string& text) {
    write_text(folder / "x", testing::safetensors_bytes(text, std::string(25, '\3')));
    load_safetensors(folder / "x");
  });
  EXPECT_GT(refused, 4000);
  EXPECT_LT(refused, 5000);
}

TEST(Mutations, OfWholeFilesGiveOnlyOurErrors) {
  const TempDir folder;
  write_safetensors(folder / "good", {{"a", torch::arange(6)}, {"b", torch::ones({2}, torch::kBFloat16)}});
  const int refused = survive(read_file(folder / "good"), 2000, 4, [&](const std::string& bytes) {
    write_text(folder / "x", bytes);
    load_safetensors(folder / "x");
  });
  EXPECT_GT(refused, 1000);
}

TEST(Mutations, OfShardIndexesGiveOnlyOurErrors) {
  const TempDir folder;
  write_safetensors(folder / "s1", {{"a", torch::arange(6)}});
  write_safetensors(folder / "s2", {{"b", torch::arange(6)}});
  const int refused = survive(R"({"metadata":{"total_size":96},"weight_map":{"a":"s1","b":"s2"}})", 2000, 5,
                              [&](const std::string& text) {
                                write_text(folder / "model.safetensors.index.json", text);
                                SafetensorsFolder weights(folder.path());
                                weights.read("a");
                              });
  EXPECT_GT(refused, 1000);
}

TEST(Mutations, OfManifestsGiveOnlyOurErrors) {
  const TempDir folder;
  publish_folder(folder / "out", [](const std::filesystem::path& to) { write_text(to / "a", "alpha"); });
  const int refused = survive(read_file(folder / "out/manifest.json"), 2000, 6, [&](const std::string& text) {
    write_text(folder / "out/manifest.json", text);
    verify_manifest(folder / "out");
  });
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace shallowpi
