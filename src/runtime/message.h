// openpi's wire format: msgpack, with numpy arrays as maps (openpi_client.msgpack_numpy). Reading is for
// bytes from anyone: nothing is copied or reserved by a size that a message declares, and what cannot be
// understood is a UsageError.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "shallowpi/base/json.h"

namespace shallowpi {

/// Limits of a message; far above what an observation needs.
inline constexpr std::size_t kMaxMessageDepth = 16, kMaxMessageItems = 16384, kMaxMapKeys = 256,
                             kMaxArrayRank = 8;

struct WireBytes {
  std::string_view bytes;
};

/// A numpy array in C order, little-endian.
struct WireArray {
  char kind = 'f';             ///< numpy's dtype.kind: b, i, u, f, U (UTF-32) or S (bytes)
  std::size_t item_bytes = 8;  ///< bytes per element
  std::vector<std::int64_t> shape;
  std::string_view data;  ///< exactly the product of `shape` times item_bytes

  std::int64_t size() const;  ///< elements
  std::string dtype() const;  ///< numpy's dtype.str, as "<f8"
  /// Element i as a number; for the kinds b, i, u, f.
  double number(std::size_t i) const;
};

struct WireEntry;
struct WireValue;
using WireList = std::vector<WireValue>;
/// In the order of the message; text and bytes keys are not told apart.
using WireMap = std::vector<WireEntry>;

/// One value of a message. Text, bytes and arrays point into the message, or into what they were made from.
struct WireValue {
  std::variant<std::monostate, bool, std::int64_t, double, std::string_view, WireBytes, WireArray, WireList,
               WireMap>
      value;

  template <typename T>
  const T* as() const {
    return std::get_if<T>(&value);
  }
};

struct WireEntry {
  std::string_view key;
  WireValue value;
};

/// The value of `key`; null where the map has none.
const WireValue* find(const WireMap& map, std::string_view key);

/// Throws UsageError for what is not one whole msgpack value, for extension types, keys that repeat or are
/// not text, nesting beyond kMaxMessageDepth, more than kMaxMessageItems values, maps of more than
/// kMaxMapKeys keys, and arrays whose dtype is not of the kinds above or whose shape contradicts their bytes.
WireValue decode_message(std::string_view bytes);
std::string encode_message(const WireValue& value);

/// JSON as a message, its text pointing into `json`; and a message as JSON, arrays as nested lists.
WireValue to_wire(const Json& json);
Json to_json(const WireValue& value);

}  // namespace shallowpi
