// The two ways of resizing that the policies were trained with; without padding.
#pragma once

#include <cstdint>
#include <vector>

#include "shallowpi/data/dataset.h"

namespace shallowpi {

/// Where an image lies within the square that it is fitted into with its aspect ratio kept.
struct Fit {
  std::int64_t height = 0, width = 0;  ///< of the resized image
  std::int64_t top = 0, left = 0;      ///< padding before it
};

/// openpi's and LeRobot's geometry. Throws UsageError where a side would vanish or `image` has no pixels.
Fit fit_into_square(const Image& image, std::int64_t size);

/// Pillow's bilinear resampling, bit for bit. Both passes round to uint8, as Pillow does.
Image resize_pillow(const Image& image, std::int64_t height, std::int64_t width);

/// torch.nn.functional.interpolate(bilinear, align_corners=False, antialias=False) of one channel of floats.
void resize_torch(const float* in, std::int64_t in_height, std::int64_t in_width, std::int64_t in_stride,
                  float* out, std::int64_t out_height, std::int64_t out_width, std::int64_t out_stride);

}  // namespace shallowpi
