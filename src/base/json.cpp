#include "shallowpi/base/json.h"

#include <algorithm>
#include <limits>
#include <string>
#include <unordered_set>
#include <vector>

#include "shallowpi/base/error.h"
#include "shallowpi/base/files.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

constexpr std::size_t kMaxDepth = 64;
/// A tree takes many times the memory of its text; the largest JSON files beside checkpoints have a few MB.
constexpr std::uint64_t kMaxFileBytes = std::uint64_t{64} << 20;

/// Walks a text and tells a shared counter how far it came, so that the builder below knows its line.
class TrackingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  TrackingIterator(const char* at, const char** seen) : at_(at), seen_(seen) {}
  reference operator*() const { return *at_; }
  TrackingIterator& operator++() {
    *seen_ = at_++;
    return *this;
  }
  bool operator==(const TrackingIterator& other) const { return at_ == other.at_; }
  bool operator!=(const TrackingIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  const char** seen_;
};

/// Builds the tree and refuses what nlohmann-json lets pass. Objects are filled by appending: ordered_json's
/// own insertion searches all keys each time, which a hostile file could make quadratic.
class StrictBuilder : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t& text) override {
    if (text.find_first_of(".eE") == string_t::npos)
      return fail(str("the integer ", text, " does not fit into 64 bits"));
    return add(value);
  }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return fail("binary value"); }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    Level& level = levels_.back();
    if (!level.keys.insert(name).second) return fail(str("duplicate key ", in_quotes(name)));
    level.key = std::move(name);
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const Json::exception& error) override {
    // "[json.exception.KIND.NUMBER] parse error at line 1, column 2: REASON", or without the place
    std::string_view message = error.what();
    message.remove_prefix(std::min(message.size(), message.find("] ") + 2));
    if (message.substr(0, 11) == "parse error")
      message.remove_prefix(std::min(message.size(), message.find(": ") + 2));
    // What was read last is the file's own text, of any length and with any bytes.
    return fail(std::string(message.substr(0, message.find("; last read"))));
  }

  Json take() { return std::move(root_); }
  const std::string& problem() const { return problem_; }

 private:
  struct Level {
    Json value;
    std::string key;                       // in the object, of the value to come
    std::unordered_set<std::string> keys;  // of the object so far
  };

  bool fail(std::string problem) {
    problem_ = std::move(problem);
    return false;
  }
  bool open(Json container) {
    if (levels_.size() >= kMaxDepth) return fail(str("nested deeper than ", kMaxDepth, " levels"));
    levels_.push_back({std::move(container), {}, {}});
    return true;
  }
  bool close() {
    Json done = std::move(levels_.back().value);
    levels_.pop_back();
    return add(std::move(done));
  }
  bool add(Json value) {
    if (levels_.empty()) {
      root_ = std::move(value);
    } else if (Level& level = levels_.back(); level.value.is_array()) {
      level.value.push_back(std::move(value));
    } else {
      using Members = Json::object_t::Container;
      static_cast<Members&>(level.value.get_ref<Json::object_t&>())
          .emplace_back(std::move(level.key), std::move(value));
    }
    return true;
  }

  Json root_;
  std::vector<Level> levels_;
  std::string problem_;
};

[[noreturn]] void throw_wrong_type(const Json& value, std::string_view key, std::string_view where,
                                   std::string_view wanted) {
  throw CorruptError(str(where, ": ", in_quotes(key), " must be ", wanted, ", but is ", value.type_name()));
}

// One overload per type that json_get() can give; `key` and `where` are for messages only.
void convert(const Json& value, std::string_view key, std::string_view where, bool& out) {
  if (!value.is_boolean()) throw_wrong_type(value, key, where, "true or false");
  out = value.get<bool>();
}

void convert(const Json& value, std::string_view key, std::string_view where, std::int64_t& out) {
  const bool too_big =
      value.is_number_unsigned() &&
      value.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (!value.is_number_integer() || too_big) throw_wrong_type(value, key, where, "a 64-bit integer");
  out = value.get<std::int64_t>();
}

void convert(const Json& value, std::string_view key, std::string_view where, double& out) {
  if (!value.is_number()) throw_wrong_type(value, key, where, "a number");
  out = value.get<double>();
}

void convert(const Json& value, std::string_view key, std::string_view where, std::string& out) {
  if (!value.is_string()) throw_wrong_type(value, key, where, "a string");
  out = value.get<std::string>();
}

void convert(const Json& value, std::string_view, std::string_view, Json& out) {
  out = value;
}

template <typename T>
void convert(const Json& value, std::string_view key, std::string_view where, std::vector<T>& out) {
  if (!value.is_array()) throw_wrong_type(value, key, where, "a list");
  out.clear();
  out.reserve(value.size());
  for (const Json& item : value) {
    T element{};
    convert(item, str(key, "[", out.size(), "]"), where, element);
    out.push_back(std::move(element));
  }
}

}  // namespace

Json parse_json(std::string_view text, std::string_view where) {
  const char* seen = text.data();
  const auto refuse = [&](std::string_view problem) -> CorruptError {
    const auto line = 1 + std::count(text.data(), seen, '\n');
    return CorruptError(str(where, ": line ", line, ": ", problem));
  };
  // nlohmann-json takes a NUL byte for the end of the text and skips a byte order mark;
  // both could hide other content.
  if (const std::size_t nul = text.find('\0'); nul != std::string_view::npos) {
    seen += nul;
    throw refuse("NUL byte");
  }
  if (text.substr(0, 3) == "\xEF\xBB\xBF") throw refuse("byte order mark");
  StrictBuilder builder;
  const TrackingIterator begin(text.data(), &seen), end(text.data() + text.size(), &seen);
  if (!Json::sax_parse(begin, end, &builder)) throw refuse(builder.problem());
  return builder.take();
}

Json read_json(const std::filesystem::path& path) {
  return parse_json(read_file(path, kMaxFileBytes), path.string());
}

void write_json(const std::filesystem::path& path, const Json& json) {
  write_file_atomically(path, json.dump(2) + "\n");
}

template <typename T>
T json_get(const Json& json, std::string_view key, std::string_view where) {
  if (!json.is_object()) throw CorruptError(str(where, ": must be a JSON object, but is ", json.type_name()));
  const auto member = json.find(std::string(key));
  if (member == json.end()) throw CorruptError(str(where, ": key ", in_quotes(key), " is missing"));
  T value{};
  convert(*member, key, where, value);
  return value;
}

template <typename T>
T json_get_or(const Json& json, std::string_view key, T fallback, std::string_view where) {
  if (json.is_object()) {
    const auto member = json.find(std::string(key));
    if (member == json.end() || member->is_null()) return fallback;
  }
  return json_get<T>(json, key, where);
}

#define SHALLOWPI_INSTANTIATE(T)                                           \
  template T json_get<T>(const Json&, std::string_view, std::string_view); \
  template T json_get_or<T>(const Json&, std::string_view, T, std::string_view);
SHALLOWPI_INSTANTIATE(bool)
SHALLOWPI_INSTANTIATE(std::int64_t)
SHALLOWPI_INSTANTIATE(double)
SHALLOWPI_INSTANTIATE(std::string)
SHALLOWPI_INSTANTIATE(Json)
SHALLOWPI_INSTANTIATE(std::vector<bool>)
SHALLOWPI_INSTANTIATE(std::vector<std::int64_t>)
SHALLOWPI_INSTANTIATE(std::vector<double>)
SHALLOWPI_INSTANTIATE(std::vector<std::string>)
SHALLOWPI_INSTANTIATE(std::vector<Json>)
#undef SHALLOWPI_INSTANTIATE

}  // namespace shallowpi
