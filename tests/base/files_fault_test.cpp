// Every call that writes fails once, in turn: what was there before must still be there, and nothing else.
#include <functional>

#include "base/fault_inject.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/manifest.h"
#include "shallowpi/base/safetensors.h"
#include "test_util.h"

namespace shallowpi {
namespace {

namespace fs = std::filesystem;
using testing::TempDir;

/// All files below a folder with the hashes of their contents.
std::map<std::string, std::string> snapshot(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    files[entry.path().lexically_relative(folder)] = entry.is_directory() ? "/" : sha256_file(entry.path());
  return files;
}

/// Something that is written, as it was before and as it is meant to be after.
struct Operation {
  const char* name;
  std::function<void(const fs::path&folder)> before, write;
};

void fill(const fs::path& to, int version) {
  write_safetensors(to / "model.safetensors", {{"a", torch::full({1000}, version)}, {"b", torch::ones({3})}});
  fs::create_directory(to / "assets");
  write_file_atomically(to / "assets/norm_stats.json", str("{\"version\": ", version, "}"));
}

const Operation kOperations[] = {
    {"new file", [](const fs::path&) {}, [](const fs::path& f) { write_file_atomically(f / "x", "new"); }},
    {"old file", [](const fs::path& f) { write_file_atomically(f / "x", "old"); },
     [](const fs::path& f) { write_file_atomically(f / "x", "new"); }},
    {"safetensors",
     [](const fs::path& f) {
       save_safetensors(f / "x", {{"a", torch::zeros({5})}});
     },
     [](const fs::path& f) {
       save_safetensors(f / "x", {{"a", torch::ones({70})}});
     }},
    {"new folder", [](const fs::path&) {},
     [](const fs::path& f) { publish_folder(f / "x", [](const fs::path& to) { fill(to, 2); }); }},
    {"old folder",
     [](const fs::path& f) { publish_folder(f / "x", [](const fs::path& to) { fill(to, 1); }); },
     [](const fs::path& f) {
       publish_folder(
           f / "x", [](const fs::path& to) { fill(to, 2); }, true);
     }},
};

class Faults : public ::testing::TestWithParam<std::tuple<int, const char*>> {
 protected:
  const Operation& operation() const { return kOperations[std::get<0>(GetParam())]; }
  std::string fault() const { return std::get<1>(GetParam()); }
  /// Does the operation have to succeed in spite of the fault?
  bool is_harmless() const { return fault() == "EINTR" || fault() == "SHORT"; }

  /// Runs the operation with the fault at call `number`; false where it has fewer calls.
  bool run(long number, const std::map<std::string, std::string>& done) {
    const TempDir folder;
    testing::arm_fault("EIO:0", folder.path().c_str());
    operation().before(folder.path());
    const auto before = snapshot(folder.path());
    const auto colon = fault().find(':');  // "ENOSPC:sticky" becomes "ENOSPC:12:sticky"
    const std::string spec =
        str(fault().substr(0, colon), ":", number, colon == std::string::npos ? "" : ":sticky");
    std::string message;
    testing::arm_fault(spec.c_str(), folder.path().c_str());
    try {
      operation().write(folder.path());
    } catch (const Error& error) {
      message = error.what();
    }
    const bool struck = testing::disarm_fault();
    const std::string where = str(operation().name, ", ", spec, ": ", message);
    if (is_harmless() || !struck) {
      EXPECT_EQ(message, "") << where;
      EXPECT_EQ(snapshot(folder.path()), done) << where;
    } else {
      EXPECT_NE(message.find(folder.path().string()), std::string::npos) << where;
      EXPECT_EQ(snapshot(folder.path()), before) << where;
    }
    return struck;
  }
};

TEST_P(Faults, LeaveTheOldContent) {
  const TempDir folder;
  operation().before(folder.path());
  operation().write(folder.path());
  const auto done = snapshot(folder.path());
  constexpr long kMaxCalls = 300;
  long number = 1, misses = 0, strikes = 0;
  // Harmless faults do not apply to every call, so a few misses do not mean the end.
  for (; number < kMaxCalls && misses < 12; ++number) run(number, done) ? (misses = 0, ++strikes) : ++misses;
  EXPECT_LT(number, kMaxCalls);
  EXPECT_GE(strikes, fault() == "SHORT" ? 1 : 4);
}

INSTANTIATE_TEST_SUITE_P(Files, Faults,
                         ::testing::Combine(::testing::Range(0, static_cast<int>(std::size(kOperations))),
                                            ::testing::Values("ENOSPC", "ENOSPC:sticky", "EIO", "EDQUOT",
                                                              "EROFS", "EMFILE", "EINTR", "SHORT")));

}  // namespace
}  // namespace shallowpi
