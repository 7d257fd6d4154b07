#include <turbojpeg.h>

#include <memory>

#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"
#include "shallowpi/data/image.h"

namespace shallowpi {
namespace {

struct Destroy {
  void operator()(void* handle) const { tjDestroy(handle); }
};

[[noreturn]] void fail(std::string_view where, const std::string& problem) {
  throw CorruptError(str(where, " is not a readable JPEG: ", problem));
}

}  // namespace

Image decode_jpeg(const std::uint8_t* bytes, std::size_t size, std::string_view where,
                  std::int64_t max_pixels) {
  // One for each image: a used decoder keeps the tables of the image before, and damaged ones spoil the next.
  const std::unique_ptr<void, Destroy> decoder(tjInitDecompress());
  const tjhandle handle = decoder.get();
  int width = 0, height = 0, subsampling = 0, colorspace = 0;
  const auto length = static_cast<unsigned long>(size);
  if (tjDecompressHeader3(handle, bytes, length, &width, &height, &subsampling, &colorspace) != 0)
    fail(where, tjGetErrorStr2(handle));
  if (width < 1 || height < 1 || std::int64_t{width} * height > max_pixels)
    fail(where,
         str("it has ", height, " x ", width, " pixels, more than the ", max_pixels, " that are allowed"));
  Image image{height, width, std::vector<std::uint8_t>(static_cast<std::size_t>(height) * width * 3)};
  // Warnings, such as data that ends too early, leave grey areas: training must not see those.
  if (tjDecompress2(handle, bytes, length, image.bytes.data(), width, 0, height, TJPF_RGB,
                    TJFLAG_ACCURATEDCT | TJFLAG_LIMITSCANS) != 0)
    fail(where, tjGetErrorStr2(handle));
  return image;
}

std::string encode_jpeg(const Image& image) {
  constexpr int kQuality = 90;
  const std::unique_ptr<void, Destroy> encoder(tjInitCompress());
  unsigned char* bytes = nullptr;
  unsigned long size = 0;
  const int status =
      tjCompress2(encoder.get(), image.bytes.data(), static_cast<int>(image.width), 0,
                  static_cast<int>(image.height), TJPF_RGB, &bytes, &size, TJSAMP_444, kQuality, 0);
  const std::unique_ptr<unsigned char, void (*)(unsigned char*)> owned(bytes, tjFree);
  if (status != 0) throw Error(str("cannot write a JPEG: ", tjGetErrorStr2(encoder.get())));
  return {reinterpret_cast<const char*>(bytes), size};
}

}  // namespace shallowpi
