#include "runtime/observation_message.h"

#include <c10/util/Half.h>

#include <cmath>
#include <map>
#include <numeric>

#include "runtime/message.h"
#include "test_util.h"

namespace shallowpi {
namespace {

using testing::expect_error;
using testing::expect_tensor_near;

PolicySpec spec_of(RobotKind kind, std::int64_t state_dim, std::int64_t action_dim) {
  PolicySpec spec;
  spec.horizon = 10;
  spec.image_keys = {"base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"};
  spec.robot = {kind, state_dim, action_dim, {}};
  return spec;
}

/// An observation that tests change in one place. The first byte of its k-th picture is 7 k.
class Message {
 public:
  explicit Message(RobotKind robot) {
    Json json;
    if (robot == RobotKind::kAloha) {
      set("state", WireValue{floats(14)});
      WireMap images;
      for (const char* name : {"cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist"})
        images.push_back({name, {WireArray{'u', 1, {3, 4, 6}, bytes(72, images.size())}}});
      set("images", {std::move(images)});
    } else if (robot == RobotKind::kJoints) {
      set("observation/exterior_image_1_left", image(4, 6));
      set("observation/wrist_image_left", image(4, 6, 1));
      set("observation/joint_position", WireValue{floats(7)});
      set("observation/gripper_position", WireValue{floats(1)});
    } else {
      set("observation/image", image(4, 6));
      set("observation/wrist_image", image(4, 6, 1));
      set("observation/state", WireValue{floats(8)});
    }
    set("prompt", {std::string_view("pick up the bowl")});
  }
  Message& set(std::string_view key, WireValue value) {
    remove(key);
    map_.push_back({key, std::move(value)});
    return *this;
  }
  Message& remove(std::string_view key) {
    std::erase_if(map_, [&](const WireEntry& entry) { return entry.key == key; });
    return *this;
  }
  std::string encode() const { return encode_message({map_}); }

  static std::string_view bytes(std::size_t count, std::size_t picture = 0) {
    static const std::string pattern = [] {
      std::string all;
      for (int i = 0; i < 4096; ++i) all += static_cast<char>(i * 7);
      return all;
    }();
    return std::string_view(pattern).substr(picture, count);
  }
  static WireValue image(std::int64_t height, std::int64_t width, std::size_t picture = 0) {
    return {WireArray{'u', 1, {height, width, 3}, bytes(3 * height * width, picture)}};
  }
  /// 0, 0.5, 1, ...
  static WireArray floats(std::int64_t count) {
    static const std::vector<double> numbers = [] {
      std::vector<double> all;
      for (int i = 0; i < 2000; ++i) all.push_back(0.5 * i);
      return all;
    }();
    return {'f',
            8,
            {count},
            {reinterpret_cast<const char*>(numbers.data()), 8 * static_cast<std::size_t>(count)}};
  }

 private:
  WireMap map_;
};

template <typename T>
std::string_view raw(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

PolicyRequest decode(const Message& message, RobotKind kind = RobotKind::kLibero) {
  const PolicySpec spec = kind == RobotKind::kLibero  ? spec_of(kind, 8, 7)
                          : kind == RobotKind::kAloha ? spec_of(kind, 14, 14)
                                                      : spec_of(kind, 8, 8);
  return ObservationDecoder(spec, {}).decode(message.encode());
}

void expect_refused(const Message& message, const std::string& begin, RobotKind kind = RobotKind::kLibero) {
  try {
    decode(message, kind);
    ADD_FAILURE() << "accepted; expected: " << begin;
  } catch (const UsageError& error) {
    EXPECT_EQ(std::string(error.what()).rfind(begin, 0), 0u) << error.what();
  }
}

TEST(ObservationMessage, ReadsLibero) {
  const PolicyRequest request = decode(Message(RobotKind::kLibero));
  const RobotObservation& observation = request.infer.observation;
  ASSERT_EQ(observation.images.size(), 2u);
  const Image& image = observation.images.at("base_0_rgb");
  EXPECT_EQ(image.height, 4);
  EXPECT_EQ(image.width, 6);
  EXPECT_EQ(std::string(image.bytes.begin(), image.bytes.end()), Message::bytes(72));
  EXPECT_EQ(observation.state, (std::vector<float>{0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5}));
  EXPECT_EQ(observation.prompt, "pick up the bowl");
  EXPECT_EQ(request.options.steps, 10);
  EXPECT_FALSE(request.infer.noise_hd.defined());
  EXPECT_FALSE(request.timestamp_s);
}

TEST(ObservationMessage, ReadsAloha) {
  const RobotObservation observation =
      decode(Message(RobotKind::kAloha), RobotKind::kAloha).infer.observation;
  ASSERT_EQ(observation.images.size(), 3u);  // cam_low is not used
  const Image& image = observation.images.at("right_wrist_0_rgb");
  EXPECT_EQ(image.height, 4);
  EXPECT_EQ(image.width, 6);
  for (int pixel = 0; pixel < 24; ++pixel)
    for (int channel = 0; channel < 3; ++channel)
      EXPECT_EQ(image.bytes[3 * pixel + channel], static_cast<std::uint8_t>(7 * (24 * channel + pixel + 3)));
  EXPECT_EQ(observation.state.size(), 14u);

  Message message(RobotKind::kAloha);
  WireMap images;
  images.push_back({"cam_high", Message::image(4, 6)});
  EXPECT_EQ(decode(message.set("images", {images}), RobotKind::kAloha).infer.observation.images.size(), 1u);
  images.push_back({"cam_hihg", Message::image(4, 6)});
  expect_refused(message.set("images", {images}), "images: unknown camera \"cam_hihg\"", RobotKind::kAloha);
  expect_refused(message.set("images", {WireMap{}}), "images/cam_high: is missing", RobotKind::kAloha);
}

TEST(ObservationMessage, ReadsDroid) {
  Message message(RobotKind::kJoints);
  const RobotObservation observation = decode(message, RobotKind::kJoints).infer.observation;
  EXPECT_EQ(observation.images.size(), 2u);
  EXPECT_EQ(observation.state, (std::vector<float>{0, 0.5, 1, 1.5, 2, 2.5, 3, 0}));
  message.set("observation/gripper_position", {0.25}).set("prompt", {WireBytes{"fold it"}});
  const RobotObservation scalar = decode(message, RobotKind::kJoints).infer.observation;
  EXPECT_EQ(scalar.state.back(), 0.25f);
  EXPECT_EQ(scalar.prompt, "fold it");
  expect_refused(message.remove("observation/gripper_position"), "observation/gripper_position: is missing",
                 RobotKind::kJoints);
}

/// Camera -> its picture of the message.
std::map<std::string, int> pictures(const Message& message, RobotKind kind) {
  std::map<std::string, int> out;
  for (const auto& [camera, image] : decode(message, kind).infer.observation.images)
    out[camera] = image.bytes.at(0) / 7;
  return out;
}

TEST(ObservationMessage, EachCameraHasItsOwnPicture) {
  using Pictures = std::map<std::string, int>;
  EXPECT_EQ(pictures(Message(RobotKind::kAloha), RobotKind::kAloha),
            (Pictures{{"base_0_rgb", 0}, {"left_wrist_0_rgb", 2}, {"right_wrist_0_rgb", 3}}));
  const Pictures expected{{"base_0_rgb", 0}, {"left_wrist_0_rgb", 1}, {"right_wrist_0_rgb", 2}};
  for (const RobotKind kind : {RobotKind::kLibero, RobotKind::kJoints})
    EXPECT_EQ(pictures(Message(kind).set("observation/wrist_image_right", Message::image(4, 6, 2)), kind),
              expected);
  Message plain(RobotKind::kJoints);  // DROID's robot under LIBERO's keys
  plain.remove("observation/exterior_image_1_left").set("observation/image", Message::image(4, 6));
  plain.remove("observation/wrist_image_left").set("observation/wrist_image", Message::image(4, 6, 1));
  EXPECT_EQ(pictures(plain, RobotKind::kJoints), (Pictures{{"base_0_rgb", 0}, {"left_wrist_0_rgb", 1}}));
}

TEST(ObservationMessage, WritesWhatItReads) {
  for (const auto& [kind, dims] :
       {std::pair{RobotKind::kLibero, 8}, {RobotKind::kAloha, 14}, {RobotKind::kJoints, 8}}) {
    RobotObservation observation;
    const std::string_view bytes = Message::bytes(3 * 5 * 4);
    observation.images["base_0_rgb"] = {5, 4, {bytes.begin(), bytes.end()}};
    observation.images["left_wrist_0_rgb"] = {4, 5, {bytes.begin(), bytes.end()}};
    for (int i = 0; i < dims; ++i) observation.state.push_back(0.1f * static_cast<float>(i));
    observation.prompt = "w\xC3\xA4sche";
    const PolicySpec spec = spec_of(kind, dims, dims);
    const RobotObservation read =
        ObservationDecoder(spec, {}).decode(encode_observation(observation, kind)).infer.observation;
    EXPECT_EQ(read.state, observation.state);
    EXPECT_EQ(read.prompt, observation.prompt);
    ASSERT_EQ(read.images.size(), 2u);
    for (const auto& [camera, image] : observation.images) {
      EXPECT_EQ(read.images.at(camera).bytes, image.bytes);
      EXPECT_EQ(read.images.at(camera).width, image.width);
    }
  }
}

TEST(ObservationMessage, RequiresTheCamerasThatOpenpiDoesNotName) {
  for (const auto& [kind, key] : {std::pair{RobotKind::kLibero, "observation/side: is missing"},
                                  {RobotKind::kAloha, "images/side: is missing"},
                                  {RobotKind::kJoints, "observation/side: is missing"}}) {
    PolicySpec spec = spec_of(kind, 14, 14);
    spec.image_keys = {"base_0_rgb", "side"};
    const ObservationDecoder decoder(spec, {});
    const std::string_view bytes = Message::bytes(3 * 5 * 4);
    RobotObservation observation;
    observation.images["base_0_rgb"] = {5, 4, std::vector<std::uint8_t>(60)};
    observation.state.assign(14, 0.5f);
    observation.prompt = "go";
    expect_error<UsageError>([&] { decoder.decode(encode_observation(observation, kind)); }, key);
    observation.images["side"] = {4, 5, {bytes.begin(), bytes.end()}};
    const RobotObservation read = decoder.decode(encode_observation(observation, kind)).infer.observation;
    ASSERT_EQ(read.images.size(), 2u);
    EXPECT_EQ(read.images.at("side").bytes, observation.images.at("side").bytes);
  }
}

TEST(ObservationMessage, TakesImagesAsOpenpiDoes) {
  // numpy: (255 * np.linspace(0, 1, 12).astype(...)).astype(np.uint8), the same for float64, float32 and
  // float16
  std::vector<double> wide;
  std::vector<float> narrow;
  std::vector<c10::Half> half;
  for (int i = 0; i < 12; ++i) {
    wide.push_back(i / 11.0);
    narrow.push_back(static_cast<float>(i / 11.0));
    half.push_back(static_cast<c10::Half>(static_cast<float>(i / 11.0)));
  }
  const std::vector<std::uint8_t> expected = {0, 23, 46, 69, 92, 115, 139, 162, 185, 208, 231, 255};
  Message message(RobotKind::kLibero);
  for (const WireArray& array :
       {WireArray{'f', 8, {1, 4, 3}, raw(wide)}, WireArray{'f', 4, {1, 4, 3}, raw(narrow)}})
    EXPECT_EQ(
        decode(message.set("observation/image", {array})).infer.observation.images.at("base_0_rgb").bytes,
        expected);
  const Image from_half = decode(message.set("observation/image", {WireArray{'f', 2, {1, 4, 3}, raw(half)}}))
                              .infer.observation.images.at("base_0_rgb");
  for (int i = 0; i < 12; ++i) EXPECT_NEAR(from_half.bytes[i], expected[i], 1);
  const Image planes = decode(message.set("observation/image", {WireArray{'f', 8, {3, 2, 2}, raw(wide)}}))
                           .infer.observation.images.at("base_0_rgb");
  EXPECT_EQ(planes.bytes, (std::vector<std::uint8_t>{0, 92, 185, 23, 115, 208, 46, 139, 231, 69, 162, 255}));
}

TEST(ObservationMessage, TakesJpegs) {
  const Image sent{4, 6, std::vector<std::uint8_t>(72, 90)};
  const std::string jpeg = encode_jpeg(sent);
  Message message(RobotKind::kLibero);
  const Image image =
      decode(message.set("observation/image", {WireBytes{jpeg}})).infer.observation.images.at("base_0_rgb");
  EXPECT_EQ(image.height, 4);
  EXPECT_EQ(image.width, 6);
  EXPECT_EQ(image.bytes, sent.bytes) << "one colour is coded exactly";
  expect_refused(message.set("observation/image", {WireBytes{jpeg.substr(0, jpeg.size() / 2)}}),
                 "observation/image: what was sent is not a readable JPEG");
  expect_refused(message.set("observation/image", {WireBytes{"png"}}),
                 "observation/image: what was sent is not a readable JPEG");
  const std::string huge = encode_jpeg({4096, 4096, std::vector<std::uint8_t>(4096 * 4096 * 3)});
  expect_refused(message.set("observation/image", {WireBytes{huge}}),
                 "observation/image: what was sent is not a readable JPEG: it has 4096 x 4096 pixels");
  const std::string large = encode_jpeg({2048, 3072, std::vector<std::uint8_t>(2048 * 3072 * 3)});
  Message two(RobotKind::kLibero);
  EXPECT_NO_THROW(decode(two.set("observation/image", {WireBytes{large}})));
  expect_refused(
      two.set("observation/wrist_image", {WireBytes{large}}),
      "observation/wrist_image: what was sent is not a readable JPEG: it has 2048 x 3072 pixels, more "
      "than the 4893354 that are allowed (the JPEGs of a message: 11 million pixels together)");
}

TEST(ObservationMessage, TakesJointsUnderAlohasKeys) {
  WireMap images;
  for (const char* name : {"cam_high", "cam_left_wrist", "cam_right_wrist"})
    images.push_back({name, {WireArray{'u', 1, {3, 4, 6}, Message::bytes(72, images.size())}}});
  const std::string message = encode_message({WireMap{{"images", {std::move(images)}},
                                                      {"state", {Message::floats(14)}},
                                                      {"prompt", {std::string_view("fold")}}}});
  const ObservationDecoder decoder(spec_of(RobotKind::kJoints, 14, 14), {});
  const RobotObservation observation = decoder.decode(message).infer.observation;
  EXPECT_EQ(observation.images.at("base_0_rgb").bytes[0], 0);
  EXPECT_EQ(observation.images.at("left_wrist_0_rgb").bytes[0], 7);
  EXPECT_EQ(observation.images.at("right_wrist_0_rgb").bytes[0], 14);
  EXPECT_EQ(observation.state.size(), 14u);
}

TEST(ObservationMessage, TakesKeysThatTheServerWasTold) {
  PolicySpec spec = spec_of(RobotKind::kJoints, 7, 7);
  spec.image_keys = {"base_0_rgb"};
  const ObservationDecoder decoder(
      spec, {.keys = {{"base_0_rgb", {"base_rgb"}}, {"state", {"joints", "gripper"}}}});
  Message message(RobotKind::kLibero);
  message.set("base_rgb", Message::image(4, 6, 1)).set("joints", {Message::floats(6)}).set("gripper", {0.25});
  const RobotObservation observation = decoder.decode(message.encode()).infer.observation;
  EXPECT_EQ(observation.images.at("base_0_rgb").bytes[0], 7);
  EXPECT_EQ(observation.state, (std::vector<float>{0, 0.5, 1, 1.5, 2, 2.5, 0.25}));
  expect_error<UsageError>([&] { decoder.decode(message.set("joints", {Message::floats(7)}).encode()); },
                           "joints, gripper: expected 7 numbers in all, got 8");
  expect_error<UsageError>([&] { decoder.decode(message.remove("gripper").encode()); },
                           "gripper: is missing");
  expect_error<UsageError>([&] { decoder.decode(message.remove("base_rgb").encode()); },
                           "base_rgb: is missing");
}

TEST(ObservationMessage, RefusesBadImages) {
  const std::string key = "observation/image";
  const auto refused = [&](WireValue value, const std::string& what) {
    expect_refused(Message(RobotKind::kLibero).set(key, std::move(value)), key + ": " + what);
  };
  expect_refused(Message(RobotKind::kLibero).remove(key),
                 key + ": is missing; got \"observation/wrist_image\", \"observation/state\", \"prompt\"");
  refused({}, "is missing");
  refused({1.0}, "expected an array");
  refused({WireArray{'u', 1, {4, 6, 4}, Message::bytes(96)}}, "expected [height, width, 3]");
  refused({WireArray{'u', 1, {4, 6}, Message::bytes(24)}}, "expected [height, width, 3]");
  refused({WireArray{'u', 1, {0, 6, 3}, ""}}, "expected 1 to 8192 pixels");
  refused({WireArray{'u', 1, {3, 0, 9}, ""}}, "expected 1 to 8192 pixels");
  refused({WireArray{'i', 1, {1, 2, 3}, Message::bytes(6)}}, "expected uint8");
  refused({WireArray{'U', 4, {1, 2, 3}, Message::bytes(24)}}, "expected uint8");
  for (double bad : {-0.01, 1.01, 255.0, static_cast<double>(NAN), static_cast<double>(INFINITY)}) {
    const std::vector<double> pixels = {0, 0.5, 1, bad, 0.5, 0};
    refused({WireArray{'f', 8, {1, 2, 3}, raw(pixels)}}, "expected floats in [0, 1]");
  }
}

TEST(ObservationMessage, RefusesBadStates) {
  const std::string key = "observation/state";
  const auto refused = [&](WireValue value, const std::string& what) {
    expect_refused(Message(RobotKind::kLibero).set(key, std::move(value)), key + ": " + what);
  };
  expect_refused(Message(RobotKind::kLibero).remove(key), key + ": is missing");
  refused({Message::floats(7)}, "expected 8 numbers in all, got 7");
  refused({Message::floats(1500)}, "expected a few numbers");
  refused({std::string_view("home")}, "expected an array");
  for (double bad : {static_cast<double>(NAN), static_cast<double>(-INFINITY), 1e300}) {
    const std::vector<double> state = {0, 1, 2, 3, 4, 5, 6, bad};
    refused({WireArray{'f', 8, {8}, raw(state)}}, "holds a number that is not finite");
  }
  EXPECT_EQ(decode(Message(RobotKind::kLibero).set(key, {WireList(8, WireValue{std::int64_t{2}})}))
                .infer.observation.state,
            std::vector<float>(8, 2.0f));
}

TEST(ObservationMessage, RefusesBadPrompts) {
  Message message(RobotKind::kLibero);
  const std::string long_text(1 << 20, 'a');
  expect_refused(message.set("prompt", {std::string_view(long_text)}), "prompt: longer than");
  expect_refused(message.set("prompt", {WireBytes{"\xFF\xFE"}}), "prompt: is not UTF-8");
  expect_refused(message.set("prompt", {std::int64_t{1}}), "prompt: expected text");
  expect_refused(message.set("prompt", {std::string_view("")}), "prompt: is missing or empty");
  expect_refused(message.set("prompt", {std::string_view("\u3000 ")}), "prompt: is missing or empty");
  expect_refused(message.remove("prompt"), "prompt: is missing");
  for (const char* other : {"timestep", "max_steps", "timestamp_ns", "prev_actions"})
    EXPECT_NO_THROW(decode(Message(RobotKind::kLibero).set(other, {std::int64_t{1}})));
  expect_refused(Message(RobotKind::kLibero).set("prefixAction", {std::int64_t{1}}),
                 "\"prefixAction\": did you mean prefix_actions?");
  expect_refused(Message(RobotKind::kLibero).set("num_step", {std::int64_t{1}}),
                 "\"num_step\": did you mean num_steps?");
  const std::u32string wide = U"gr\u00FC\u00DFe \U0001F916";
  const WireArray array{
      'U', 4 * wide.size(), {}, {reinterpret_cast<const char*>(wide.data()), 4 * wide.size()}};
  EXPECT_EQ(decode(message.set("prompt", {array})).infer.observation.prompt,
            "gr\xC3\xBC\xC3\x9F"
            "e \xF0\x9F\xA4\x96");
  PolicySpec spec = spec_of(RobotKind::kLibero, 8, 7);
  spec.default_prompt = "tidy up";
  for (const char* blank : {"", " \n"})
    EXPECT_EQ(ObservationDecoder(spec, {})
                  .decode(message.set("prompt", {std::string_view(blank)}).encode())
                  .infer.observation.prompt,
              "tidy up");
  EXPECT_EQ(ObservationDecoder(spec, {}).decode(message.remove("prompt").encode()).infer.observation.prompt,
            "tidy up");
}

TEST(ObservationMessage, ReadsTheOptionalFields) {
  Message message(RobotKind::kLibero);
  const std::vector<float> noise(10 * 32, 0.25f);
  message.set("noise", {WireArray{'f', 4, {1, 10, 32}, raw(noise)}}).set("num_steps", {std::int64_t{4}});
  message.set("timestamp", {1700000000.5});
  const PolicyRequest request = decode(message);
  expect_tensor_near(request.infer.noise_hd, torch::full({10, 32}, 0.25), 0);
  EXPECT_EQ(request.options.steps, 4);
  EXPECT_EQ(request.timestamp_s, 1700000000.5);

  PolicySpec far = spec_of(RobotKind::kLibero, 8, 7);
  far.horizon = 2000;
  const std::vector<float> long_noise(2000 * 32, 0.25f);
  message.set("noise", {WireArray{'f', 4, {2000, 32}, raw(long_noise)}});
  const PolicyRequest long_request = ObservationDecoder(far, {}).decode(message.encode());
  expect_tensor_near(long_request.infer.noise_hd, torch::full({2000, 32}, 0.25), 0);

  const auto refused = [](std::string_view key, WireValue value, const std::string& begin) {
    expect_refused(Message(RobotKind::kLibero).set(key, std::move(value)), begin);
  };
  refused("noise", {WireArray{'f', 4, {5, 64}, raw(noise)}},
          "noise: expected [horizon, action_width], here [10, 32], got [5, 64] of <f4");
  refused("noise", {WireArray{'f', 4, {9, 32}, raw(noise).substr(0, 9 * 128)}},
          "noise: expected [horizon, action_width], here [10, 32], got 9 steps");
  refused("num_steps", {std::int64_t{0}}, "num_steps: expected an integer from 1 to 100");
  refused("num_steps", {std::int64_t{101}}, "num_steps: expected");
  refused("num_steps", {2.5}, "num_steps: expected");
  refused("timestamp", {std::string_view("now")}, "timestamp: expected Unix seconds");
  refused("timestamp", {static_cast<double>(NAN)}, "timestamp: expected Unix seconds");
}

TEST(ObservationMessage, ReadsPrefixActions) {
  const ObservationDecoder decoder(spec_of(RobotKind::kLibero, 8, 7), {});
  Message message(RobotKind::kLibero);
  EXPECT_TRUE(decoder.decode(message.encode()).infer.prefix_actions.empty());
  std::vector<double> prefix(3 * 7);
  std::iota(prefix.begin(), prefix.end(), 1.0);
  const RobotActions got =
      decoder.decode(message.set("prefix_actions", {WireArray{'f', 8, {3, 7}, raw(prefix)}}).encode())
          .infer.prefix_actions;
  EXPECT_EQ(got,
            (RobotActions{{1, 2, 3, 4, 5, 6, 7}, {8, 9, 10, 11, 12, 13, 14}, {15, 16, 17, 18, 19, 20, 21}}));
  expect_refused(message.set("prefix_actions", {WireArray{'f', 8, {10, 7}, Message::floats(70).data}}),
                 "prefix_actions: expected fewer than 10 steps");
  expect_refused(message.set("prefix_actions", {WireArray{'f', 8, {1, 6}, Message::floats(6).data}}),
                 "prefix_actions: expected [D, action dims], here [D, 7], got [1, 6]");
}

TEST(ObservationMessage, RefusesWhatIsNoMap) {
  const ObservationDecoder decoder(spec_of(RobotKind::kLibero, 8, 7), {});
  expect_error<UsageError>([&] { decoder.decode("\x01"); }, "message: expected a map");
  expect_error<UsageError>([&] { decoder.decode(""); }, "message: ");
}

}  // namespace
}  // namespace shallowpi
