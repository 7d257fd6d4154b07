// Images against what Pillow and PyTorch make of them (golden/make_image_goldens.py), and the JPEG decoder.
#include "shallowpi/data/image.h"

#include <gtest/gtest.h>
#include <turbojpeg.h>

#include <cstring>

#include "data/augment.h"
#include "data/hdf5_fixtures.h"
#include "shallowpi/base/safetensors.h"
#include "test_util.h"

namespace shallowpi {
namespace {

using namespace shallowpi::testing;

const NamedTensors& goldens() {
  static const NamedTensors tensors = load_safetensors(test_data("golden/images.safetensors"));
  return tensors;
}

// The generator's formula.
Image picture(std::int64_t height, std::int64_t width) {
  Image image{height, width, {}};
  for (std::int64_t y = 0; y < height; ++y)
    for (std::int64_t x = 0; x < width; ++x)
      for (std::int64_t c = 0; c < 3; ++c)
        image.bytes.push_back(static_cast<std::uint8_t>(y * y * 7 + x * 13 + (x * y) % 31 * 5 + c * 91 +
                                                        ((x / 3 + y / 5) % 2) * 100));
  return image;
}

struct Size {
  std::int64_t height = 0, width = 0, size = 0;
};

// "480x640-224"
Size parse_size(const std::string& text) {
  Size size;
  EXPECT_EQ(std::sscanf(text.c_str(), "%ldx%ld-%ld", &size.height, &size.width, &size.size), 3);
  return size;
}

TEST(Image, ResizeEqualsPillowBitForBit) {
  int cases = 0;
  for (const auto& [name, golden] : goldens()) {
    if (!name.starts_with("pillow_rows.")) continue;
    SCOPED_TRACE(name);
    ++cases;
    const Size size = parse_size(name.substr(12));
    const Image out = resize_with_pad(picture(size.height, size.width), size.size);
    ASSERT_EQ(out.bytes.size(), static_cast<std::size_t>(size.size * size.size * 3));
    std::int64_t wrong_rows = 0;
    for (std::int64_t y = 0; y < size.size; ++y) {
      std::int64_t sum = 0;
      for (std::int64_t i = 0; i < size.size * 3; ++i)
        sum += (i + 1) * out.bytes[static_cast<std::size_t>(y * size.size * 3 + i)];
      wrong_rows += sum != golden[y].item<std::int64_t>();
    }
    EXPECT_EQ(wrong_rows, 0);
    if (const auto whole = goldens().find("pillow." + name.substr(12)); whole != goldens().end()) {
      EXPECT_EQ(std::memcmp(out.bytes.data(), whole->second.data_ptr(), out.bytes.size()), 0);
    }
  }
  EXPECT_GE(cases, 6);
}

TEST(Image, FloatsFollowTheResizedBytes) {
  const Image image = picture(31, 17);
  const Image resized = resize_with_pad(image, 24);
  std::vector<float> out(3 * 24 * 24);
  image_to_float(image, 24, ResizeMode::kPillow, out.data());
  for (std::size_t pixel = 0; pixel < 24 * 24; ++pixel)
    for (std::size_t c = 0; c < 3; ++c)
      ASSERT_EQ(out[c * 24 * 24 + pixel],
                static_cast<float>(resized.bytes[pixel * 3 + c]) / 255.0f * 2.0f - 1.0f);
  EXPECT_EQ(out[0], -1.0f) << "padding is black";
}

TEST(Image, FittingImagesAreNotResampled) {
  const Image image = picture(16, 16);
  EXPECT_EQ(resize_with_pad(image, 16).bytes, image.bytes);
  std::vector<float> pillow(3 * 16 * 16), torch_mode(3 * 16 * 16);
  image_to_float(image, 16, ResizeMode::kPillow, pillow.data());
  image_to_float(image, 16, ResizeMode::kTorch, torch_mode.data());
  EXPECT_EQ(pillow, torch_mode);
  EXPECT_EQ(pillow[16 * 16 + 5], static_cast<float>(image.bytes[16]) / 255.0f * 2.0f - 1.0f);
}

TEST(Image, TorchModeEqualsLeRobots) {
  int cases = 0;
  for (const auto& [name, golden] : goldens()) {
    if (!name.starts_with("torch.")) continue;
    ++cases;
    const Size size = parse_size(name.substr(6));
    torch::Tensor out = torch::full({3, size.size, size.size}, 9.0f);
    image_to_float(picture(size.height, size.width), size.size, ResizeMode::kTorch, out.data_ptr<float>());
    expect_tensor_near(out, golden, 2e-6, 0, name);
  }
  EXPECT_EQ(cases, 4);
}

TEST(Image, LeRobot04PadsWithMinusThree) {
  std::vector<float> now(3 * 16 * 16), then(3 * 16 * 16);
  image_to_float(picture(8, 16), 16, ResizeMode::kTorch, now.data());
  image_to_float(picture(8, 16), 16, ResizeMode::kTorchLeRobot04, then.data());
  for (std::size_t i = 0; i < now.size(); ++i) {
    const std::size_t row = i / 16 % 16;
    const bool is_padding = row < 4 || row >= 12;
    ASSERT_EQ(then[i], is_padding ? -3.0f : now[i]) << i;
    if (is_padding) ASSERT_EQ(now[i], -1.0f);
  }
}

TEST(Image, ImpossibleSizesAreRefused) {
  expect_error<UsageError>([] { resize_with_pad(picture(1, 1000), 224); }, "1 x 1000", "narrow");
  expect_error<UsageError>(
      [] {
        resize_with_pad(Image{4, 4, std::vector<std::uint8_t>(47)}, 8);
      },
      "47 bytes");
  expect_error<UsageError>([] { resize_with_pad(Image{}, 8); }, "0 x 0");
}

TEST(Augment, EqualsOpenpisForGivenNumbers) {
  for (int n = 0; n < 4; ++n) {
    const torch::Tensor numbers = goldens().at(str("augment_draw.", n));
    const auto value = [&](int i) { return numbers[i].item<double>(); };
    const ImageAugmentation draw{.crop_side = static_cast<std::int64_t>(value(0)),
                                 .crop_top = static_cast<std::int64_t>(value(1)),
                                 .crop_left = static_cast<std::int64_t>(value(2)),
                                 .degrees = value(3),
                                 .brightness = value(4),
                                 .contrast = value(5),
                                 .saturation = value(6)};
    torch::Tensor image = torch::empty({3, 40, 40});
    image_to_float(picture(40, 40), 40, ResizeMode::kPillow, image.data_ptr<float>());
    apply_augmentation(draw, image.data_ptr<float>(), 40);
    expect_tensor_near(image, goldens().at(str("augment.", n)), 2e-5, 0, str("draw ", n));
  }
}

TEST(Augment, DrawsCoverTheirRanges) {
  double low_degrees = 9, high_degrees = -9, low_contrast = 9, high_contrast = -9;
  std::int64_t largest_offset = 0;
  for (std::uint64_t i = 0; i < 2000; ++i) {
    Random random({7, i});
    const ImageAugmentation draw = draw_augmentation(224, /*is_wrist=*/false, random);
    ASSERT_EQ(draw.crop_side, 212);
    ASSERT_GE(draw.crop_top, 0);
    ASSERT_LE(draw.crop_top, 12);
    ASSERT_LE(draw.crop_left, 12);
    largest_offset = std::max(largest_offset, draw.crop_left);
    low_degrees = std::min(low_degrees, draw.degrees);
    high_degrees = std::max(high_degrees, draw.degrees);
    low_contrast = std::min(low_contrast, draw.contrast);
    high_contrast = std::max(high_contrast, draw.contrast);
    ASSERT_GE(draw.brightness, 0.7);
    ASSERT_LT(draw.brightness, 1.3);
    ASSERT_GE(draw.saturation, 0.5);
    ASSERT_LT(draw.saturation, 1.5);
  }
  EXPECT_EQ(largest_offset, 12);
  EXPECT_NEAR(low_degrees, -5, 0.02);
  EXPECT_NEAR(high_degrees, 5, 0.02);
  EXPECT_NEAR(low_contrast, 0.6, 0.005);
  EXPECT_NEAR(high_contrast, 1.4, 0.005);
}

TEST(Augment, WristCamerasKeepTheirGeometry) {
  for (std::uint64_t i = 0; i < 50; ++i) {
    Random random({i});
    const ImageAugmentation draw = draw_augmentation(224, /*is_wrist=*/true, random);
    EXPECT_EQ(draw.crop_side, 224);
    EXPECT_EQ(draw.degrees, 0.0);
  }
}

TEST(Augment, IsAFunctionOfTheRandomStream) {
  std::vector<float> first(3 * 32 * 32), second(3 * 32 * 32), other(3 * 32 * 32);
  for (auto* image : {&first, &second, &other})
    image_to_float(picture(32, 32), 32, ResizeMode::kPillow, image->data());
  Random a({1, 2}), b({1, 2}), c({1, 3});
  augment(first.data(), 32, false, a);
  augment(second.data(), 32, false, b);
  augment(other.data(), 32, false, c);
  EXPECT_EQ(first, second);
  EXPECT_NE(first, other);
  for (float value : first) ASSERT_TRUE(value >= -1.0f && value <= 1.0f);
}

TEST(Jpeg, DecodesAndRefuses) {
  std::vector<std::uint8_t> rgb;
  for (int i = 0; i < 20 * 30; ++i) rgb.insert(rgb.end(), {200, 100, 50});
  std::vector<std::uint8_t> jpeg = encode_jpeg(rgb, 20, 30);
  const Image image = decode_jpeg(jpeg.data(), jpeg.size(), "frame 3");
  EXPECT_EQ(image.height, 20);
  EXPECT_EQ(image.width, 30);
  EXPECT_NEAR(image.bytes[0], 200, 2);
  EXPECT_NEAR(image.bytes[1], 100, 2);
  EXPECT_NEAR(image.bytes[2], 50, 2);
  expect_error<CorruptError>([&] { decode_jpeg(jpeg.data(), jpeg.size() / 2, "frame 3"); }, "frame 3",
                             "JPEG");
  expect_error<CorruptError>([&] { decode_jpeg(jpeg.data(), 0, "frame 4"); }, "frame 4");
  expect_error<CorruptError>([&] { decode_jpeg(jpeg.data(), jpeg.size(), "frame 6", 20 * 30 - 1); },
                             "frame 6", "20 x 30 pixels");
  EXPECT_NO_THROW(decode_jpeg(jpeg.data(), jpeg.size(), "frame 6", 20 * 30));
  const std::vector<std::uint8_t> junk(1000, 42);
  expect_error<CorruptError>([&] { decode_jpeg(junk.data(), junk.size(), "frame 5"); }, "frame 5");
}

TEST(Jpeg, OfManyScansIsRefused) {
  const std::vector<std::uint8_t> rgb(std::size_t{16} * 16 * 3, 90);
  const tjhandle encoder = tjInitCompress();
  unsigned char* bytes = nullptr;
  unsigned long size = 0;
  tjCompress2(encoder, rgb.data(), 16, 0, 16, TJPF_RGB, &bytes, &size, TJSAMP_444, 90, TJFLAG_PROGRESSIVE);
  const std::string jpeg(reinterpret_cast<const char*>(bytes), size), end = "\xff\xd9";
  tjFree(bytes);
  tjDestroy(encoder);
  // A scan that refines says nothing new when it is read again.
  const std::string scan = jpeg.substr(jpeg.rfind("\xff\xda"), jpeg.rfind(end) - jpeg.rfind("\xff\xda"));
  const auto with_scans = [&](int more) {
    std::string many = jpeg.substr(0, jpeg.rfind(end));
    for (int i = 0; i < more; ++i) many += scan;
    many += end;
    return decode_jpeg(reinterpret_cast<const std::uint8_t*>(many.data()), many.size(), "the frame");
  };
  EXPECT_EQ(with_scans(0).bytes.size(), rgb.size());
  expect_error<CorruptError>([&] { with_scans(600); }, "the frame is not a readable JPEG");
}

// A decoder that is used again remembers the tables of the image before.
TEST(Jpeg, ADamagedImageLeavesTheNextAlone) {
  std::vector<std::uint8_t> rgb;
  for (int i = 0; i < 16 * 16; ++i) rgb.insert(rgb.end(), {200, static_cast<std::uint8_t>(i), 50});
  const std::vector<std::uint8_t> jpeg = encode_jpeg(rgb, 16, 16);
  const Image sound = decode_jpeg(jpeg.data(), jpeg.size(), "sound");
  for (std::size_t at = 0; at < jpeg.size(); ++at) {
    for (const std::uint8_t flip : {0x01, 0x80, 0xff}) {
      std::vector<std::uint8_t> damaged = jpeg;
      damaged[at] ^= flip;
      try {
        decode_jpeg(damaged.data(), damaged.size(), "damaged");
      } catch (const CorruptError&) {
      }
      ASSERT_EQ(decode_jpeg(jpeg.data(), jpeg.size(), "sound").bytes, sound.bytes) << "byte " << at;
    }
  }
}

TEST(Image, SeveralAtOnceEqualOneByOne) {
  Random random({5});
  std::vector<Image> images;
  for (const std::int64_t side : {48, 31, 64}) {
    images.push_back(
        {side, side + 9, std::vector<std::uint8_t>(static_cast<std::size_t>(side * (side + 9) * 3))});
    for (std::uint8_t& byte : images.back().bytes) byte = static_cast<std::uint8_t>(random.next());
  }
  constexpr std::int64_t kSize = 32, kFloats = 3 * kSize * kSize;
  std::vector<float> got(images.size() * kFloats), expected(got.size());
  std::vector<ImageJob> jobs;
  for (std::size_t i = 0; i < images.size(); ++i) {
    jobs.push_back({&images[i], got.data() + i * kFloats});
    image_to_float(images[i], kSize, ResizeMode::kPillow, expected.data() + i * kFloats);
  }
  images_to_float(jobs, kSize, ResizeMode::kPillow);
  EXPECT_EQ(got, expected);
  images[2].bytes.pop_back();
  EXPECT_ANY_THROW(images_to_float(jobs, kSize, ResizeMode::kPillow));
}

}  // namespace
}  // namespace shallowpi
