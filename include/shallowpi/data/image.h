// Image preparation, numerically equal to what the policies were trained with.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "shallowpi/base/policy_spec.h"
#include "shallowpi/data/dataset.h"

namespace shallowpi {

/// Aspect-preserving resize to `size` x `size`, padded with black (openpi `image_tools.resize_with_pad`):
/// bit-exact with Pillow's bilinear on uint8. An image that already has the size is returned as it is.
Image resize_with_pad(const Image& image, std::int64_t size);

/// Writes the image as float [3, size, size] in [-1, 1] into `out_cyx` (3*size*size floats), resized by
/// `mode`. kTorch is LeRobot's: bilinear on floats, no antialiasing, align_corners=false, padded with -1;
/// kTorchLeRobot04 pads with -3.
void image_to_float(const Image& image, std::int64_t size, ResizeMode mode, float* out_cyx);

/// An image and where its floats go.
struct ImageJob {
  const Image* image;
  float* out_cyx;
};
/// image_to_float for the cameras of one or several robots, by all threads.
void images_to_float(const std::vector<ImageJob>& jobs, std::int64_t size, ResizeMode mode);

inline constexpr std::int64_t kMaxJpegPixels = std::int64_t{8192} * 8192;
/// Decodes a JPEG (RGB out). Throws CorruptError, also for one of more than `max_pixels`, before it takes
/// memory for these; `where` names the frame.
Image decode_jpeg(const std::uint8_t* bytes, std::size_t size, std::string_view where,
                  std::int64_t max_pixels = kMaxJpegPixels);

/// A JPEG of quality 90, without subsampling of the colours.
std::string encode_jpeg(const Image& image);

}  // namespace shallowpi
