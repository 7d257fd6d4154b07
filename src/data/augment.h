// openpi's training augmentation. The drawn numbers are apart from their application, so that both can be
// tested.
#pragma once

#include <cstdint>

#include "shallowpi/data/random.h"

namespace shallowpi {

/// One draw for one image. Defaults change nothing but for the crop, which
/// `crop_side` = image side leaves out.
struct ImageAugmentation {
  std::int64_t crop_side = 0, crop_top = 0, crop_left = 0;
  double degrees = 0;
  double brightness = 1, contrast = 1, saturation = 1;
};

ImageAugmentation draw_augmentation(std::int64_t size, bool is_wrist, Random& random);

/// Applies it to a float [3, size, size] image in [-1, 1], in place.
void apply_augmentation(const ImageAugmentation& draw, float* image_cyx, std::int64_t size);

/// Both: crop 95 % and rotate by U(-5, 5) degrees (not for wrist cameras), then brightness, contrast and
/// saturation.
void augment(float* image_cyx, std::int64_t size, bool is_wrist, Random& random);

}  // namespace shallowpi
