#include "fuzz.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>

namespace shallowpi::fuzz {
namespace fs = std::filesystem;
namespace {

struct Folder {
  Folder() {
    std::string name = (fs::temp_directory_path() / "shallowpi-fuzz-XXXXXX").string();
    require(::mkdtemp(name.data()) != nullptr, "a temporary folder can be made");
    path = name;
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  fs::path path;
};

}  // namespace

void require(bool holds, const char* promise) {
  if (holds) return;
  std::fprintf(stderr, "broken promise: %s\n", promise);
  std::abort();
}

fs::path input_file(std::string_view bytes, const std::string& name) {
  static const Folder folder;
  const fs::path path = folder.path / name;
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  return path;
}

}  // namespace shallowpi::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  shallowpi::fuzz::run({reinterpret_cast<const char*>(data), size});
  return 0;
}
