#include "data/image_resize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "data/vectorized.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

constexpr int kPrecisionBits = 22;  // Pillow's fixed point: 32 - 8 bits of pixel - 2 of headroom
constexpr std::int32_t kHalf = 1 << (kPrecisionBits - 1);

// Weights of one axis: output o is the sum of `taps` inputs from first[o] on, times weights[o * taps ...].
struct Coefficients {
  std::int64_t taps = 0;
  std::vector<std::int64_t> first;
  std::vector<std::int32_t> weights;
};

// Pillow's precompute_coeffs and normalize_coeffs_8bpc for the triangle filter.
Coefficients make_coefficients(std::int64_t in, std::int64_t out) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double support = std::max(scale, 1.0);
  const double inverse = 1.0 / support;
  Coefficients result;
  std::vector<std::vector<std::int32_t>> rows;
  for (std::int64_t o = 0; o < out; ++o) {
    const double center = (static_cast<double>(o) + 0.5) * scale;
    const auto low = std::max<std::int64_t>(0, static_cast<std::int64_t>(center - support + 0.5));
    const auto high = std::min(in, static_cast<std::int64_t>(center + support + 0.5));
    std::vector<double> weights;
    double sum = 0;
    for (std::int64_t i = low; i < high; ++i) {
      const double distance = std::abs((static_cast<double>(i) - center + 0.5) * inverse);
      weights.push_back(distance < 1.0 ? 1.0 - distance : 0.0);
      sum += weights.back();
    }
    std::vector<std::int32_t> row;
    for (double weight : weights) {
      row.push_back(
          static_cast<std::int32_t>(0.5 + (sum != 0.0 ? weight / sum : weight) * (1 << kPrecisionBits)));
    }
    result.first.push_back(low);
    result.taps = std::max(result.taps, static_cast<std::int64_t>(row.size()));
    rows.push_back(std::move(row));
  }
  // Equal numbers of taps everywhere make the loops simple; windows at the end are moved to stay inside.
  result.weights.assign(static_cast<std::size_t>(out * result.taps), 0);
  for (std::int64_t o = 0; o < out; ++o) {
    const std::int64_t first = std::min(result.first[o], in - result.taps);
    std::copy(rows[o].begin(), rows[o].end(),
              result.weights.begin() + o * result.taps + (result.first[o] - first));
    result.first[o] = first;
  }
  return result;
}

// Tables depend on the two sizes alone, and a data set has few.
std::shared_ptr<const Coefficients> coefficients(std::int64_t in, std::int64_t out) {
  static std::mutex mutex;
  static std::map<std::pair<std::int64_t, std::int64_t>, std::shared_ptr<const Coefficients>> cache;
  const std::lock_guard lock(mutex);
  if (cache.size() >= 64) cache.clear();
  auto& table = cache[{in, out}];
  if (!table) table = std::make_shared<const Coefficients>(make_coefficients(in, out));
  return table;
}

// Two RGB pixels, each with a spare byte: one of each of two rows. Widened in two steps, which GCC 12 does by
// far better.
using Bytes = std::uint8_t __attribute__((vector_size(8)));
using Shorts = std::uint16_t __attribute__((vector_size(16)));
using Sums = std::uint32_t __attribute__((vector_size(32)));

// Two rows of RGB pixels at once, `count` pixels of output. Reads one byte beyond the end of each row.
SHALLOWPI_VECTORIZED
void resample_rows(const std::uint8_t* in_a, const std::uint8_t* in_b, const std::int64_t* first,
                   const std::int32_t* weights, std::int64_t taps, std::int64_t count, std::uint8_t* out_a,
                   std::uint8_t* out_b) {
  for (std::int64_t o = 0; o < count; ++o) {
    const std::uint8_t *a = in_a + first[o] * 3, *b = in_b + first[o] * 3;
    Sums sums = Sums{} + static_cast<std::uint32_t>(kHalf);
    for (std::int64_t tap = 0; tap < taps; ++tap, a += 3, b += 3) {
      std::uint8_t bytes[8];
      std::memcpy(bytes, a, 4);
      std::memcpy(bytes + 4, b, 4);
      Bytes pixels;
      std::memcpy(&pixels, bytes, 8);
      sums += __builtin_convertvector(__builtin_convertvector(pixels, Shorts), Sums) *
              static_cast<std::uint32_t>(*weights++);
    }
    const Bytes mixed =
        __builtin_convertvector(__builtin_convertvector(sums >> kPrecisionBits, Shorts), Bytes);
    std::uint8_t bytes[8];
    std::memcpy(bytes, &mixed, 8);
    std::memcpy(out_a, bytes, 3);
    std::memcpy(out_b, bytes + 4, 3);
    out_a += 3;
    out_b += 3;
  }
}

// Weighted sum of whole rows of bytes.
SHALLOWPI_VECTORIZED
void blend_rows(const std::uint8_t* in, std::int64_t row_bytes, const std::int32_t* weights,
                std::int64_t taps, std::uint8_t* out) {
  constexpr std::int64_t kBlock = 256;  // sums that stay in the first-level cache
  std::int32_t sums[kBlock];
  for (std::int64_t begin = 0; begin < row_bytes; begin += kBlock) {
    const std::int64_t count = std::min(kBlock, row_bytes - begin);
    for (std::int64_t i = 0; i < count; ++i) sums[i] = kHalf;
    for (std::int64_t tap = 0; tap < taps; ++tap) {
      const std::uint8_t* row = in + tap * row_bytes + begin;
      const std::int32_t weight = weights[tap];
      for (std::int64_t i = 0; i < count; ++i) sums[i] += row[i] * weight;
    }
    for (std::int64_t i = 0; i < count; ++i)
      out[begin + i] = static_cast<std::uint8_t>(sums[i] >> kPrecisionBits);
  }
}

Image resize_width(const Image& image, std::int64_t width) {
  const auto table = coefficients(image.width, width);
  Image out{image.height, width,
            std::vector<std::uint8_t>(static_cast<std::size_t>(image.height * width * 3))};
  const std::int64_t in_bytes = image.width * 3, out_bytes = width * 3, last = image.height - 1;
  std::vector<std::uint8_t> last_row(image.bytes.end() - in_bytes, image.bytes.end());
  last_row.push_back(0);  // what is read beyond the end
  for (std::int64_t y = 0; y < image.height; y += 2) {
    const std::int64_t next = std::min(y + 1, last);  // the last row twice where their number is odd
    const auto row = [&](std::int64_t r) {
      return r < last ? image.bytes.data() + r * in_bytes : last_row.data();
    };
    resample_rows(row(y), row(next), table->first.data(), table->weights.data(), table->taps, width,
                  out.bytes.data() + y * out_bytes, out.bytes.data() + next * out_bytes);
  }
  return out;
}

Image resize_height(const Image& image, std::int64_t height) {
  const auto table = coefficients(image.height, height);
  const std::int64_t row_bytes = image.width * 3;
  Image out{height, image.width, std::vector<std::uint8_t>(static_cast<std::size_t>(height * row_bytes))};
  for (std::int64_t y = 0; y < height; ++y) {
    blend_rows(image.bytes.data() + table->first[y] * row_bytes, row_bytes,
               table->weights.data() + y * table->taps, table->taps, out.bytes.data() + y * row_bytes);
  }
  return out;
}

// torch's area_pixel_compute_source_index and its two weights, in float as torch computes them.
struct Taps {
  std::int64_t low, high;
  float low_weight, high_weight;
};
std::vector<Taps> torch_taps(std::int64_t in, std::int64_t out) {
  const float scale = static_cast<float>(in) / static_cast<float>(out);
  std::vector<Taps> taps;
  for (std::int64_t o = 0; o < out; ++o) {
    const float source = std::max(0.0f, scale * (static_cast<float>(o) + 0.5f) - 0.5f);
    const std::int64_t low = std::min(static_cast<std::int64_t>(source), in - 1);
    const float high_weight = std::clamp(source - static_cast<float>(low), 0.0f, 1.0f);
    taps.push_back({low, low + (low < in - 1 ? 1 : 0), 1.0f - high_weight, high_weight});
  }
  return taps;
}

}  // namespace

Fit fit_into_square(const Image& image, std::int64_t size) {
  const std::int64_t height = image.height, width = image.width;
  if (height < 1 || width < 1 || size < 1 ||
      image.bytes.size() != static_cast<std::size_t>(height * width * 3)) {
    throw UsageError(str("cannot resize an image of ", height, " x ", width, " pixels and ",
                         image.bytes.size(), " bytes to ", size, "; give RGB bytes"));
  }
  const double ratio = std::max(static_cast<double>(width) / static_cast<double>(size),
                                static_cast<double>(height) / static_cast<double>(size));
  Fit fit;
  fit.height = static_cast<std::int64_t>(static_cast<double>(height) / ratio);
  fit.width = static_cast<std::int64_t>(static_cast<double>(width) / ratio);
  if (fit.height < 1 || fit.width < 1) {
    throw UsageError(str("an image of ", height, " x ", width, " pixels is too narrow to be fitted into ",
                         size, " x ", size, "; crop it first"));
  }
  fit.top = (size - fit.height) / 2;
  fit.left = (size - fit.width) / 2;
  return fit;
}

Image resize_pillow(const Image& image, std::int64_t height, std::int64_t width) {
  if (image.width == width) return image.height == height ? image : resize_height(image, height);
  Image wide = resize_width(image, width);
  return image.height == height ? wide : resize_height(wide, height);
}

void resize_torch(const float* in, std::int64_t in_height, std::int64_t in_width, std::int64_t in_stride,
                  float* out, std::int64_t out_height, std::int64_t out_width, std::int64_t out_stride) {
  const std::vector<Taps> rows = torch_taps(in_height, out_height), columns = torch_taps(in_width, out_width);
  for (std::int64_t y = 0; y < out_height; ++y) {
    const float* low = in + rows[y].low * in_stride;
    const float* high = in + rows[y].high * in_stride;
    for (std::int64_t x = 0; x < out_width; ++x) {
      const Taps& tap = columns[x];
      const float upper = low[tap.low] * tap.low_weight + low[tap.high] * tap.high_weight;
      const float lower = high[tap.low] * tap.low_weight + high[tap.high] * tap.high_weight;
      out[y * out_stride + x] = upper * rows[y].low_weight + lower * rows[y].high_weight;
    }
  }
}

}  // namespace shallowpi
