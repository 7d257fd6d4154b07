#include "shallowpi/runtime/policy_client.h"

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/websocket.hpp>
#include <list>
#include <thread>

#include "runtime/policy_service.h"
#include "test_util.h"

namespace shallowpi {
namespace {

using testing::expect_error;

/// A server whose policy answers with the state, after as many milliseconds as the prompt says.
class PolicyClientTest : public ::testing::Test {
 protected:
  void start(ServerOptions options = {}) {
    options.port = 0;
    PolicySpec spec;
    spec.horizon = 2;
    spec.image_keys = {"base_0_rgb"};
    const InferFunction infer = [](const std::vector<InferRequest>& requests, const InferOptions&) {
      const RobotObservation& observation = requests.at(0).observation;
      if (observation.prompt == "fail") throw std::runtime_error("no");
      std::this_thread::sleep_for(std::chrono::milliseconds(std::stoi(observation.prompt)));
      InferResult result;
      result.actions = {observation.state,
                        std::vector<float>(8, observation.images.at("base_0_rgb").bytes.at(0))};
      return std::vector<InferResult>{result};
    };
    service_ = std::make_unique<PolicyService>(ObservationDecoder(spec, {}), infer, QueueOptions{},
                                               policy_metadata(spec), [] {});
    server_ = std::make_unique<WebsocketServer>(options, *service_);
    url_ = str("ws://127.0.0.1:", server_->port());
    thread_ = std::thread([this] { server_->run(); });
  }
  void TearDown() override {
    if (!thread_.joinable()) return;
    server_->stop();
    thread_.join();
  }
  static RobotObservation observation(float value, const std::string& prompt = "0") {
    RobotObservation result;
    result.images["base_0_rgb"] = {2, 3, std::vector<std::uint8_t>(18, 77)};
    result.state.assign(8, value);
    result.prompt = prompt;
    return result;
  }

  std::unique_ptr<PolicyService> service_;
  std::unique_ptr<WebsocketServer> server_;
  std::string url_;
  std::thread thread_;
};

/// Greets every connection, after a while, and then neither reads nor writes.
class DeafServer {
 public:
  DeafServer() : thread_([this] { run(); }) {}
  ~DeafServer() {
    stopping_ = true;
    tcp::socket(context_).connect(acceptor_.local_endpoint());
    thread_.join();
  }
  std::string url() const { return str("ws://127.0.0.1:", acceptor_.local_endpoint().port()); }
  void greet_after(std::chrono::milliseconds delay) { delay_ = delay; }

 private:
  using tcp = boost::asio::ip::tcp;

  void run() {
    std::list<boost::beast::websocket::stream<tcp::socket>> connections;
    for (;;) {
      tcp::socket socket = acceptor_.accept();
      if (stopping_) return;
      auto& connection = connections.emplace_back(std::move(socket));
      boost::beast::error_code ignored;
      connection.accept(ignored);
      std::this_thread::sleep_for(delay_.load());
      connection.binary(true);
      connection.write(boost::asio::buffer("\x80", 1), ignored);  // an empty map
    }
  }

  boost::asio::io_context context_;
  tcp::acceptor acceptor_{context_, tcp::endpoint(boost::asio::ip::address_v4::loopback(), 0)};
  std::atomic<std::chrono::milliseconds> delay_{std::chrono::milliseconds(0)};
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

TEST_F(PolicyClientTest, AsksAndIsAnswered) {
  start();
  PolicyClient client(url_ + "/any/path");
  EXPECT_EQ(client.metadata().at("robot"), "libero");
  EXPECT_EQ(client.metadata().at("action_horizon"), 2);
  for (float value : {0.5f, -1.25f})
    EXPECT_EQ(client.infer(observation(value)),
              (RobotActions{std::vector<float>(8, value), std::vector<float>(8, 77)}));
}

TEST_F(PolicyClientTest, GoesOnAfterAnError) {
  start();
  PolicyClient client(url_);
  RobotObservation bad = observation(1);
  bad.state.pop_back();
  expect_error<Error>([&] { client.infer(bad); }, "observation/state: expected 8 numbers in all, got 7");
  EXPECT_EQ(client.infer(observation(2)).at(0).at(0), 2);
  expect_error<Error>([&] { client.infer(observation(3, "fail")); }, "the policy failed");  // and closes
  usleep(50000);
  EXPECT_EQ(client.infer(observation(4)).at(0).at(0), 4);
}

TEST_F(PolicyClientTest, WaitsNoLongerThanItWasTold) {
  start();
  PolicyClient client(url_, "", 0.3);
  expect_error<Error>([&] { client.infer(observation(1, "800")); }, "no answer from 127.0.0.1:");
  usleep(900000);
  EXPECT_EQ(client.infer(observation(2)).at(0).at(0), 2);  // not the late answer
}

TEST_F(PolicyClientTest, DoesNotWaitForAServerThatStoppedReading) {
  DeafServer server;
  PolicyClient client(server.url(), "", 0.5);
  RobotObservation large = observation(1);
  large.images["base_0_rgb"] = {2000, 2000, std::vector<std::uint8_t>(12000000)};  // more than sockets hold
  const auto start = std::chrono::steady_clock::now();
  expect_error<Error>([&] { client.infer(large); }, "no answer from 127.0.0.1:");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(3));
}

TEST_F(PolicyClientTest, TakesNoLateGreetingForAnAnswer) {
  DeafServer server;
  PolicyClient client(server.url(), "", 0.3);
  expect_error<Error>([&] { client.infer(observation(1)); }, "no answer");
  server.greet_after(std::chrono::milliseconds(600));
  expect_error<Error>([&] { client.infer(observation(1)); }, "no answer");  // to the new connection
  usleep(500000);
  server.greet_after(std::chrono::milliseconds(0));
  expect_error<Error>([&] { client.infer(observation(1)); }, "no answer");
}

TEST_F(PolicyClientTest, SendsItsKey) {
  ServerOptions options;
  options.api_key = "0123456789abcdef";
  start(options);
  expect_error<Error>([&] { PolicyClient client(url_); }, "HTTP status 401", "wants another API key");
  expect_error<Error>([&] { PolicyClient client(url_, "0123456789abcdeX"); }, "HTTP status 401");
  EXPECT_EQ(PolicyClient(url_, options.api_key).infer(observation(1)).at(0).at(0), 1);
}

TEST_F(PolicyClientTest, StaysConnectedThroughPauses) {
  ServerOptions options;
  options.limits.idle = std::chrono::milliseconds(400);
  start(options);
  PolicyClient client(url_);
  usleep(1500000);  // longer than the idle timeout: its thread answers the server's pings
  EXPECT_NE(service_->page("/metrics").body.find("shallowpi_connections 1\n"), std::string::npos);
  EXPECT_EQ(client.infer(observation(1)).at(0).at(0), 1);
}

TEST_F(PolicyClientTest, SaysWhatIsWrongWithTheAddress) {
  for (const char* url : {"http://127.0.0.1:1", "127.0.0.1:8000", "ws://", "ws://:80", "wss://host"})
    expect_error<UsageError>([&] { PolicyClient client(url); }, "is not ws://host[:port][/path]");
  expect_error<Error>([&] { PolicyClient client("ws://127.0.0.1:1", "", 5); },
                      "cannot connect to 127.0.0.1:1: Connection refused");
}

}  // namespace
}  // namespace shallowpi
