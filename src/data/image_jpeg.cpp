#include <turbojpeg.h>

#include <memory>

#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"
#include "shallowpi/data/image.h"

namespace shallowpi {
namespace {

constexpr int kMaxSide = 8192;

struct Destroy {
  void operator()(void* handle) const { tjDestroy(handle); }
};

[[noreturn]] void fail(std::string_view where, const std::string& problem) {
  throw CorruptError(str(where, " is not a readable JPEG: ", problem));
}

}  // namespace

Image decode_jpeg(const std::uint8_t* bytes, std::size_t size, std::string_view where) {
  // One for each image: a used decoder keeps the tables of the image before, and damaged ones spoil the next.
  const std::unique_ptr<void, Destroy> decoder(tjInitDecompress());
  const tjhandle handle = decoder.get();
  int width = 0, height = 0, subsampling = 0, colorspace = 0;
  const auto length = static_cast<unsigned long>(size);
  if (tjDecompressHeader3(handle, bytes, length, &width, &height, &subsampling, &colorspace) != 0)
    fail(where, tjGetErrorStr2(handle));
  if (width < 1 || height < 1 || width > kMaxSide || height > kMaxSide)
    fail(where, str("it has ", height, " x ", width, " pixels"));
  Image image{height, width, std::vector<std::uint8_t>(static_cast<std::size_t>(height) * width * 3)};
  // Warnings, such as data that ends too early, leave grey areas: training must not see those.
  if (tjDecompress2(handle, bytes, length, image.bytes.data(), width, 0, height, TJPF_RGB,
                    TJFLAG_ACCURATEDCT) != 0)
    fail(where, tjGetErrorStr2(handle));
  return image;
}

}  // namespace shallowpi
