#include "data/hdf5_index.h"

#include <cmath>

#include "shallowpi/base/text.h"

namespace shallowpi::hdf5 {
namespace {

// libhdf5 looks through all chunks for the address of one: this many take 20 s.
constexpr std::int64_t kMaxChunks = 50'000;
const char* const kRechunk = "store one frame per chunk: h5repack -l CHUNK=1xHEIGHTxWIDTHx3 IN OUT";

bool is_byte(hid_t type) {
  return H5Tget_class(type) == H5T_INTEGER && H5Tget_size(type) == 1 && H5Tget_sign(type) == H5T_SGN_NONE;
}

// The deflate filter's bit in a chunk's mask of skipped filters; 0: none. Shuffling bytes of one-byte
// elements changes nothing, so only gzip has to be undone.
unsigned find_deflate(const File& file, const std::string& name, hid_t plist) {
  unsigned bit = 0;
  const std::vector<H5Z_filter_t> filters = filters_of(plist);
  for (std::size_t i = 0; i < filters.size(); ++i) {
    if (filters[i] != H5Z_FILTER_DEFLATE) continue;
    if (bit != 0) file.fail(name, "is compressed twice", "repack the file: h5repack -f GZIP=4 IN OUT");
    bit = 1u << i;
  }
  return bit;
}

void find_chunks(const File& file, hid_t dataset, hid_t plist, RowIndex& index) {
  const std::size_t axes = index.shape.size();
  std::vector<hsize_t> chunk(axes);
  if (H5Pget_chunk(plist, static_cast<int>(axes), chunk.data()) != static_cast<int>(axes))
    file.fail(index.name, "has unreadable chunks", kRecopy);
  double bytes = 1, count = 1;
  for (std::size_t axis = 0; axis < axes; ++axis) {
    bytes *= static_cast<double>(chunk[axis]);
    count *= std::ceil(static_cast<double>(index.shape[axis]) / static_cast<double>(chunk[axis]));
  }
  if (!(bytes >= 1 && bytes <= static_cast<double>(kMaxChunkBytes)))
    file.fail(index.name, str("has chunks of ", bytes, " bytes"), kRechunk);
  if (!(count <= static_cast<double>(kMaxChunks))) {
    file.fail(index.name, str("has ", count, " chunks, more than ", kMaxChunks),
              "use larger chunks, or split the recording");
  }
  index.storage = Storage::kChunks;
  index.chunk_shape.assign(chunk.begin(), chunk.end());
  const unsigned deflate = find_deflate(file, index.name, plist);
  std::vector<hsize_t> at(axes, 0);
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(count); ++i) {
    unsigned skipped = 0;
    haddr_t address = HADDR_UNDEF;
    hsize_t size = 0;
    if (H5Dget_chunk_info_by_coord(dataset, at.data(), &skipped, &address, &size) < 0)
      file.fail(index.name, str("has an unreadable index (", last_error(), ")"), kRecopy);
    if (address == HADDR_UNDEF) size = 0;
    index.chunks.push_back({size == 0 ? 0 : address, size, deflate != 0 && (skipped & deflate) == 0});
    for (std::size_t axis = axes;
         axis-- > 0 && (at[axis] += chunk[axis]) >= static_cast<hsize_t>(index.shape[axis]);)
      at[axis] = 0;
  }
}

void find_block(const File& file, hid_t dataset, RowIndex& index) {
  const haddr_t offset = H5Dget_offset(dataset);
  const std::uint64_t size = row_bytes(index) * static_cast<std::uint64_t>(index.shape[0]);
  if (offset == HADDR_UNDEF || !file.raw().holds(offset, size))
    file.fail(index.name, "lies beyond the end of the file", kRecopy);
  index.offset = offset;
  index.storage = Storage::kContiguous;
}

void check_shape(const File& file, const RowIndex& index, bool is_ragged) {
  const auto& shape = index.shape;
  if (shape.empty() || shape.size() > 4 || shape[0] > kMaxRows || (is_ragged && shape.size() != 1)) {
    file.fail(index.name, str("has shape ", shape_text(shape), ", which is no sequence of frames"),
              "store frames as [steps, height, width, 3], or as JPEG bytes per step");
  }
  if (shape[0] == 0) file.fail(index.name, "has zero steps", "remove the demonstration from the file");
  double bytes = 1;
  for (std::size_t axis = 1; axis < shape.size(); ++axis) bytes *= static_cast<double>(shape[axis]);
  if (bytes < 1 || bytes > static_cast<double>(kMaxRowBytes)) {
    file.fail(index.name, str("has frames of shape ", shape_text(shape)),
              "store frames of 1 to 4096 pixels a side");
  }
}

}  // namespace

RowIndex find_rows(const File& file, const std::string& name) {
  const Handle dataset = file.open_dataset(name);
  const Handle type(H5Dget_type(dataset.get()));
  const bool is_ragged = H5Tget_class(type.get()) == H5T_VLEN;
  const Handle element = is_ragged ? Handle(H5Tget_super(type.get())) : Handle(H5Tcopy(type.get()));
  if (!is_byte(element.get())) file.fail(name, "does not hold bytes (uint8)", "store frames as uint8");
  RowIndex index;
  index.name = name;
  index.shape = shape_of(dataset.get());
  check_shape(file, index, is_ragged);
  if (is_ragged) {
    index.storage = Storage::kRagged;
    index.references.resize(static_cast<std::size_t>(index.shape[0]));
    file.read_all(dataset, heap_reference_type().get(), index.references.data(), name);
    return index;
  }
  const Handle plist(H5Dget_create_plist(dataset.get()));
  switch (H5Pget_layout(plist.get())) {
    case H5D_CHUNKED:
      find_chunks(file, dataset.get(), plist.get(), index);
      break;
    case H5D_CONTIGUOUS:
      find_block(file, dataset.get(), index);
      break;
    default:  // compact: at most 64 KiB, in the dataset's header
      index.bytes.resize(row_bytes(index) * static_cast<std::size_t>(index.shape[0]));
      file.read_all(dataset, H5T_NATIVE_UINT8, index.bytes.data(), name);
  }
  return index;
}

}  // namespace shallowpi::hdf5
