// What the fuzz targets share. A target reads its input as a hostile file or message; an exception of our own
// family is the right answer to bad bytes, and anything else (another exception, a sanitizer's report, a
// broken promise) ends the process.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "shallowpi/base/error.h"

namespace shallowpi::fuzz {

/// One input: what each target defines.
void run(std::string_view input);

/// Does `parse` accept its input?
template <typename Parse>
bool accepts(Parse parse) {
  try {
    parse();
    return true;
  } catch (const Error&) {
    return false;
  }
}

/// Ends the process where a promise does not hold.
void require(bool holds, const char* promise);

/// A file in a temporary folder of this process, for the parsers that take a path. It holds `bytes`.
std::filesystem::path input_file(std::string_view bytes, const std::string& name = "input");

}  // namespace shallowpi::fuzz
