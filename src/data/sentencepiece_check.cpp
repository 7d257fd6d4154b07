#include "data/sentencepiece_check.h"

#include <algorithm>
#include <cstdint>
#include <set>
#include <vector>

#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

// Field numbers of sentencepiece_model.proto.
constexpr std::uint64_t kPieces = 1, kNormalizer = 3;  // ModelProto
constexpr std::uint64_t kPiece = 1, kType = 3;         // ModelProto.SentencePiece
constexpr std::uint64_t kCharsMap = 2;                 // NormalizerSpec
constexpr std::int32_t kUserDefined = 4;               // ModelProto.SentencePiece.Type
constexpr std::size_t kMaxNested = 64;                 // the library's array

/// Walks the fields of one protobuf message.
class ProtoReader {
 public:
  explicit ProtoReader(std::string_view message) : rest_(message) {}

  /// Moves to the next field; false at the end and where the message is damaged.
  bool next() {
    std::uint64_t tag = 0;
    if (rest_.empty() || !varint(tag)) return false;
    number = tag >> 3;
    value = 0;
    bytes = {};
    switch (tag & 7) {
      case 0:
        return varint(value);
      case 1:
        return take(8);
      case 2: {
        std::uint64_t size = 0;
        return varint(size) && take(size);
      }
      case 5:
        return take(4);
      default:  // groups, which the model has none of
        return take(UINT64_MAX);
    }
  }
  bool is_damaged() const { return is_damaged_; }

  std::uint64_t number = 0, value = 0;
  std::string_view bytes;

 private:
  bool take(std::uint64_t size) {
    is_damaged_ = size > rest_.size();
    if (is_damaged_) return false;
    bytes = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return true;
  }
  bool varint(std::uint64_t& out) {
    out = 0;
    for (int shift = 0; shift < 70 && !rest_.empty(); shift += 7) {
      const auto byte = static_cast<unsigned char>(rest_.front());
      rest_.remove_prefix(1);
      out |= std::uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return true;
    }
    is_damaged_ = true;
    return false;
  }

  std::string_view rest_;
  bool is_damaged_ = false;
};

/// How many of `pieces` begin alike, each with the whole of the one before: "a", "ab", "abc" are 3.
std::size_t longest_nesting(const std::set<std::string_view>& pieces) {
  std::size_t longest = 0;
  std::vector<std::string_view> nested;
  for (const std::string_view piece : pieces) {
    while (!nested.empty() && piece.substr(0, nested.back().size()) != nested.back()) nested.pop_back();
    nested.push_back(piece);
    longest = std::max(longest, nested.size());
  }
  return longest;
}

}  // namespace

std::string sentencepiece_problem(std::string_view model) {
  std::set<std::string_view> user_defined;
  ProtoReader fields(model);
  while (fields.next()) {
    ProtoReader inner(fields.bytes);
    std::string_view piece;
    bool is_user_defined = false;
    while ((fields.number == kPieces || fields.number == kNormalizer) && inner.next()) {
      if (fields.number == kNormalizer && inner.number == kCharsMap && !inner.bytes.empty())
        return "it has a table of normalisation rules, which PaliGemma's has not";
      if (fields.number != kPieces) continue;
      if (inner.number == kPiece) piece = inner.bytes;
      is_user_defined |= inner.number == kType && static_cast<std::int32_t>(inner.value) == kUserDefined;
    }
    if (inner.is_damaged()) return "a part of it is cut";
    if (piece.find('\0') != std::string_view::npos) return "a piece holds a NUL byte";
    if (is_user_defined) user_defined.insert(piece);
  }
  if (fields.is_damaged()) return "it is cut";
  if (longest_nesting(user_defined) > kMaxNested)
    return str("more than ", kMaxNested, " of its user-defined pieces begin alike");
  return "";
}

}  // namespace shallowpi
