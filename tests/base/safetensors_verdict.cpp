// For safetensors_differential.py: reads paths from stdin and prints for each "accept" or "refuse: REASON".
// With --rewrite, writes what it read to PATH.rewritten instead.
#include <iostream>
#include <string>
#include <string_view>

#include "shallowpi/base/error.h"
#include "shallowpi/base/safetensors.h"

int main(int argc, char** argv) {
  const bool rewrite = argc == 2 && std::string_view(argv[1]) == "--rewrite";
  for (std::string path; std::getline(std::cin, path);) {
    try {
      const shallowpi::NamedTensors tensors = shallowpi::load_safetensors(path);
      if (rewrite)
        shallowpi::write_safetensors(path + ".rewritten", tensors,
                                     shallowpi::SafetensorsFile(path).metadata());
      else
        std::cout << "accept\n";
    } catch (const shallowpi::Error& error) {
      if (rewrite) throw;
      std::cout << "refuse: " << error.what() << '\n';
    }
  }
  return 0;
}
