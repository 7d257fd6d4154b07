#include "runtime/message.h"

#include <c10/util/Half.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <msgpack.hpp>

#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

[[noreturn]] void refuse(const std::string& what, std::string_view field = "message") {
  throw UsageError(str(field, ": ", what));
}

/// Fills kind and item_bytes of `array` from numpy's dtype.str.
void set_dtype(WireArray& array, std::string_view dtype, std::string_view field) {
  const auto unknown = [&] {
    refuse(str("the array type ", in_quotes(dtype),
               " is not one of |b1, |u1, |i1, <u2 to <i8, <f2 to <f8, <U, |S"),
           field);
  };
  if (dtype.size() < 3 || dtype.size() > 8 || (dtype[0] != '<' && dtype[0] != '|')) unknown();
  const std::string digits(dtype.substr(2));
  if (digits.find_first_not_of("0123456789") != std::string::npos) unknown();
  const std::size_t size = std::stoul(digits);
  if (size == 0) unknown();
  const auto any_of = [&](std::initializer_list<std::size_t> sizes) {
    if (std::find(sizes.begin(), sizes.end(), size) == sizes.end()) unknown();
  };
  switch (dtype[1]) {
    case 'b':
      any_of({1});
      break;
    case 'i':
    case 'u':
      any_of({1, 2, 4, 8});
      break;
    case 'f':
      any_of({2, 4, 8});
      break;
    case 'U':
    case 'S':
      break;
    default:
      unknown();
  }
  array.kind = dtype[1];
  array.item_bytes = array.kind == 'U' ? 4 * size : size;
}

template <typename T>
const T& member(const WireMap& map, std::string_view key, std::string_view kind, std::string_view field) {
  const WireValue* value = find(map, key);
  const T* typed = value ? value->as<T>() : nullptr;
  if (!typed) refuse(str("the array has no ", key, " that is ", kind), field);
  return *typed;
}

WireArray to_array(const WireMap& map, std::string_view field) {
  WireArray array;
  set_dtype(array, member<std::string_view>(map, "dtype", "text", field), field);
  array.data = member<WireBytes>(map, "data", "bytes", field).bytes;
  const WireList& shape = member<WireList>(map, "shape", "a list", field);
  if (shape.size() > kMaxArrayRank)
    refuse(str("the array has ", shape.size(), " dimensions, at most ", kMaxArrayRank), field);
  std::uint64_t bytes = array.item_bytes;
  std::uint64_t elements = 1;  // as if sides of 0 were 1
  bool overflow = false;
  for (const WireValue& size : shape) {
    const std::int64_t* integer = size.as<std::int64_t>();
    if (!integer || *integer < 0) refuse("the array's shape holds something other than sizes", field);
    array.shape.push_back(*integer);
    overflow |= __builtin_mul_overflow(bytes, static_cast<std::uint64_t>(*integer), &bytes);
    overflow |= __builtin_mul_overflow(elements, std::max<std::uint64_t>(*integer, 1), &elements);
  }
  // Nothing bounds the other sides of an empty array.
  if (bytes == 0) overflow |= elements > kMaxMessageItems;
  if (overflow || bytes != array.data.size())
    refuse(str("the array of shape [", join(array.shape, ", "), "] and type ", array.dtype(), " has ",
               array.data.size(), " bytes"),
           field);
  return array;
}

/// A map of the form that openpi gives arrays and numpy scalars, as what it stands for; other maps as they
/// are.
WireValue finish_map(WireMap map, std::string_view field) {
  if (find(map, "__ndarray__")) return {to_array(map, field)};
  if (find(map, "__npgeneric__")) {
    WireArray checked;
    set_dtype(checked, member<std::string_view>(map, "dtype", "text", field), field);
    const WireValue* data = find(map, "data");
    if (!data || data->as<WireMap>() || data->as<WireList>() || data->as<WireArray>())
      refuse("the numpy scalar has no data that is a plain value", field);
    return *data;
  }
  return {std::move(map)};
}

/// Builds the tree while msgpack parses. Every problem is thrown.
class Builder : public msgpack::null_visitor {
 public:
  WireValue take_root() { return std::move(root_); }

  bool visit_nil() { return add({}); }
  bool visit_boolean(bool value) { return add({value}); }
  bool visit_positive_integer(std::uint64_t value) {
    if (value > INT64_MAX) refuse("an integer is beyond 63 bits");
    return add({static_cast<std::int64_t>(value)});
  }
  bool visit_negative_integer(std::int64_t value) { return add({value}); }
  bool visit_float32(float value) { return add({static_cast<double>(value)}); }
  bool visit_float64(double value) { return add({value}); }
  bool visit_str(const char* text, std::uint32_t size) {
    if (!is_utf8({text, size})) refuse("a text is not UTF-8");
    return add({std::string_view(text, size)});
  }
  bool visit_bin(const char* bytes, std::uint32_t size) { return add({WireBytes{{bytes, size}}}); }
  bool visit_ext(const char*, std::uint32_t) { refuse("it holds a msgpack extension type"); }

  bool start_array(std::uint32_t count) { return open(count, false); }
  bool end_array() {
    WireValue done{std::move(open_.back().list)};
    open_.pop_back();
    return add(std::move(done));
  }
  bool start_map(std::uint32_t count) { return open(count, true); }
  bool end_map_key() {
    open_.back().key_expected = false;
    return true;
  }
  bool start_map_key() {
    open_.back().key_expected = true;
    return true;
  }
  bool end_map() {
    WireMap map = std::move(open_.back().map);
    open_.pop_back();
    return add(finish_map(std::move(map), field()));
  }
  [[noreturn]] void parse_error(std::size_t, std::size_t) { refuse("it is not msgpack"); }
  [[noreturn]] void insufficient_bytes(std::size_t, std::size_t) {
    refuse("it ends in the middle of a value");
  }

 private:
  struct Open {
    bool is_map = false, key_expected = false;
    std::string_view key;
    WireList list;
    WireMap map;
  };

  bool open(std::uint32_t count, bool is_map) {
    if (open_.size() >= kMaxMessageDepth) refuse(str("it nests deeper than ", kMaxMessageDepth, " levels"));
    if (count > kMaxMessageItems) refuse(str("it declares ", count, " items, at most ", kMaxMessageItems));
    if (is_map && count > kMaxMapKeys) refuse(str("a map of it has ", count, " keys, at most ", kMaxMapKeys));
    open_.push_back({is_map, false, {}, {}, {}});
    return true;
  }
  bool add(WireValue value) {
    if (++items_ > kMaxMessageItems) refuse(str("it holds more than ", kMaxMessageItems, " items"));
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (Open& top = open_.back(); !top.is_map) {
      top.list.push_back(std::move(value));
    } else if (top.key_expected) {
      set_key(top, value);
    } else {
      top.map.push_back({top.key, std::move(value)});
    }
    return true;
  }
  /// Where in the message we are: the keys of the open maps.
  std::string field() const {
    std::vector<std::string> keys;
    for (const Open& level : open_)
      if (level.is_map) keys.push_back(printable(level.key));
    return keys.empty() ? "message" : join(keys, "/");
  }
  static std::string printable(std::string_view key) {
    const std::string quoted = in_quotes(key);
    return quoted.substr(1, quoted.size() - 2);
  }
  static void set_key(Open& top, const WireValue& value) {
    if (const auto* text = value.as<std::string_view>()) {
      top.key = *text;
    } else if (const auto* bytes = value.as<WireBytes>(); bytes && is_utf8(bytes->bytes)) {
      top.key = bytes->bytes;
    } else {
      refuse("the key of a map is not text");
    }
    if (find(top.map, top.key)) refuse(str("the key ", in_quotes(top.key), " is there twice"));
  }

  WireValue root_;
  std::vector<Open> open_;
  std::size_t items_ = 0;
};

using Packer = msgpack::packer<msgpack::sbuffer>;

void pack_text(Packer& packer, std::string_view text) {
  packer.pack_str(static_cast<std::uint32_t>(text.size()));
  packer.pack_str_body(text.data(), static_cast<std::uint32_t>(text.size()));
}

void pack_bytes(Packer& packer, std::string_view bytes) {
  packer.pack_bin(static_cast<std::uint32_t>(bytes.size()));
  packer.pack_bin_body(bytes.data(), static_cast<std::uint32_t>(bytes.size()));
}

/// Keys as bytes and in this order, as openpi_client.msgpack_numpy writes them.
void pack_array(Packer& packer, const WireArray& array) {
  packer.pack_map(4);
  pack_bytes(packer, "__ndarray__");
  packer.pack_true();
  pack_bytes(packer, "data");
  pack_bytes(packer, array.data);
  pack_bytes(packer, "dtype");
  pack_text(packer, array.dtype());
  pack_bytes(packer, "shape");
  packer.pack_array(static_cast<std::uint32_t>(array.shape.size()));
  for (std::int64_t size : array.shape) packer.pack_int64(size);
}

/// As float64 always: the library's pack_double makes an integer of a whole number, and how it tests for one
/// is undefined for 2^64.
void pack_float64(msgpack::sbuffer& buffer, double value) {
  std::array<char, 9> bytes{'\xcb'};
  auto bits = std::bit_cast<std::uint64_t>(value);
  for (std::size_t i = 8; i > 0; --i, bits >>= 8) bytes[i] = static_cast<char>(bits);
  buffer.write(bytes.data(), bytes.size());
}

struct Pack {
  msgpack::sbuffer& buffer;
  Packer& packer;
  void operator()(std::monostate) const { packer.pack_nil(); }
  void operator()(bool value) const { value ? packer.pack_true() : packer.pack_false(); }
  void operator()(std::int64_t value) const { packer.pack_int64(value); }
  void operator()(double value) const { pack_float64(buffer, value); }
  void operator()(std::string_view text) const { pack_text(packer, text); }
  void operator()(const WireBytes& bytes) const { pack_bytes(packer, bytes.bytes); }
  void operator()(const WireArray& array) const { pack_array(packer, array); }
  void operator()(const WireList& list) const {
    packer.pack_array(static_cast<std::uint32_t>(list.size()));
    for (const WireValue& item : list) std::visit(*this, item.value);
  }
  void operator()(const WireMap& map) const {
    packer.pack_map(static_cast<std::uint32_t>(map.size()));
    for (const auto& [key, item] : map) {
      pack_text(packer, key);
      std::visit(*this, item.value);
    }
  }
};

template <typename T>
double load(const char* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return static_cast<double>(value);
}

/// The elements below index `first` of dimension `dim`, as nested lists.
Json array_to_json(const WireArray& array, std::size_t dim, std::size_t first) {
  if (dim == array.shape.size()) return array.number(first);
  Json list = Json::array();
  for (std::int64_t i = 0; i < array.shape[dim]; ++i)
    list.push_back(array_to_json(array, dim + 1, first * array.shape[dim] + i));
  return list;
}

}  // namespace

std::int64_t WireArray::size() const {
  std::int64_t count = 1;
  for (std::int64_t side : shape) count *= side;
  return count;
}

std::string WireArray::dtype() const {
  const bool bytes = kind == 'S' || (kind != 'U' && item_bytes == 1);
  return str(bytes ? '|' : '<', kind, kind == 'U' ? item_bytes / 4 : item_bytes);
}

double WireArray::number(std::size_t i) const {
  const char* at = data.data() + i * item_bytes;
  switch (kind) {
    case 'f':
      return item_bytes == 8 ? load<double>(at) : item_bytes == 4 ? load<float>(at) : load<c10::Half>(at);
    case 'i':
      return item_bytes == 8   ? load<std::int64_t>(at)
             : item_bytes == 4 ? load<std::int32_t>(at)
             : item_bytes == 2 ? load<std::int16_t>(at)
                               : load<std::int8_t>(at);
    case 'b':
    case 'u':
      return item_bytes == 8   ? load<std::uint64_t>(at)
             : item_bytes == 4 ? load<std::uint32_t>(at)
             : item_bytes == 2 ? load<std::uint16_t>(at)
                               : load<std::uint8_t>(at);
    default:
      refuse("an array of text stands where numbers belong");
  }
}

const WireValue* find(const WireMap& map, std::string_view key) {
  for (const auto& [name, value] : map)
    if (name == key) return &value;
  return nullptr;
}

WireValue decode_message(std::string_view bytes) {
  Builder builder;
  std::size_t end = 0;
  if (!msgpack::parse(bytes.data(), bytes.size(), end, builder)) refuse("it is not one whole msgpack value");
  if (end != bytes.size()) refuse("there are bytes after its end");
  return builder.take_root();
}

std::string encode_message(const WireValue& value) {
  msgpack::sbuffer buffer;
  Packer packer(buffer);
  std::visit(Pack{buffer, packer}, value.value);
  return {buffer.data(), buffer.size()};
}

WireValue to_wire(const Json& json) {
  if (json.is_boolean()) return {json.get<bool>()};
  if (json.is_number_integer()) return {json.get<std::int64_t>()};
  if (json.is_number()) return {json.get<double>()};
  if (json.is_string()) return {std::string_view(json.get_ref<const std::string&>())};
  if (json.is_array()) {
    WireList list;
    for (const Json& item : json) list.push_back(to_wire(item));
    return {std::move(list)};
  }
  if (json.is_object()) {
    WireMap map;
    for (auto item = json.begin(); item != json.end(); ++item) map.push_back({item.key(), to_wire(*item)});
    return {std::move(map)};
  }
  return {};
}

Json to_json(const WireValue& value) {
  struct Convert {
    Json operator()(std::monostate) const { return nullptr; }
    Json operator()(bool b) const { return b; }
    Json operator()(std::int64_t i) const { return i; }
    Json operator()(double d) const { return d; }
    Json operator()(std::string_view text) const { return std::string(text); }
    Json operator()(const WireBytes& bytes) const { return std::string(bytes.bytes); }
    Json operator()(const WireArray& array) const { return array_to_json(array, 0, 0); }
    Json operator()(const WireList& list) const {
      Json json = Json::array();
      for (const WireValue& item : list) json.push_back(to_json(item));
      return json;
    }
    Json operator()(const WireMap& map) const {
      Json json = Json::object();
      for (const auto& [key, item] : map) json[std::string(key)] = to_json(item);
      return json;
    }
  };
  return std::visit(Convert{}, value.value);
}

}  // namespace shallowpi
