#include "shallowpi/data/image.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>

#include "data/image_resize.h"
#include "data/vectorized.h"

namespace shallowpi {
namespace {

// Interleaved bytes to three planes in [-1, 1], in the order of operations of openpi: x / 255 * 2 - 1.
SHALLOWPI_VECTORIZED
void bytes_to_planes(const std::uint8_t* rgb, std::int64_t pixels, float* red, float* green, float* blue) {
  for (std::int64_t i = 0; i < pixels; ++i) {
    red[i] = static_cast<float>(rgb[3 * i]) / 255.0f * 2.0f - 1.0f;
    green[i] = static_cast<float>(rgb[3 * i + 1]) / 255.0f * 2.0f - 1.0f;
    blue[i] = static_cast<float>(rgb[3 * i + 2]) / 255.0f * 2.0f - 1.0f;
  }
}

void convert_all(const Image& image, float* out) {
  const std::int64_t pixels = image.height * image.width;
  bytes_to_planes(image.bytes.data(), pixels, out, out + pixels, out + 2 * pixels);
}

// LeRobot scales to [0, 1] first, resizes floats, and maps to [-1, 1] at the end.
void resize_floats(const Image& image, std::int64_t size, float padding, float* out) {
  const Fit fit = fit_into_square(image, size);
  const std::int64_t in_pixels = image.height * image.width;
  std::vector<float> plane(static_cast<std::size_t>(in_pixels));
  std::fill(out, out + 3 * size * size, padding);
  for (std::int64_t channel = 0; channel < 3; ++channel) {
    for (std::int64_t i = 0; i < in_pixels; ++i) {
      plane[static_cast<std::size_t>(i)] =
          static_cast<float>(image.bytes[static_cast<std::size_t>(3 * i + channel)]) / 255.0f;
    }
    float* first = out + channel * size * size + fit.top * size + fit.left;
    resize_torch(plane.data(), image.height, image.width, image.width, first, fit.height, fit.width, size);
    for (std::int64_t y = 0; y < fit.height; ++y) {
      for (std::int64_t x = 0; x < fit.width; ++x) {
        float& value = first[y * size + x];
        value = std::clamp(value, 0.0f, 1.0f) * 2.0f - 1.0f;
      }
    }
  }
}

}  // namespace

Image resize_with_pad(const Image& image, std::int64_t size) {
  const Fit fit = fit_into_square(image, size);
  if (image.height == size && image.width == size) return image;
  Image resized = resize_pillow(image, fit.height, fit.width);
  if (fit.height == size && fit.width == size) return resized;
  Image out{size, size, std::vector<std::uint8_t>(static_cast<std::size_t>(size * size * 3))};
  const std::int64_t row_bytes = fit.width * 3;
  for (std::int64_t y = 0; y < fit.height; ++y) {
    std::memcpy(out.bytes.data() + ((fit.top + y) * size + fit.left) * 3,
                resized.bytes.data() + y * row_bytes, static_cast<std::size_t>(row_bytes));
  }
  return out;
}

void image_to_float(const Image& image, std::int64_t size, ResizeMode mode, float* out_cyx) {
  if (image.height == size && image.width == size) {
    fit_into_square(image, size);  // checks the number of bytes
    convert_all(image, out_cyx);
  } else if (mode == ResizeMode::kPillow) {
    convert_all(resize_with_pad(image, size), out_cyx);
  } else {
    resize_floats(image, size, mode == ResizeMode::kTorch ? -1.0f : -3.0f, out_cyx);
  }
}

void images_to_float(const std::vector<ImageJob>& jobs, std::int64_t size, ResizeMode mode) {
  at::parallel_for(0, std::ssize(jobs), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) image_to_float(*jobs[i].image, size, mode, jobs[i].out_cyx);
  });
}

}  // namespace shallowpi
