#include "data/hdf5_file.h"

#include <cmath>
#include <cstring>
#include <functional>

#include "data/hdf5_heap.h"
#include "shallowpi/base/text.h"

namespace shallowpi::hdf5 {
namespace {

constexpr std::size_t kMaxTextBytes = std::size_t{1} << 20;
constexpr std::size_t kMaxChildren = 100'000;
constexpr std::uint64_t kMaxDeflateRatio = 1032;  // zlib's own bound
const char* const kPlainData = "copy the data into the file itself with h5repack or h5py";

// `count` texts of `type`, which `read` reads: of fixed or of variable length, as h5py writes either.
std::vector<std::string> decode_texts(const RawFile& file, hid_t type, std::size_t count,
                                      const std::string& name,
                                      const std::function<void(hid_t type, void* to)>& read) {
  std::vector<std::string> texts(count);
  if (H5Tis_variable_str(type) > 0) {
    std::vector<HeapReference> references(count);
    read(heap_reference_type().get(), references.data());
    for (std::size_t row = 0; row < count; ++row) {
      const std::string row_name = count == 1 ? name : str(name, " step ", row);
      const auto bytes = read_heap(file, references[row], row_name, kMaxTextBytes);
      texts[row].assign(bytes.begin(), bytes.end());
    }
  } else {
    const std::size_t size = H5Tget_size(type);
    if (size > kMaxTextBytes) file.fail(name, "holds texts of unreasonable length", "store shorter texts");
    std::string all(count * size, '\0');
    read(type, all.data());
    for (std::size_t row = 0; row < count; ++row) texts[row] = all.substr(row * size, size);
  }
  for (std::string& text : texts) text.resize(std::strlen(text.c_str()));
  return texts;
}

}  // namespace

Handle::~Handle() {
  if (id_ >= 0) H5Idec_ref(id_);
}

std::string last_error() {
  std::string text;
  auto take_first = [](unsigned, const H5E_error2_t* error, void* out) -> herr_t {
    auto& result = *static_cast<std::string*>(out);
    if (result.empty() && error->desc != nullptr) result = error->desc;
    return 0;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_first, &text);
  return text;
}

std::vector<std::int64_t> shape_of(hid_t dataset) {
  Handle space(H5Dget_space(dataset));
  const int rank = H5Sget_simple_extent_ndims(space.get());
  if (rank <= 0) return {};
  std::vector<hsize_t> dims(static_cast<std::size_t>(rank));
  H5Sget_simple_extent_dims(space.get(), dims.data(), nullptr);
  return {dims.begin(), dims.end()};
}

std::vector<H5Z_filter_t> filters_of(hid_t plist) {
  std::vector<H5Z_filter_t> filters;
  for (int i = 0; i < H5Pget_nfilters(plist); ++i) {
    unsigned flags = 0;
    std::size_t values = 0;
    filters.push_back(
        H5Pget_filter2(plist, static_cast<unsigned>(i), &flags, &values, nullptr, 0, nullptr, nullptr));
  }
  return filters;
}

File::File(const std::filesystem::path& path) : raw_(path) {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  H5PLset_loading_state(0);
  Handle access(H5Pcreate(H5P_FILE_ACCESS));
  // Read-only data is often on network file systems that know no locks.
  H5Pset_file_locking(access.get(), false, true);
  handle_ = Handle(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()));
  if (!handle_) {
    fail("the file", str("cannot be read as HDF5 (", last_error(), "): truncated or another kind of file"),
         kRecopy);
  }
  const Handle creation(H5Fget_create_plist(handle_.get()));
  hsize_t user_block = 0;
  H5Pget_userblock(creation.get(), &user_block);
  // Versions of the library disagree on whether the addresses that they give count from its end.
  if (user_block != 0) fail("the file", "begins with a user block", "remove it with h5unjam");
}

bool File::has(const std::string& name) const {
  std::string so_far;
  for (const std::string& part : split(name, '/')) {
    if (part.empty()) continue;
    so_far += "/" + part;
    if (H5Lexists(handle_.get(), so_far.c_str(), H5P_DEFAULT) <= 0) return false;
    H5L_info_t info;
    if (H5Lget_info(handle_.get(), so_far.c_str(), &info, H5P_DEFAULT) < 0)
      fail(so_far.substr(1), str("has an unreadable link (", last_error(), ")"), kRecopy);
    if (info.type == H5L_TYPE_EXTERNAL)
      fail(so_far.substr(1), "is an external link to another file", kPlainData);
    if (info.type != H5L_TYPE_HARD) fail(so_far.substr(1), "is a soft link", kPlainData);
  }
  return true;
}

bool File::is_group(const std::string& name) const {
  if (!has(name)) return false;
  Handle object(H5Oopen(handle_.get(), name.c_str(), H5P_DEFAULT));
  return object && H5Iget_type(object.get()) == H5I_GROUP;
}

std::vector<std::string> File::children(const std::string& group) const {
  std::vector<std::string> names;
  auto collect = [](hid_t, const char* name, const H5L_info_t*, void* out) -> herr_t {
    auto& list = *static_cast<std::vector<std::string>*>(out);
    list.emplace_back(name);
    return list.size() < kMaxChildren ? 0 : -1;
  };
  Handle handle(H5Gopen2(handle_.get(), group.c_str(), H5P_DEFAULT));
  if (!handle || H5Literate(handle.get(), H5_INDEX_NAME, H5_ITER_INC, nullptr, collect, &names) < 0)
    fail(group, str("cannot be listed (", last_error(), ")"), kRecopy);
  return names;
}

Handle File::open_attribute(const std::string& object, const std::string& attribute) const {
  if (object != "/" && !has(object)) return Handle();
  if (H5Aexists_by_name(handle_.get(), object.c_str(), attribute.c_str(), H5P_DEFAULT) <= 0) return Handle();
  return Handle(H5Aopen_by_name(handle_.get(), object.c_str(), attribute.c_str(), H5P_DEFAULT, H5P_DEFAULT));
}

std::optional<double> File::number_attribute(const std::string& object, const std::string& attribute) const {
  const Handle handle = open_attribute(object, attribute);
  if (!handle) return std::nullopt;
  const Handle type(H5Aget_type(handle.get())), space(H5Aget_space(handle.get()));
  if (!type || !space || H5Sget_simple_extent_npoints(space.get()) != 1) return std::nullopt;
  double value = 0;
  const H5T_class_t kind = H5Tget_class(type.get());
  if ((kind != H5T_INTEGER && kind != H5T_FLOAT) || H5Aread(handle.get(), H5T_NATIVE_DOUBLE, &value) < 0)
    return std::nullopt;
  return value;
}

std::optional<std::string> File::text_attribute(const std::string& object,
                                                const std::string& attribute) const {
  const Handle handle = open_attribute(object, attribute);
  if (!handle) return std::nullopt;
  const Handle type(H5Aget_type(handle.get())), space(H5Aget_space(handle.get()));
  if (!type || !space || H5Tget_class(type.get()) != H5T_STRING) return std::nullopt;
  const std::size_t size = H5Tget_size(type.get());
  if (H5Sget_simple_extent_npoints(space.get()) != 1 || size == 0 || size > kMaxTextBytes)
    return std::nullopt;
  const std::string name = str(attribute, " of ", object);
  const auto read = [&](hid_t memory_type, void* to) {
    if (H5Aread(handle.get(), memory_type, to) < 0)
      fail(name, str("cannot be read (", last_error(), ")"), kRecopy);
  };
  return decode_texts(raw_, type.get(), 1, name, read).front();
}

Handle File::open_dataset(const std::string& name) const {
  if (!has(name)) fail(name, "is missing", kRerecord);
  Handle dataset(H5Oopen(handle_.get(), name.c_str(), H5P_DEFAULT));
  if (!dataset) fail(name, str("cannot be opened (", last_error(), ")"), kRecopy);
  if (H5Iget_type(dataset.get()) != H5I_DATASET) fail(name, "is not a dataset", kRecopy);
  Handle plist(H5Dget_create_plist(dataset.get()));
  if (!plist) fail(name, str("has no readable properties (", last_error(), ")"), kRecopy);
  if (H5Pget_layout(plist.get()) == H5D_VIRTUAL) fail(name, "is a virtual dataset", kPlainData);
  if (H5Pget_external_count(plist.get()) > 0) fail(name, "is stored in another file", kPlainData);
  for (const H5Z_filter_t filter : filters_of(plist.get())) {
    if (filter != H5Z_FILTER_DEFLATE && filter != H5Z_FILTER_SHUFFLE) {
      fail(name,
           str("is compressed with filter ", filter, ", but only gzip (with or without shuffle) is read"),
           "repack the file: h5repack -f GZIP=4 IN OUT");
    }
  }
  // More elements than the stored bytes can hold means a damaged header; nothing has been allocated yet.
  const std::uint64_t stored = H5Dget_storage_size(dataset.get());
  Handle type(H5Dget_type(dataset.get()));
  double claimed = static_cast<double>(H5Tget_size(type.get()));
  for (std::int64_t extent : shape_of(dataset.get())) claimed *= static_cast<double>(extent);
  if (stored > raw_.bytes() || claimed > static_cast<double>(stored) * kMaxDeflateRatio)
    fail(name, "claims more data than the file holds", kRecopy);
  return dataset;
}

void File::read_all(const Handle& dataset, hid_t type, void* to, const std::string& name) const {
  if (H5Dread(dataset.get(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, to) < 0)
    fail(name, str("cannot be read (", last_error(), ")"), kRecopy);
}

std::vector<std::string> File::read_texts(const std::string& name) const {
  const Handle dataset = open_dataset(name);
  const Handle type(H5Dget_type(dataset.get()));
  const std::vector<std::int64_t> shape = shape_of(dataset.get());
  if (H5Tget_class(type.get()) != H5T_STRING) fail(name, "does not hold texts", "store it as UTF-8 texts");
  if (shape.size() > 1 || (shape.size() == 1 && shape[0] > kMaxRows))
    fail(name, str("has shape ", shape_text(shape), " where [steps] is expected"), "store one text per step");
  const std::size_t count = shape.empty() ? 1 : static_cast<std::size_t>(shape[0]);
  return decode_texts(raw_, type.get(), count, name,
                      [&](hid_t memory_type, void* to) { read_all(dataset, memory_type, to, name); });
}

Matrix File::read_matrix(const std::string& name, std::int64_t columns, std::int64_t max_columns) const {
  const Handle dataset = open_dataset(name);
  const Handle type(H5Dget_type(dataset.get()));
  const std::vector<std::int64_t> shape = shape_of(dataset.get());
  const std::string expected = columns > 0 ? str(columns) : str("1..", max_columns);
  if (H5Tget_class(type.get()) != H5T_FLOAT)
    fail(name, "does not hold floating-point numbers", "store it as float32 or float64");
  if (shape.size() != 2 || shape[0] > kMaxRows ||
      (columns > 0 ? shape[1] != columns : shape[1] < 1 || shape[1] > max_columns)) {
    fail(name, str("has shape ", shape_text(shape), " where [steps, ", expected, "] is expected"),
         "check that the file has the right layout for this robot");
  }
  if (shape[0] == 0) fail(name, "has zero steps", "remove the demonstration from the file");
  std::vector<float> flat(static_cast<std::size_t>(shape[0] * shape[1]));
  read_all(dataset, H5T_NATIVE_FLOAT, flat.data(), name);
  Matrix rows(static_cast<std::size_t>(shape[0]));
  for (std::size_t row = 0; row < rows.size(); ++row) {
    const auto begin = flat.begin() + static_cast<std::ptrdiff_t>(row) * shape[1];
    rows[row].assign(begin, begin + shape[1]);
    for (float value : rows[row]) {
      if (!std::isfinite(value)) {
        fail(name, str("is not finite (NaN or infinity) at step ", row),
             "remove the demonstration from the file");
      }
    }
  }
  return rows;
}

}  // namespace shallowpi::hdf5
