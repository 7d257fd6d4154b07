#include "data/hdf5_heap.h"

#include <cstring>

namespace shallowpi::hdf5 {
namespace {

constexpr std::uint64_t kHeaderBytes = 16;  // of a collection, and of each object in it
constexpr int kMaxObjects = 65535;          // an object's index has 16 bits

// Registered for values of variable length to opaque bytes: what is stored is left as it is.
herr_t keep_reference(hid_t source, hid_t target, H5T_cdata_t* data, std::size_t, std::size_t, std::size_t,
                      void*, void*, hid_t) {
  data->need_bkg = H5T_BKG_NO;
  if (data->command != H5T_CONV_INIT) return 0;
  constexpr std::size_t kSize = sizeof(HeapReference);
  return H5Tget_size(source) == kSize && H5Tget_size(target) == kSize ? 0 : -1;
}

std::uint64_t little_endian(const std::uint8_t* bytes, int count) {
  std::uint64_t value = 0;
  for (int i = count - 1; i >= 0; --i) value = value << 8 | bytes[i];
  return value;
}

}  // namespace

Handle heap_reference_type() {
  Handle type(H5Tcreate(H5T_OPAQUE, sizeof(HeapReference)));
  static const bool registered = [&] {
    const Handle bytes(H5Tvlen_create(H5T_NATIVE_UINT8));
    return H5Tregister(H5T_PERS_SOFT, "shallowpi_reference", bytes.get(), type.get(), keep_reference) >= 0;
  }();
  (void)registered;
  return type;
}

std::vector<std::uint8_t> read_heap(const RawFile& file, const HeapReference& reference,
                                    std::string_view name, std::size_t max_bytes) {
  const auto damaged = [&](std::string_view problem) { file.fail(name, problem, kRecopy); };
  const std::uint64_t length = little_endian(reference.data(), 4);
  const std::uint64_t address = little_endian(reference.data() + 4, 8);
  const std::uint64_t index = little_endian(reference.data() + 12, 4);
  if (length == 0 || address == 0) return {};
  if (length > max_bytes) damaged("holds a value of unreasonable length");
  std::array<std::uint8_t, kHeaderBytes> header;
  if (!file.read_at(address, header.data(), header.size()) || std::memcmp(header.data(), "GCOL\1", 5) != 0)
    damaged("refers to a place that holds no values");
  const std::uint64_t collection = little_endian(header.data() + 8, 8);
  std::uint64_t at = kHeaderBytes;
  for (int object = 0; object < kMaxObjects && at + kHeaderBytes <= collection; ++object) {
    if (!file.read_at(address + at, header.data(), header.size())) break;
    const std::uint64_t object_index = little_endian(header.data(), 2);
    const std::uint64_t size = little_endian(header.data() + 8, 8);
    if (object_index == 0 || size > collection - at - kHeaderBytes) break;  // free space, or damage
    if (object_index == index) {
      std::vector<std::uint8_t> bytes(length);
      if (length > size || !file.read_at(address + at + kHeaderBytes, bytes.data(), length)) break;
      return bytes;
    }
    at += kHeaderBytes + (size + 7) / 8 * 8;
  }
  damaged("refers to a value that is damaged or missing");
  return {};
}

}  // namespace shallowpi::hdf5
