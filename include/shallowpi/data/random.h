// A small counter-based random generator: the same (seed, stream, ...) gives the same numbers on every
// machine and for any number of threads. (splitmix64; not for cryptography.)
#pragma once

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <numbers>

namespace shallowpi {

class Random {
 public:
  /// Keys name the stream, for instance {seed, epoch, sample index}.
  explicit Random(std::initializer_list<std::uint64_t> keys) {
    for (std::uint64_t key : keys) state_ = mix(state_ ^ mix(key + 0x9e3779b97f4a7c15ull));
  }
  std::uint64_t next() { return mix(state_ += 0x9e3779b97f4a7c15ull); }
  /// Uniform in [0, 1).
  double uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  /// Standard normal (Box and Muller's cosine).
  double normal() {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    return radius * std::cos(2.0 * std::numbers::pi * uniform());
  }
  /// Uniform in {0, ..., n - 1}.
  std::uint64_t below(std::uint64_t n) {
    return static_cast<std::uint64_t>((static_cast<unsigned __int128>(next()) * n) >> 64);
  }

 private:
  static std::uint64_t mix(std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  std::uint64_t state_ = 0;
};

}  // namespace shallowpi
