#include "runtime/policy_service.h"

#include <future>

#include "runtime/message.h"
#include "shallowpi/runtime/policy_client.h"
#include "test_util.h"

namespace shallowpi {
namespace {

/// The quickstart's teacher behind the service, and by itself.
class PolicyServiceTest : public ::testing::Test {
 protected:
  PolicyServiceTest()
      : runner_(PolicyRunner::load(str(SHALLOWPI_SOURCE_DIR, "/configs/quickstart/teacher"), torch::kCPU,
                                   torch::kFloat32)),
        service_(
            ObservationDecoder(runner_.info().spec, {.check = [this](const auto& seen) { check_(seen); }}),
            [this](const auto& requests, const auto& options) { return runner_.infer(requests, options); },
            {}, policy_metadata(runner_.info().spec), [] {}) {
    for (const std::string& camera : runner_.info().spec.image_keys) {
      Image image{48, 96, std::vector<std::uint8_t>(3 * 48 * 96)};
      for (std::size_t i = 0; i < image.bytes.size(); ++i)
        image.bytes[i] = static_cast<std::uint8_t>(i * 31 + camera.size());
      request_.observation.images[camera] = image;
    }
    for (int dim = 0; dim < 8; ++dim) request_.observation.state.push_back(0.1f * static_cast<float>(dim));
    request_.observation.prompt = "pick up the butter";
    request_.noise_hd = torch::randn({20, 8});
  }

  WebsocketAnswer ask(std::vector<WireEntry> more) {
    const std::string plain = encode_observation(request_.observation, RobotKind::kLibero);
    const WireValue root = decode_message(plain);
    WireMap map = *root.as<WireMap>();
    map.insert(map.end(), more.begin(), more.end());
    const std::string bytes = encode_message({map});
    std::promise<WebsocketAnswer> answer;
    WebsocketMessage message;
    message.bytes = bytes;
    message.gone = [] { return false; };
    service_.on_message(message, [&](WebsocketAnswer given) { answer.set_value(std::move(given)); });
    return answer.get_future().get();
  }
  static WireValue floats(const torch::Tensor& tensor) {
    return {WireArray{
        'f', 4, tensor.sizes().vec(), {static_cast<const char*>(tensor.data_ptr()), tensor.nbytes()}}};
  }
  static RobotActions actions_of(const WebsocketAnswer& answer) {
    EXPECT_FALSE(answer.text) << answer.bytes;
    const WireValue root = decode_message(answer.bytes);
    const WireArray& array = *find(*root.as<WireMap>(), "actions")->as<WireArray>();
    EXPECT_EQ(array.dtype(), "<f8");
    RobotActions rows(array.shape.at(0));
    for (std::int64_t i = 0; i < array.size(); ++i)
      rows[i / array.shape.at(1)].push_back(static_cast<float>(array.number(i)));
    return rows;
  }

  PolicyRunner runner_;
  std::function<void(const RobotObservation&)> check_ = [this](const RobotObservation& seen) {
    runner_.transform().check_prompt(seen);
  };
  PolicyService service_;
  InferRequest request_;
};

TEST_F(PolicyServiceTest, AnswersWhatThePolicyAnswers) {
  const WebsocketAnswer answer = ask({{"noise", floats(request_.noise_hd)}});
  EXPECT_EQ(actions_of(answer), runner_.infer({request_}).at(0).actions);
  const WebsocketAnswer quick = ask({{"noise", floats(request_.noise_hd)}, {"num_steps", {std::int64_t{2}}}});
  EXPECT_EQ(actions_of(quick), runner_.infer({request_}, {2}).at(0).actions);
}

TEST_F(PolicyServiceTest, TakesPrefixActionsInRobotUnits) {
  const InferResult first = runner_.infer({request_}).at(0);
  request_.prefix_actions.assign(first.actions.begin() + 4, first.actions.begin() + 7);
  torch::Tensor prefix = torch::empty({3, 7});
  for (int h = 0; h < 3; ++h)
    for (int dim = 0; dim < 7; ++dim) prefix[h][dim] = first.actions[4 + h][dim];
  const RobotActions got =
      actions_of(ask({{"noise", floats(request_.noise_hd)}, {"prefix_actions", floats(prefix)}}));
  const RobotActions expected = runner_.infer({request_}).at(0).actions;
  for (std::size_t h = 0; h < got.size(); ++h)
    for (std::size_t dim = 0; dim < 7; ++dim) EXPECT_NEAR(got[h][dim], expected[h][dim], 1e-5);
}

TEST_F(PolicyServiceTest, RefusesWhatThePolicyRefuses) {
  const WebsocketAnswer answer = ask({});  // without noise; the program draws it
  EXPECT_TRUE(answer.text);
  EXPECT_FALSE(answer.close);
  EXPECT_EQ(answer.bytes.rfind("noise is missing", 0), 0u) << answer.bytes;
}

TEST_F(PolicyServiceTest, RefusesAPromptThatLosesTheState) {
  PolicySpec spec = runner_.info().spec;
  spec.prompt_mode = PromptMode::kPi05State;
  spec.max_token_len = 64;
  const PolicyTransform with_state(spec, *runner_.info().stats,
                                   std::make_shared<const Tokenizer>(str(
                                       SHALLOWPI_SOURCE_DIR, "/configs/quickstart/teacher/tokenizer.model")),
                                   runner_.info().config.vocab);
  check_ = [&](const RobotObservation& seen) { with_state.check_prompt(seen); };
  for (int i = 0; i < 40; ++i) request_.observation.prompt += " and the butter";
  const WebsocketAnswer answer = ask({{"noise", floats(request_.noise_hd)}});
  EXPECT_TRUE(answer.text);
  EXPECT_FALSE(answer.close);
  EXPECT_TRUE(answer.bytes.starts_with("prompt: ") && answer.bytes.ends_with(" tokens, at most 64"))
      << answer.bytes;
}

TEST_F(PolicyServiceTest, CountsRefusalsAndWarnsOfThemNowAndThen) {
  ::testing::internal::CaptureStderr();
  for (int i = 0; i < 3; ++i) service_.on_refused(401, "10.0.0.7", "Send the key.\n");
  const std::string log = ::testing::internal::GetCapturedStderr();
  const std::size_t first = log.find("10.0.0.7 was turned away with 401: Send the key.");
  EXPECT_NE(first, std::string::npos) << log;
  EXPECT_EQ(log.find("10.0.0.7", first + 1), std::string::npos) << log;
  const std::string page = service_.page("/metrics").body;
  EXPECT_NE(page.find("shallowpi_refused_handshakes_total{status=\"401\"} 3\n"), std::string::npos) << page;
  EXPECT_NE(page.find("shallowpi_refused_handshakes_total{status=\"503\"} 0\n"), std::string::npos) << page;
}

TEST_F(PolicyServiceTest, ATakenAddressIsSeenBeforeServing) {
  ServerOptions options;
  options.port = 0;
  WebsocketServer server(options, service_);
  EXPECT_NO_THROW(check_address("127.0.0.1", 0));
  testing::expect_error<IoError>([&] { check_address("127.0.0.1", server.port()); },
                                 str("cannot listen on 127.0.0.1:", server.port()), "another --port");
  EXPECT_EQ(url_host("::1"), "[::1]");
  EXPECT_EQ(url_host("127.0.0.1"), "127.0.0.1");
}

TEST_F(PolicyServiceTest, DescribesThePolicy) {
  const Json metadata = to_json(decode_message(service_.greeting()));
  EXPECT_EQ(metadata, policy_metadata(runner_.info().spec));
  EXPECT_EQ(metadata.at("cameras"), Json(runner_.info().spec.image_keys));
  PolicySpec aloha;
  aloha.robot.kind = RobotKind::kAloha;
  EXPECT_EQ(policy_metadata(aloha).at("reset_pose").size(), 6u);
  EXPECT_FALSE(policy_metadata(aloha).contains("demo_image_size")) << "where it is not known";
  aloha.demo_image_size = 640;
  EXPECT_EQ(policy_metadata(aloha).at("demo_image_size"), 640);
  EXPECT_FALSE(policy_metadata(aloha).contains("control_hz")) << "where it is not known";
  aloha.control_hz = 50;
  EXPECT_EQ(policy_metadata(aloha).at("control_hz"), 50);
  EXPECT_FALSE(policy_metadata(aloha).contains("rtc_training_max_delay")) << "where it was not trained so";
  aloha.rtc_training_max_delay = 8;
  EXPECT_EQ(policy_metadata(aloha).at("rtc_training_max_delay"), 8);
}

}  // namespace
}  // namespace shallowpi
