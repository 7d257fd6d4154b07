#include "shallowpi/runtime/policy_client.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/websocket.hpp>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>

#include "runtime/message.h"
#include "runtime/observation_message.h"
#include "runtime/websocket_server.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace websocket = boost::beast::websocket;
using asio::ip::tcp;

struct Url {
  std::string host, port = "8000", path = "/";
};

Url parse_url(const std::string& url) {
  const auto bad = [&] { throw UsageError(str(in_quotes(url), " is not ws://host[:port][/path]")); };
  const std::string_view scheme = "ws://";
  if (!url.starts_with(scheme)) bad();
  Url parts;
  std::string authority = url.substr(scheme.size());
  if (const std::size_t slash = authority.find('/'); slash != std::string::npos) {
    parts.path = authority.substr(slash);
    authority.resize(slash);
  }
  const std::size_t bracket = authority.rfind(']'), colon = authority.rfind(':');
  if (colon != std::string::npos && (bracket == std::string::npos || colon > bracket)) {
    parts.port = authority.substr(colon + 1);
    authority.resize(colon);
  }
  if (bracket != std::string::npos && authority.front() == '[' && authority.back() == ']')  // [::1]
    authority = authority.substr(1, authority.size() - 2);
  if (authority.empty() || parts.port.empty()) bad();
  parts.host = authority;
  return parts;
}

}  // namespace

/// The socket belongs to `thread_`, which always reads; callers wait for what it delivers.
struct PolicyClient::Impl {
  struct Frame {
    std::string bytes;
    bool text = false;
  };
  /// One TCP connection with its thread.
  class Connection {
   public:
    Connection(const Url& url, const std::string& api_key, std::chrono::duration<double> timeout);
    ~Connection();
    void send(std::string bytes);
    /// The next message; throws Error where none comes in time or the connection is lost.
    Frame receive();
    bool lost() const;

   private:
    void connect(const Url& url, const std::string& api_key);
    void read();
    void fail(const beast::error_code& error, const char* doing);

    const std::string name_;
    const std::chrono::duration<double> timeout_;
    asio::io_context context_{1};
    tcp::resolver resolver_{context_};
    websocket::stream<beast::tcp_stream> stream_{context_};
    beast::flat_buffer buffer_;
    std::string sending_;  // empty where nothing is being sent
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<Frame> frames_;
    std::string failure_;
    std::thread thread_;
  };

  void connect() {
    connection.reset();
    connection.emplace(url, api_key, timeout);
    try {
      metadata = to_json(decode_message(connection->receive().bytes));
    } catch (...) {
      connection.reset();  // a late greeting must not be taken for an answer
      throw;
    }
  }

  Url url;
  std::string api_key;
  std::chrono::duration<double> timeout{60};
  std::optional<Connection> connection;
  Json metadata;
};

PolicyClient::Impl::Connection::Connection(const Url& url, const std::string& api_key,
                                           std::chrono::duration<double> timeout)
    : name_(url_host(url.host) + ":" + url.port), timeout_(timeout) {
  connect(url, api_key);
  thread_ = std::thread([this] { context_.run(); });
}

PolicyClient::Impl::Connection::~Connection() {
  asio::post(context_, [this] {
    const auto stop = [this](beast::error_code) { context_.stop(); };
    // A close frame would wait for the message that is being sent, and its timeout only begins after it.
    if (lost() || !sending_.empty()) return stop({});
    stream_.set_option(
        websocket::stream_base::timeout{std::chrono::seconds(1), websocket::stream_base::none(), false});
    stream_.async_close(websocket::close_code::normal, stop);
  });
  thread_.join();
}

void PolicyClient::Impl::Connection::connect(const Url& url, const std::string& api_key) {
  auto timeout = std::chrono::duration_cast<std::chrono::steady_clock::duration>(timeout_);
  stream_.set_option(websocket::stream_base::timeout{timeout, websocket::stream_base::none(), false});
  stream_.set_option(websocket::stream_base::decorator([api_key](websocket::request_type& request) {
    if (!api_key.empty()) request.set(beast::http::field::authorization, "Api-Key " + api_key);
  }));
  stream_.read_message_max(std::size_t{256} << 20);
  stream_.binary(true);
  stream_.auto_fragment(false);
  stream_.write_buffer_bytes(64 << 10);  // images in pieces of 4 KiB, the default, take hundreds of writes
  beast::get_lowest_layer(stream_).expires_after(timeout);
  std::optional<beast::error_code> result;
  websocket::response_type response;
  resolver_.async_resolve(
      url.host, url.port, [&](beast::error_code error, tcp::resolver::results_type found) {
        if (error) return void(result = error);
        beast::get_lowest_layer(stream_).async_connect(
            found, [&](beast::error_code error, const tcp::endpoint&) {
              if (error) return void(result = error);
              beast::error_code ignored;
              beast::get_lowest_layer(stream_).socket().set_option(tcp::no_delay(true), ignored);
              beast::get_lowest_layer(stream_).expires_never();
              stream_.async_handshake(response, name_, url.path,
                                      [&](beast::error_code error) { result = error; });
            });
      });
  const auto end = std::chrono::steady_clock::now() + timeout;
  while (!result && context_.run_one_until(end) > 0) {
  }
  context_.restart();
  if (!result) throw Error(str("no answer from ", name_, " within ", timeout_.count(), " s"));
  if (*result == websocket::error::upgrade_declined)
    throw Error(str(name_, " refuses: HTTP status ", response.result_int(),
                    response.result_int() == 401 ? "; it wants another API key" : ""));
  if (*result) throw Error(str("cannot connect to ", name_, ": ", result->message()));
  read();
}

void PolicyClient::Impl::Connection::read() {
  stream_.async_read(buffer_, [this](beast::error_code error, std::size_t) {
    if (error) return fail(error, "reading");
    {
      const std::lock_guard lock(mutex_);
      const std::string_view bytes(static_cast<const char*>(buffer_.data().data()), buffer_.size());
      frames_.push_back({std::string(bytes), stream_.got_text()});
    }
    buffer_.consume(buffer_.size());
    changed_.notify_all();
    read();
  });
}

void PolicyClient::Impl::Connection::fail(const beast::error_code& error, const char* doing) {
  {
    const std::lock_guard lock(mutex_);
    if (failure_.empty())
      failure_ = str("lost the connection to ", name_, " while ", doing, ": ", error.message());
  }
  changed_.notify_all();
}

void PolicyClient::Impl::Connection::send(std::string bytes) {
  asio::post(context_, [this, bytes = std::move(bytes)]() mutable {
    sending_ = std::move(bytes);
    stream_.async_write(asio::buffer(sending_), [this](beast::error_code error, std::size_t) {
      sending_.clear();
      if (error) fail(error, "sending");
    });
  });
}

PolicyClient::Impl::Frame PolicyClient::Impl::Connection::receive() {
  std::unique_lock lock(mutex_);
  if (!changed_.wait_for(lock, timeout_, [&] { return !frames_.empty() || !failure_.empty(); }))
    throw Error(str("no answer from ", name_, " within ", timeout_.count(), " s"));
  if (frames_.empty()) throw Error(failure_);
  Frame frame = std::move(frames_.front());
  frames_.pop_front();
  return frame;
}

bool PolicyClient::Impl::Connection::lost() const {
  const std::lock_guard lock(mutex_);
  return !failure_.empty();
}

PolicyClient::PolicyClient(const std::string& url, const std::string& api_key, double timeout_s)
    : impl_(std::make_unique<Impl>()) {
  impl_->url = parse_url(url);
  impl_->api_key = api_key;
  impl_->timeout = std::chrono::duration<double>(timeout_s);
  impl_->connect();
}

PolicyClient::~PolicyClient() = default;

const Json& PolicyClient::metadata() const {
  return impl_->metadata;
}

RobotActions PolicyClient::infer(const RobotObservation& observation, RobotKind robot,
                                 const ClientExtras& extras) {
  std::string message = encode_observation(observation, robot, extras);
  if (!impl_->connection || impl_->connection->lost()) impl_->connect();
  Impl::Frame answer;
  try {
    impl_->connection->send(std::move(message));
    answer = impl_->connection->receive();
  } catch (const Error&) {
    impl_->connection.reset();  // a late answer must not be taken for the next one's
    throw;
  }
  if (answer.text) throw Error(str("the policy server answers: ", answer.bytes));
  const WireValue root = decode_message(answer.bytes);
  const WireMap* map = root.as<WireMap>();
  const WireValue* actions = map ? find(*map, "actions") : nullptr;
  const WireArray* array = actions ? actions->as<WireArray>() : nullptr;
  if (!array || array->kind != 'f' || array->shape.size() != 2 || array->shape[0] < 1 || array->shape[1] < 1)
    throw Error("the policy server's answer has no actions [steps, dims]");
  RobotActions rows(array->shape[0], std::vector<float>(array->shape[1]));
  for (std::int64_t i = 0; i < array->size(); ++i)
    rows[i / array->shape[1]][i % array->shape[1]] = static_cast<float>(array->number(i));
  return rows;
}

}  // namespace shallowpi
