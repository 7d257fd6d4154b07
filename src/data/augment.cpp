#include "data/augment.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "data/image_resize.h"
#include "data/vectorized.h"

namespace shallowpi {
namespace {

constexpr double kCropFraction = 0.95;
constexpr double kMaxDegrees = 5.0;
constexpr double kLeastDegrees = 0.1;  // openpi leaves smaller rotations out

// One of the four pixels around a point that lies at the image's border, or outside; there zeros are.
inline float value_or_zero(const float* plane, std::int64_t size, std::int64_t row, std::int64_t column) {
  return row >= 0 && column >= 0 && row < size && column < size ? plane[row * size + column] : 0.0f;
}

// torch's grid_sample (bilinear, zeros outside, align_corners=False) at one point of three planes.
inline void sample_or_zero(const float* in, float* out, std::int64_t size, float y, float x) {
  const std::int64_t pixels = size * size;
  if (y >= 0 && x >= 0 && y < static_cast<float>(size - 1) && x < static_cast<float>(size - 1)) {
    const auto y0 = static_cast<std::int64_t>(y), x0 = static_cast<std::int64_t>(x);
    const float dy = y - static_cast<float>(y0), dx = x - static_cast<float>(x0);
    const float* at = in + y0 * size + x0;
    for (std::int64_t channel = 0; channel < 3; ++channel, at += pixels, out += pixels)
      *out = (at[0] * (1 - dx) + at[1] * dx) * (1 - dy) + (at[size] * (1 - dx) + at[size + 1] * dx) * dy;
    return;
  }
  const float y_floor = std::floor(y), x_floor = std::floor(x), dy = y - y_floor, dx = x - x_floor;
  const auto y0 = static_cast<std::int64_t>(y_floor), x0 = static_cast<std::int64_t>(x_floor);
  for (std::int64_t channel = 0; channel < 3; ++channel, in += pixels, out += pixels) {
    const auto value = [&](std::int64_t row, std::int64_t column) {
      return value_or_zero(in, size, row, column);
    };
    *out = (value(y0, x0) * (1 - dx) + value(y0, x0 + 1) * dx) * (1 - dy) +
           (value(y0 + 1, x0) * (1 - dx) + value(y0 + 1, x0 + 1) * dx) * dy;
  }
}

// openpi builds its grid from linspace(-1, 1) although it samples with align_corners=False; kept, it is what
// the policies were trained with.
void rotate(const float* in, float* out, std::int64_t size, double degrees) {
  const float cosine = static_cast<float>(std::cos(degrees * std::numbers::pi / 180.0));
  const float sine = static_cast<float>(std::sin(degrees * std::numbers::pi / 180.0));
  const float step = size > 1 ? 2.0f / static_cast<float>(size - 1) : 0.0f;
  const float half = static_cast<float>(size) / 2.0f;
  for (std::int64_t row = 0; row < size; ++row) {
    const float grid_y = static_cast<float>(row) * step - 1.0f;
    for (std::int64_t column = 0; column < size; ++column) {
      const float grid_x = static_cast<float>(column) * step - 1.0f;
      const float x = (grid_x * cosine - grid_y * sine + 1.0f) * half - 0.5f;
      const float y = (grid_x * sine + grid_y * cosine + 1.0f) * half - 0.5f;
      sample_or_zero(in, out + row * size + column, size, y, x);
    }
  }
}

// Brightness, contrast around the image's mean and saturation around each pixel's, from [0, 1] to [-1, 1].
SHALLOWPI_VECTORIZED
void jitter_colors(float* red, float* green, float* blue, std::int64_t pixels, float brightness,
                   float contrast, float saturation, float mean) {
  for (std::int64_t i = 0; i < pixels; ++i) {
    const float r = (red[i] * brightness - mean) * contrast + mean;
    const float g = (green[i] * brightness - mean) * contrast + mean;
    const float b = (blue[i] * brightness - mean) * contrast + mean;
    const float gray = (r + g + b) / 3.0f;
    red[i] = std::min(std::max(gray + (r - gray) * saturation, 0.0f), 1.0f) * 2.0f - 1.0f;
    green[i] = std::min(std::max(gray + (g - gray) * saturation, 0.0f), 1.0f) * 2.0f - 1.0f;
    blue[i] = std::min(std::max(gray + (b - gray) * saturation, 0.0f), 1.0f) * 2.0f - 1.0f;
  }
}

}  // namespace

ImageAugmentation draw_augmentation(std::int64_t size, bool is_wrist, Random& random) {
  ImageAugmentation draw;
  draw.crop_side = size;
  if (!is_wrist) {
    draw.crop_side =
        std::max<std::int64_t>(1, static_cast<std::int64_t>(static_cast<double>(size) * kCropFraction));
    const auto offsets = static_cast<std::uint64_t>(size - draw.crop_side + 1);
    draw.crop_top = static_cast<std::int64_t>(random.below(offsets));
    draw.crop_left = static_cast<std::int64_t>(random.below(offsets));
    draw.degrees = random.uniform(-kMaxDegrees, kMaxDegrees);
  }
  draw.brightness = random.uniform(0.7, 1.3);
  draw.contrast = random.uniform(0.6, 1.4);
  draw.saturation = random.uniform(0.5, 1.5);
  return draw;
}

void apply_augmentation(const ImageAugmentation& draw, float* image_cyx, std::int64_t size) {
  thread_local std::vector<float> scratch;
  const std::int64_t pixels = size * size;
  for (std::int64_t i = 0; i < 3 * pixels; ++i) image_cyx[i] = image_cyx[i] * 0.5f + 0.5f;
  if (draw.crop_side != size) {
    scratch.assign(image_cyx, image_cyx + 3 * pixels);
    for (std::int64_t channel = 0; channel < 3; ++channel) {
      const float* first = scratch.data() + channel * pixels + draw.crop_top * size + draw.crop_left;
      resize_torch(first, draw.crop_side, draw.crop_side, size, image_cyx + channel * pixels, size, size,
                   size);
    }
  }
  if (std::abs(draw.degrees) > kLeastDegrees) {
    scratch.assign(image_cyx, image_cyx + 3 * pixels);
    rotate(scratch.data(), image_cyx, size, draw.degrees);
  }
  double sum = 0;
  for (std::int64_t i = 0; i < 3 * pixels; ++i) sum += image_cyx[i];
  const auto brightness = static_cast<float>(draw.brightness);
  const float mean = static_cast<float>(sum / static_cast<double>(3 * pixels)) * brightness;
  jitter_colors(image_cyx, image_cyx + pixels, image_cyx + 2 * pixels, pixels, brightness,
                static_cast<float>(draw.contrast), static_cast<float>(draw.saturation), mean);
}

void augment(float* image_cyx, std::int64_t size, bool is_wrist, Random& random) {
  apply_augmentation(draw_augmentation(size, is_wrist, random), image_cyx, size);
}

}  // namespace shallowpi
