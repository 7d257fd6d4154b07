#include "base/safetensors_header.h"

#include <torch/version.h>

#include <algorithm>
#include <array>
#include <limits>
#include <set>

#include "shallowpi/base/error.h"
#include "shallowpi/base/json.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

// Limits beyond the format's, far above any real checkpoint.
constexpr std::size_t kMaxTensors = 200'000;
constexpr std::size_t kMaxRank = 8;
constexpr std::size_t kMaxNameBytes = 1024;
constexpr std::size_t kMaxDepth = 64;

struct DtypeName {
  std::string_view name;
  torch::Dtype dtype;
};
// In the order of the reference implementation's enum, which is the layout order of its files, reversed.
constexpr auto kDtypes = std::to_array<DtypeName>({
  {"BOOL", torch::kBool}, {"U8", torch::kUInt8}, {"I8", torch::kInt8}, {"F8_E5M2", torch::kFloat8_e5m2},
      {"F8_E4M3", torch::kFloat8_e4m3fn},
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 7
      {"F8_E8M0", torch::kFloat8_e8m0fnu},
#endif
      {"F8_E4M3FNUZ", torch::kFloat8_e4m3fnuz}, {"F8_E5M2FNUZ", torch::kFloat8_e5m2fnuz},
      {"I16", torch::kInt16}, {"U16", torch::kUInt16}, {"F16", torch::kFloat16}, {"BF16", torch::kBFloat16},
      {"I32", torch::kInt32}, {"U32", torch::kUInt32}, {"F32", torch::kFloat32},
      {"C64", torch::kComplexFloat}, {"F64", torch::kFloat64}, {"I64", torch::kInt64},
      {"U64", torch::kUInt64},
});
constexpr std::array<std::string_view, 3> kNotInTorch = {"F4", "F6_E2M3", "F6_E3M2"};

/// A tensor as the header spells it, before its numbers are checked.
struct RawTensor {
  std::optional<torch::Dtype> dtype;
  std::optional<std::vector<std::uint64_t>> shape, offsets;
};

/// Reads the header's events without building a tree, so that a hostile header
/// costs little more than its size.
class HeaderReader : public nlohmann::json_sax<Json> {
 public:
  bool null() override {
    // The reference implementation writes no metadata as a missing key, and reads null as such.
    if (state_ == State::kMember && member_ == kMetadataKey) return leave_member();
    return scalar("null");
  }
  bool boolean(bool) override { return scalar("a boolean"); }
  bool number_integer(number_integer_t) override { return scalar("a negative integer"); }
  bool number_unsigned(number_unsigned_t value) override {
    if (state_ != State::kNumbers) return scalar("a number");
    if (numbers_.size() >= kMaxRank)
      return fail(str(in_quotes(field_), " has more than ", kMaxRank, " entries"));
    numbers_.push_back(value);
    return true;
  }
  bool number_float(number_float_t, const string_t& text) override {
    return scalar(str("the number ", in_quotes(text)));
  }
  bool binary(binary_t&) override { return scalar("binary data"); }

  bool string(string_t& value) override {
    if (state_ == State::kMetadataValue) {
      metadata_[field_] = std::move(value);
      state_ = State::kMetadata;
      return true;
    }
    return state_ == State::kField && field_ == "dtype" ? set_dtype(value) : scalar("a string");
  }

  bool start_object(std::size_t) override {
    switch (state_) {
      case State::kStart:
        state_ = State::kTop;
        return true;
      case State::kMember:
        state_ = member_ == kMetadataKey ? State::kMetadata : State::kTensor;
        fields_.clear();
        raw_ = {};
        return true;
      default:
        return open("an object");
    }
  }
  bool start_array(std::size_t) override {
    if (state_ == State::kField && (field_ == "shape" || field_ == "data_offsets")) {
      numbers_.clear();
      state_ = State::kNumbers;
      return true;
    }
    return open("a list");
  }

  bool key(string_t& name) override {
    if (skip_depth_ > 0) return true;
    if (state_ == State::kTop) {
      member_ = std::move(name);
      state_ = State::kMember;
      return members_.insert(member_).second ? check_name() : fail("duplicate name");
    }
    if (!fields_.insert(name).second) return fail(str("duplicate key ", in_quotes(name)));
    field_ = std::move(name);
    state_ = state_ == State::kMetadata ? State::kMetadataValue : State::kField;
    return true;
  }

  bool end_object() override {
    if (skip_depth_ > 0) return close();
    if (state_ == State::kTop) {
      state_ = State::kEnd;
      return true;
    }
    return state_ == State::kMetadata ? leave_member() : add_tensor();
  }
  bool end_array() override {
    if (skip_depth_ > 0) return close();
    (field_ == "shape" ? raw_.shape : raw_.offsets) = std::move(numbers_);
    state_ = State::kTensor;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const Json::exception&) override {
    member_.clear();
    return fail(str("not valid JSON (UTF-8) at byte ", position, " of the header"));
  }

  /// What is wrong and with which tensor.
  std::string problem() const {
    return member_.empty() ? problem_ : str("tensor ", in_quotes(member_), ": ", problem_);
  }
  SafetensorsHeader take() { return {std::move(tensors_), std::move(metadata_)}; }

 private:
  static constexpr std::string_view kMetadataKey = "__metadata__";
  enum class State { kStart, kTop, kMember, kMetadata, kMetadataValue, kTensor, kField, kNumbers, kEnd };

  bool fail(std::string problem) {
    problem_ = std::move(problem);
    return false;
  }
  bool leave_member() {
    state_ = State::kTop;
    member_.clear();
    return true;
  }
  bool check_name() {
    if (member_.size() > kMaxNameBytes) return fail(str("the name is longer than ", kMaxNameBytes, " bytes"));
    if (has_control_character(member_)) return fail("the name holds a control character");
    if (tensors_.size() >= kMaxTensors) return fail(str("more than ", kMaxTensors, " tensors"));
    return true;
  }

  /// A value that is neither a string where one belongs nor a number in a list.
  bool scalar(const std::string& what) {
    if (skip_depth_ > 0) return true;
    switch (state_) {
      case State::kStart:
        return fail(str("the header must be a JSON object, but is ", what));
      case State::kMember:
        return fail(str("must be an object, but is ", what));
      case State::kMetadataValue:
        return fail(str("the entry ", in_quotes(field_), " must be a string, but is ", what));
      case State::kNumbers:
        return fail(str(in_quotes(field_), " must hold unsigned 64-bit integers, but holds ", what));
      default:
        break;
    }
    if (is_known_field()) return fail(str(in_quotes(field_), " must not be ", what));
    state_ = State::kTensor;  // the reference implementation ignores other fields, and so do we
    return true;
  }
  bool is_known_field() const { return field_ == "dtype" || field_ == "shape" || field_ == "data_offsets"; }

  /// A list or object that opens where only an ignored field may hold one.
  bool open(const std::string& what) {
    if (skip_depth_ == 0 && (state_ != State::kField || is_known_field())) return scalar(what);
    if (++skip_depth_ > kMaxDepth) return fail(str("nested deeper than ", kMaxDepth, " levels"));
    return true;
  }
  bool close() {
    if (--skip_depth_ == 0) state_ = State::kTensor;
    return true;
  }

  bool set_dtype(const std::string& name) {
    state_ = State::kTensor;
    for (const auto& entry : kDtypes)
      if (entry.name == name) {
        raw_.dtype = entry.dtype;
        return true;
      }
    const bool known = std::find(kNotInTorch.begin(), kNotInTorch.end(), name) != kNotInTorch.end();
    return fail(known ? str("dtype ", name, " has no counterpart in LibTorch")
                      : str("unknown dtype ", in_quotes(name)));
  }

  bool add_tensor() {
    if (!raw_.dtype) return fail("has no \"dtype\"");
    if (!raw_.shape) return fail("has no \"shape\"");
    if (!raw_.offsets) return fail("has no \"data_offsets\"");
    if (raw_.offsets->size() != 2) return fail("\"data_offsets\" must hold two numbers");
    TensorInfo info{*raw_.dtype, {}, (*raw_.offsets)[0], (*raw_.offsets)[1]};
    if (info.end < info.begin)
      return fail(str("its data ends at ", info.end, ", before it begins at ", info.begin));
    std::uint64_t bytes = 0;
    if (!byte_size(info.dtype, bytes)) return false;
    if (bytes != info.end - info.begin)
      return fail(
          str("its shape and dtype need ", bytes, " bytes, but its offsets span ", info.end - info.begin));
    info.shape.assign(raw_.shape->begin(), raw_.shape->end());
    tensors_.emplace(member_, std::move(info));
    return leave_member();
  }

  /// Shape times dtype; refuses what overflows, also where a later zero would make the product small.
  bool byte_size(torch::Dtype dtype, std::uint64_t& bytes) {
    constexpr auto kMax = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    bytes = 1;
    for (const std::uint64_t size : *raw_.shape)
      if (size > kMax || __builtin_mul_overflow(bytes, size, &bytes))
        return fail(str("its shape [", join(*raw_.shape, ", "), "] overflows"));
    if (__builtin_mul_overflow(bytes, std::uint64_t{torch::elementSize(dtype)}, &bytes) || bytes > kMax / 8)
      return fail(str("its shape [", join(*raw_.shape, ", "), "] overflows"));
    return true;
  }

  State state_ = State::kStart;
  std::size_t skip_depth_ = 0;
  std::string member_, field_;
  std::set<std::string> members_, fields_;
  RawTensor raw_;
  std::vector<std::uint64_t> numbers_;
  std::map<std::string, TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
  std::string problem_;
};

/// The data must be covered from its first to its last byte, each byte by one tensor.
void check_coverage(const std::map<std::string, TensorInfo>& tensors, std::uint64_t data_bytes,
                    const std::string& where) {
  std::vector<std::pair<const std::string*, const TensorInfo*>> order;
  for (const auto& [name, info] : tensors) order.emplace_back(&name, &info);
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::tie(a.second->begin, a.second->end) < std::tie(b.second->begin, b.second->end);
  });
  std::uint64_t covered = 0;
  for (const auto& [name, info] : order) {
    const auto fail = [&, name = name](const std::string& problem) {
      throw CorruptError(str(where, ": tensor ", in_quotes(*name), ": ", problem));
    };
    if (info->begin < covered) fail(str("its data begins at ", info->begin, ", within the tensor before it"));
    if (info->begin > covered) fail(str("leaves a hole of ", info->begin - covered, " bytes before it"));
    if (info->end > data_bytes)
      fail(str("its data ends at ", info->end, ", but the file has only ", data_bytes,
               " bytes of data; it is truncated"));
    covered = info->end;
  }
  if (covered != data_bytes)
    throw CorruptError(str(where, ": the last ", data_bytes - covered, " bytes belong to no tensor"));
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view text, std::uint64_t data_bytes,
                                           const std::string& where) {
  // As the format demands; nlohmann-json would also skip a byte order mark, and take
  // a NUL for the end of the text.
  if (text.empty() || text.front() != '{') throw CorruptError(where + ": the header does not begin with '{'");
  if (text.find('\0') != std::string_view::npos) throw CorruptError(where + ": the header holds a NUL byte");
  HeaderReader reader;
  if (!Json::sax_parse(text.begin(), text.end(), &reader))
    throw CorruptError(str(where, ": ", reader.problem()));
  SafetensorsHeader header = reader.take();
  check_coverage(header.tensors, data_bytes, where);
  return header;
}

std::string safetensors_header_text(const std::vector<std::pair<std::string, TensorInfo>>& layout,
                                    const std::map<std::string, std::string>& metadata,
                                    const std::string& where) {
  std::string text = "{";
  try {
    if (!metadata.empty()) text += "\"__metadata__\":" + nlohmann::json(metadata).dump();
    for (const auto& [name, info] : layout) {
      if (text.size() > 1) text += ',';
      text += str(nlohmann::json(name).dump(), ":{\"dtype\":\"", kDtypes[*safetensors_rank(info.dtype)].name,
                  "\",\"shape\":[", join(info.shape, ","), "],\"data_offsets\":[", info.begin, ",", info.end,
                  "]}");
    }
  } catch (const nlohmann::json::type_error&) {
    throw UsageError(where + ": a tensor name or metadata entry is not UTF-8");
  }
  text += "}";
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > kMaxSafetensorsHeader)
    throw UsageError(where + ": the header would be larger than 100 MB");
  return text;
}

std::optional<std::size_t> safetensors_rank(torch::Dtype dtype) {
  for (std::size_t i = 0; i < kDtypes.size(); ++i)
    if (kDtypes[i].dtype == dtype) return i;
  return std::nullopt;
}

}  // namespace shallowpi
