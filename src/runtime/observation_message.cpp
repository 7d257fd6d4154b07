#include "runtime/observation_message.h"

#include <c10/util/Half.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstring>

#include "runtime/message.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"
#include "shallowpi/data/image.h"
#include "shallowpi/data/tokenizer.h"

namespace shallowpi {
namespace {

constexpr std::size_t kMaxPromptBytes = 16 << 10;
constexpr std::int64_t kMaxImageSide = 8192;

/// Where a camera's picture is looked for, best first. A slash means either a flat key or a map within a map.
struct CameraKeys {
  std::string camera;
  std::vector<std::string> keys;
  bool required;  ///< of policies that use the camera; openpi masks ALOHA's wrists where they are missing
};

const std::vector<CameraKeys>& camera_keys(RobotKind robot) {
  static const std::vector<CameraKeys> libero = {
      {"base_0_rgb", {"observation/image"}, true},
      {"left_wrist_0_rgb", {"observation/wrist_image"}, true},
      {"right_wrist_0_rgb", {"observation/wrist_image_right"}, false}};
  static const std::vector<CameraKeys> aloha = {{"base_0_rgb", {"images/cam_high"}, true},
                                                {"left_wrist_0_rgb", {"images/cam_left_wrist"}, false},
                                                {"right_wrist_0_rgb", {"images/cam_right_wrist"}, false}};
  // DROID's, those of two arms whose joints are not ALOHA's (openpi's adapt_to_pi=False), and plain ones.
  static const std::vector<CameraKeys> joints = {
      {"base_0_rgb", {"observation/exterior_image_1_left", "images/cam_high", "observation/image"}, true},
      {"left_wrist_0_rgb",
       {"observation/wrist_image_left", "images/cam_left_wrist", "observation/wrist_image"},
       true},
      {"right_wrist_0_rgb", {"images/cam_right_wrist", "observation/wrist_image_right"}, false}};
  switch (robot) {
    case RobotKind::kLibero:
      return libero;
    case RobotKind::kAloha:
      return aloha;
    case RobotKind::kJoints:
      return joints;
  }
  return libero;
}

/// A camera that openpi has no key for stands under its own name.
CameraKeys keys_of(const std::string& camera, RobotKind robot, const ClientKeys& given = {}) {
  if (const auto own = given.find(camera); own != given.end()) return {camera, own->second, true};
  const std::vector<CameraKeys>& known = camera_keys(robot);
  const auto entry =
      std::find_if(known.begin(), known.end(), [&](const CameraKeys& keys) { return keys.camera == camera; });
  if (entry != known.end()) return *entry;
  return {camera, {str(robot == RobotKind::kAloha ? "images/" : "observation/", camera)}, true};
}

[[noreturn]] void refuse(std::string_view field, const std::string& what) {
  throw UsageError(str(field, ": ", what));
}

/// What a client has sent instead is the quickest way to what it should have.
[[noreturn]] void refuse_missing(std::string_view field, const WireMap& map) {
  constexpr std::size_t kShown = 12, kLongest = 48;
  std::vector<std::string> sent;
  for (const auto& [key, value] : map)
    if (sent.size() < kShown) sent.push_back(in_quotes(key.substr(0, kLongest)));
  refuse(field, str("is missing; got ", sent.empty() ? "nothing" : join(sent, ", "),
                    map.size() > kShown ? ", ..." : ""));
}

/// The value of a key, flat or nested; null where it is missing or nil.
const WireValue* look_up(const WireMap& map, std::string_view key) {
  const WireValue* value = find(map, key);
  const std::size_t slash = key.find('/');
  if (!value && slash != std::string_view::npos) {
    const WireValue* outer = find(map, key.substr(0, slash));
    if (const WireMap* inner = outer ? outer->as<WireMap>() : nullptr)
      value = find(*inner, key.substr(slash + 1));
  }
  return value && !value->as<std::monostate>() ? value : nullptr;
}

std::string shape_of(const WireArray& array) {
  return str("[", join(array.shape, ", "), "] of ", array.dtype());
}

/// openpi's conversion, (255 * x).astype(uint8), in the type of x. Sets `bad` where x is not in [0, 1].
template <typename T>
std::uint8_t to_byte(T value, bool& bad) {
  if constexpr (std::is_same_v<T, std::uint8_t>) {
    return value;
  } else {
    const T scaled = static_cast<T>(255) * value;
    const bool inside = scaled >= static_cast<T>(0) && scaled < static_cast<T>(256);
    bad |= !inside;
    return inside ? static_cast<std::uint8_t>(scaled) : 0;
  }
}

/// `in` holds height x width pixels of three T, in the order of HWC or CHW.
template <typename T>
bool fill_image(const char* in, bool is_chw, Image& image) {
  bool bad = false;
  const std::size_t pixels = static_cast<std::size_t>(image.height * image.width);
  image.bytes.resize(pixels * 3);
  std::uint8_t* out = image.bytes.data();
  const auto byte_at = [&](std::size_t index) {
    T value;
    std::memcpy(&value, in + index * sizeof(T), sizeof(T));
    return to_byte(value, bad);
  };
  if (is_chw) {
    for (std::size_t pixel = 0; pixel < pixels; ++pixel)
      for (std::size_t channel = 0; channel < 3; ++channel) *out++ = byte_at(channel * pixels + pixel);
  } else {
    for (std::size_t i = 0; i < 3 * pixels; ++i) out[i] = byte_at(i);
  }
  return !bad;
}

/// `pixels_left`: how many the JPEGs of the message may still have.
Image read_jpeg(std::string_view bytes, std::string_view field, std::int64_t& pixels_left) {
  try {
    Image image = decode_jpeg(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size(),
                              "what was sent", pixels_left);
    pixels_left -= image.height * image.width;
    return image;
  } catch (const CorruptError& error) {
    refuse(field, str(error.what(), " (the JPEGs of a message: 11 million pixels together)"));
  }
}

void check_sides(std::int64_t height, std::int64_t width, std::string_view field) {
  if (std::min(height, width) < 1 || std::max(height, width) > kMaxImageSide)
    refuse(field, str("expected 1 to ", kMaxImageSide, " pixels a side, got ", height, " x ", width));
}

Image to_image(const WireValue& value, std::string_view field, std::int64_t& pixels_left) {
  if (const auto* jpeg = value.as<WireBytes>()) {
    Image image = read_jpeg(jpeg->bytes, field, pixels_left);
    check_sides(image.height, image.width, field);
    return image;
  }
  const WireArray* array = value.as<WireArray>();
  if (!array) refuse(field, "expected an array, or the bytes of a JPEG");
  const std::vector<std::int64_t>& shape = array->shape;
  const bool is_chw = shape.size() == 3 && shape[0] == 3;  // openpi's rule
  if (shape.size() != 3 || (!is_chw && shape[2] != 3))
    refuse(field, str("expected [height, width, 3] or [3, height, width], got ", shape_of(*array)));
  Image image{is_chw ? shape[1] : shape[0], is_chw ? shape[2] : shape[1], {}};
  check_sides(image.height, image.width, field);
  const char* data = array->data.data();
  bool good = false;
  if (array->kind == 'u' && array->item_bytes == 1) {
    good = fill_image<std::uint8_t>(data, is_chw, image);
  } else if (array->kind == 'f') {
    good = array->item_bytes == 8   ? fill_image<double>(data, is_chw, image)
           : array->item_bytes == 4 ? fill_image<float>(data, is_chw, image)
                                    : fill_image<c10::Half>(data, is_chw, image);
  } else {
    refuse(field, str("expected uint8, or floats in [0, 1], got ", shape_of(*array)));
  }
  if (!good) refuse(field, "expected floats in [0, 1]");
  return image;
}

float to_finite(double number, std::string_view field) {
  const float narrow = static_cast<float>(number);
  if (!std::isfinite(narrow)) refuse(field, "holds a number that is not finite");
  return narrow;
}

std::optional<double> as_number(const WireValue& value) {
  if (const auto* integer = value.as<std::int64_t>()) return static_cast<double>(*integer);
  if (const auto* number = value.as<double>()) return *number;
  if (const auto* array = value.as<WireArray>();
      array && array->size() == 1 && std::strchr("iuf", array->kind))
    return array->number(0);
  return {};
}

/// A vector of numbers: an array [N], a list, or one number.
std::vector<float> to_vector(const WireValue& value, std::string_view field) {
  std::vector<float> numbers;
  if (const auto* list = value.as<WireList>()) {
    for (const WireValue& item : *list) {
      const std::optional<double> number = as_number(item);
      if (!number) refuse(field, "expected a list of numbers");
      numbers.push_back(to_finite(*number, field));
    }
  } else if (const auto* array = value.as<WireArray>(); array && array->shape.size() == 1) {
    if (!std::strchr("biuf", array->kind)) refuse(field, str("expected numbers, got ", shape_of(*array)));
    if (array->size() > kMaxTextStateDim)
      refuse(field, str("expected a few numbers, got ", shape_of(*array)));
    for (std::int64_t i = 0; i < array->size(); ++i) numbers.push_back(to_finite(array->number(i), field));
  } else if (const std::optional<double> number = as_number(value)) {
    numbers.push_back(to_finite(*number, field));
  } else {
    refuse(field, "expected an array of one dimension");
  }
  return numbers;
}

/// An array [rows, width] of floats; leading dimensions of 1 are dropped. `expected`: the shape in words.
std::vector<std::vector<float>> to_rows(const WireValue& value, std::string_view field, std::int64_t width,
                                        const std::string& expected) {
  const WireArray* array = value.as<WireArray>();
  if (!array || array->kind != 'f') refuse(field, "expected an array of floats");
  std::vector<std::int64_t> shape = array->shape;
  if (shape.size() == 3 && shape[0] == 1) shape.erase(shape.begin());
  if (shape.size() != 2 || shape[1] != width || shape[0] > kMaxHorizon)
    refuse(field, str("expected ", expected, ", got ", shape_of(*array)));
  std::vector<std::vector<float>> rows(shape[0]);
  for (std::size_t i = 0; i < static_cast<std::size_t>(shape[0] * width); ++i)
    rows[i / width].push_back(to_finite(array->number(i), field));
  return rows;
}

torch::Tensor to_tensor(const std::vector<std::vector<float>>& rows, std::int64_t width) {
  torch::Tensor tensor = torch::zeros({static_cast<std::int64_t>(rows.size()), width});
  for (std::size_t i = 0; i < rows.size(); ++i)
    std::memcpy(tensor.data_ptr<float>() + i * width, rows[i].data(), rows[i].size() * sizeof(float));
  return tensor;
}

/// The text of a 0-d numpy array of str, whose padding is zeros.
std::string utf32_to_utf8(std::string_view data) {
  std::string text;
  for (std::size_t i = 0; i + 4 <= data.size(); i += 4) {
    std::uint32_t code;
    std::memcpy(&code, data.data() + i, 4);
    if (code == 0) break;
    if (code < 0x80) {
      text += static_cast<char>(code);
    } else if (code < 0x800) {
      text += {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
    } else if (code < 0x10000) {
      text += {static_cast<char>(0xE0 | code >> 12), static_cast<char>(0x80 | (code >> 6 & 0x3F)),
               static_cast<char>(0x80 | (code & 0x3F))};
    } else {
      text += {static_cast<char>(0xF0 | (code >> 18 & 0x07)), static_cast<char>(0x80 | (code >> 12 & 0x3F)),
               static_cast<char>(0x80 | (code >> 6 & 0x3F)), static_cast<char>(0x80 | (code & 0x3F))};
    }
  }
  return text;
}

std::string to_prompt(const WireValue& value) {
  std::string text;
  if (const auto* plain = value.as<std::string_view>()) {
    text = *plain;
  } else if (const auto* bytes = value.as<WireBytes>()) {  // DROID's clients
    text = bytes->bytes;
  } else if (const auto* array = value.as<WireArray>(); array && array->size() == 1 && array->kind == 'U') {
    if (array->data.size() > 4 * kMaxPromptBytes)
      refuse("prompt", str("longer than ", kMaxPromptBytes, " bytes"));
    text = utf32_to_utf8(array->data);
  } else if (array && array->size() == 1 && array->kind == 'S') {
    text = array->data.substr(0, array->data.find('\0'));
  } else {
    refuse("prompt", "expected text");
  }
  if (text.size() > kMaxPromptBytes) refuse("prompt", str("longer than ", kMaxPromptBytes, " bytes"));
  if (!is_utf8(text)) refuse("prompt", "is not UTF-8");
  return text;
}

void check_state_width(const std::vector<float>& state, const RobotSpec& robot, std::string_view field) {
  if (std::ssize(state) != robot.state_dim)
    refuse(field, str("expected ", robot.state_dim, " numbers in all, got ", state.size()));
}

/// The state of `robot`, whose parts a client may send under keys of their own.
std::vector<float> read_state(const WireMap& map, const RobotSpec& robot, const ClientKeys& given) {
  std::vector<float> state;
  if (const auto own = given.find("state"); own != given.end()) {
    for (const std::string& key : own->second) {
      const WireValue* part = look_up(map, key);
      if (!part) refuse_missing(key, map);
      for (const float number : to_vector(*part, key)) state.push_back(number);
    }
    check_state_width(state, robot, join(own->second, ", "));
    return state;
  }
  std::string_view field = robot.kind == RobotKind::kAloha ? "state" : "observation/state";
  const WireValue* whole = look_up(map, field);
  if (robot.kind == RobotKind::kJoints) {
    if (const WireValue* joints = look_up(map, "observation/joint_position")) {  // DROID
      field = "observation/joint_position";
      state = to_vector(*joints, field);
      const WireValue* gripper = look_up(map, "observation/gripper_position");
      if (!gripper) refuse_missing("observation/gripper_position", map);
      for (float value : to_vector(*gripper, "observation/gripper_position")) state.push_back(value);
    } else if (!whole) {
      whole = look_up(map, "state");
    }
  }
  if (state.empty() && !whole) refuse_missing(field, map);
  if (state.empty()) state = to_vector(*whole, field);
  check_state_width(state, robot, field);
  return state;
}

std::map<std::string, Image> read_images(const WireMap& map, const PolicySpec& spec,
                                         const ClientKeys& given) {
  std::map<std::string, Image> images;
  std::int64_t pixels_left = (32 << 20) / 3;  // as many as a message has room for uncompressed
  for (const std::string& camera : spec.image_keys) {
    const CameraKeys entry = keys_of(camera, spec.robot.kind, given);
    const WireValue* value = nullptr;
    for (std::size_t k = 0; k < entry.keys.size() && !value; ++k) {
      value = look_up(map, entry.keys[k]);
      if (value) images[camera] = to_image(*value, entry.keys[k], pixels_left);
    }
    if (!value && entry.required) refuse_missing(join(entry.keys, " or "), map);
  }
  return images;
}

/// openpi refuses ALOHA cameras of other names, which are typing errors that would silently blind the policy.
void check_aloha_cameras(const WireMap& map, const PolicySpec& spec, const ClientKeys& given) {
  const WireValue* value = find(map, "images");
  const WireMap* images = value ? value->as<WireMap>() : nullptr;
  if (!images) return;
  std::vector<std::string> known = {"cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist"};
  const auto is_known = [&](std::string_view name) {
    return std::find(known.begin(), known.end(), name) != known.end();
  };
  for (const std::string& camera : spec.image_keys) {
    const std::string key = keys_of(camera, RobotKind::kAloha, given).keys.front();
    if (const std::string name = key.substr(key.find('/') + 1); !is_known(name)) known.push_back(name);
  }
  for (const auto& [name, image] : *images)
    if (!is_known(name))
      refuse("images", str("unknown camera ", in_quotes(name), "; known are ", join(known, ", ")));
}

/// The letters of a key, in lower case, without an s at its end: num_step, numSteps and num-steps are alike.
std::string bare(std::string_view key) {
  std::string letters;
  for (const char c : key)
    if (std::isalpha(static_cast<unsigned char>(c)) != 0)
      letters += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (letters.ends_with('s')) letters.pop_back();
  return letters;
}

/// Other keys are nobody's, but one that was meant to be ours must not go unnoticed.
void check_extras(const WireMap& map) {
  for (const auto& [key, value] : map) {
    const std::string letters = bare(key);
    for (const char* ours : {"noise", "num_steps", "prefix_actions", "timestamp"})
      if (key != ours && letters == bare(ours)) refuse(in_quotes(key), str("did you mean ", ours, "?"));
  }
}

}  // namespace

std::vector<std::string> client_keys(const PolicySpec& spec) {
  std::vector<std::string> keys;
  for (const std::string& camera : spec.image_keys)
    keys.push_back(keys_of(camera, spec.robot.kind).keys.back());
  keys.emplace_back(spec.robot.kind == RobotKind::kAloha ? "state" : "observation/state");
  keys.emplace_back("prompt");
  return keys;
}

bool camera_required(const std::string& camera, RobotKind robot) {
  return keys_of(camera, robot).required;
}

PolicyRequest ObservationDecoder::decode(std::string_view message) const {
  const WireValue root = decode_message(message);
  const WireMap* map = root.as<WireMap>();
  if (!map) throw UsageError("message: expected a map");
  PolicyRequest request;
  request.options.steps = options_.steps;
  RobotObservation& observation = request.infer.observation;
  if (spec_.robot.kind == RobotKind::kAloha) check_aloha_cameras(*map, spec_, options_.keys);
  observation.images = read_images(*map, spec_, options_.keys);
  observation.state = read_state(*map, spec_.robot, options_.keys);
  if (const WireValue* prompt = look_up(*map, "prompt")) observation.prompt = to_prompt(*prompt);
  if (is_blank(observation.prompt)) observation.prompt = spec_.default_prompt;
  if (is_blank(observation.prompt)) refuse("prompt", "is missing or empty");
  if (options_.check) options_.check(observation);

  check_extras(*map);
  if (const WireValue* noise = look_up(*map, "noise")) {
    const std::string expected =
        str("[horizon, action_width], here [", spec_.horizon, ", ", spec_.action_width, "]");
    const auto rows = to_rows(*noise, "noise", spec_.action_width, expected);
    if (static_cast<std::int64_t>(rows.size()) != spec_.horizon)
      refuse("noise", str("expected ", expected, ", got ", rows.size(), " steps"));
    request.infer.noise_hd = to_tensor(rows, spec_.action_width);
  }
  if (const WireValue* steps = look_up(*map, "num_steps")) {
    const std::int64_t* count = steps->as<std::int64_t>();
    if (!count || *count < 1 || *count > options_.max_steps)
      refuse("num_steps", str("expected an integer from 1 to ", options_.max_steps));
    request.options.steps = *count;
  }
  if (const WireValue* prefix = look_up(*map, "prefix_actions")) {
    RobotActions& actions = request.infer.prefix_actions;
    actions = to_rows(*prefix, "prefix_actions", spec_.robot.action_dim,
                      str("[D, action dims], here [D, ", spec_.robot.action_dim, "]"));
    if (static_cast<std::int64_t>(actions.size()) >= spec_.horizon)
      refuse("prefix_actions", str("expected fewer than ", spec_.horizon, " steps, got ", actions.size()));
  }
  if (const WireValue* time = look_up(*map, "timestamp")) {
    request.timestamp_s = as_number(*time);
    if (!request.timestamp_s || !std::isfinite(*request.timestamp_s))
      refuse("timestamp", "expected Unix seconds, as time.time() gives them");
  }
  return request;
}

std::string encode_observation(const RobotObservation& observation, RobotKind robot,
                               const ClientExtras& extras) {
  WireMap map, images;
  std::vector<std::string> keys, chw;  // what `map` points to; ALOHA's pictures are sent as CHW
  keys.reserve(observation.images.size());
  chw.reserve(observation.images.size());
  for (const auto& [camera, image] : observation.images) {
    std::string_view key = keys.emplace_back(keys_of(camera, robot).keys.front());
    std::string_view bytes(reinterpret_cast<const char*>(image.bytes.data()), image.bytes.size());
    if (robot == RobotKind::kAloha) {
      std::string& planes = chw.emplace_back(bytes.size(), '\0');
      const std::size_t pixels = bytes.size() / 3;
      for (std::size_t channel = 0; channel < 3; ++channel)
        for (std::size_t i = 0; i < pixels; ++i) planes[channel * pixels + i] = bytes[3 * i + channel];
      key.remove_prefix(key.find('/') + 1);
      images.push_back({key, WireValue{WireArray{'u', 1, {3, image.height, image.width}, planes}}});
    } else {
      map.push_back({key, WireValue{WireArray{'u', 1, {image.height, image.width, 3}, bytes}}});
    }
  }
  const std::vector<double> state(observation.state.begin(), observation.state.end());
  const auto numbers = [&](std::size_t from, std::size_t count) {
    const char* start = reinterpret_cast<const char*>(state.data() + from);
    return WireValue{WireArray{'f', 8, {static_cast<std::int64_t>(count)}, {start, 8 * count}}};
  };
  if (robot == RobotKind::kAloha) map.push_back({"images", {std::move(images)}});
  if (robot == RobotKind::kJoints && state.size() > 1) {  // DROID: the gripper comes last
    map.push_back({"observation/joint_position", numbers(0, state.size() - 1)});
    map.push_back({"observation/gripper_position", numbers(state.size() - 1, 1)});
  } else {
    map.push_back({robot == RobotKind::kAloha ? "state" : "observation/state", numbers(0, state.size())});
  }
  map.push_back({"prompt", WireValue{std::string_view(observation.prompt)}});
  const auto add_rows = [&map](const char* key, const float* values, std::int64_t rows, std::int64_t width) {
    const std::string_view bytes(reinterpret_cast<const char*>(values),
                                 static_cast<std::size_t>(rows * width) * sizeof(float));
    map.push_back({key, WireValue{WireArray{'f', 4, {rows, width}, bytes}}});
  };
  const torch::Tensor noise_hd = extras.noise_hd.defined() ? extras.noise_hd.contiguous() : torch::Tensor();
  if (noise_hd.defined()) add_rows("noise", noise_hd.data_ptr<float>(), noise_hd.size(0), noise_hd.size(1));
  std::vector<float> prefix;
  for (const auto& action : extras.prefix_actions) prefix.insert(prefix.end(), action.begin(), action.end());
  const auto given = static_cast<std::int64_t>(extras.prefix_actions.size());
  if (given > 0)
    add_rows("prefix_actions", prefix.data(), given, static_cast<std::int64_t>(prefix.size()) / given);
  return encode_message({std::move(map)});
}

}  // namespace shallowpi
