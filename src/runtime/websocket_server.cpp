#include "runtime/websocket_server.h"

#include <openssl/crypto.h>
#include <unistd.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <set>

#include "runtime/websocket_session.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/log.h"
#include "shallowpi/base/manifest.h"

namespace shallowpi {
namespace {

using asio::ip::tcp;

constexpr const char* kWebsocketVersion = "13";
constexpr std::size_t kWebsocketKeyChars = 24;  // 16 bytes in base64

/// Compares in a time that depends neither on where they differ nor on their lengths.
bool same_secret(std::string_view a, std::string_view b) {
  const std::string hash_a = sha256(a), hash_b = sha256(b);
  return CRYPTO_memcmp(hash_a.data(), hash_b.data(), hash_a.size()) == 0;
}

asio::ip::address parse_address(const std::string& host) {
  beast::error_code error;
  const asio::ip::address address = asio::ip::make_address(host == "localhost" ? "127.0.0.1" : host, error);
  if (error)
    throw UsageError(str("--host ", in_quotes(host), ": give an IP address, as 127.0.0.1 or 0.0.0.0"));
  return address;
}

void bind_to(tcp::acceptor& acceptor, const std::string& host, std::uint16_t port) {
  const tcp::endpoint endpoint(parse_address(host), port);
  acceptor.open(endpoint.protocol());
  acceptor.set_option(tcp::acceptor::reuse_address(true));
  acceptor.bind(endpoint);
}

/// Runs `open`; what the system says against it becomes an IoError.
void open_or_explain(const std::string& host, std::uint16_t port, const std::function<void()>& open) {
  try {
    open();
  } catch (const boost::system::system_error& error) {
    throw IoError(str("cannot listen on ", url_host(host), ":", port, ": ", error.code().message(),
                      "; choose another --port (0: any free one), or a --host of this machine"),
                  ExitCode::kUsage);
  }
}

}  // namespace

void check_address(const std::string& host, std::uint16_t port) {
  asio::io_context context;
  tcp::acceptor acceptor(context);
  open_or_explain(host, port, [&] { bind_to(acceptor, host, port); });
}

std::string url_host(const std::string& host) {
  return host.find(':') == std::string::npos ? host : "[" + host + "]";
}

bool is_loopback(const std::string& host) {
  return parse_address(host).is_loopback();
}

struct WebsocketServer::Impl : std::enable_shared_from_this<Impl> {
  Impl(ServerOptions server_options, WebsocketApplication& server_application)
      : options(std::move(server_options)), application(server_application) {}
  ~Impl() { stopping = false; }

  void open();
  void accept();
  void stop();
  void end_if_idle();
  void session_ended(WebsocketSession* session);
  void wait_for_signal();

  ServerOptions options;
  WebsocketApplication& application;
  // Connections that are left die with `context`, and take themselves off these.
  std::set<WebsocketSession*> sessions;
  std::size_t handshakes = 0;
  bool stopping = false, catches_signals = false;
  asio::io_context context{1};
  tcp::acceptor acceptor{context};
  asio::signal_set signals{context};
  asio::steady_timer retry{context};
  asio::executor_work_guard<asio::io_context::executor_type> work{context.get_executor()};
};

namespace {

/// Reads one HTTP request and answers it, or hands the connection over to a websocket session.
class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  using Upgrade = std::function<bool(beast::tcp_stream&, const HttpRequest&)>;  // false: there are too many

  HttpConnection(tcp::socket socket, const ServerOptions& options, WebsocketApplication& application,
                 Upgrade upgrade, std::function<void()> on_end)
      : stream_(std::move(socket)),
        options_(options),
        application_(application),
        upgrade_(std::move(upgrade)),
        on_end_(std::move(on_end)),
        buffer_(options.limits.header_bytes) {}
  ~HttpConnection() { on_end_(); }

  void start() {
    parser_.header_limit(static_cast<std::uint32_t>(options_.limits.header_bytes));
    stream_.expires_after(options_.limits.handshake);  // for the request and its answer together
    http::async_read_header(
        stream_, buffer_, parser_,
        [self = shared_from_this()](beast::error_code error, std::size_t) { self->on_request(error); });
  }

 private:
  void on_request(beast::error_code error) {
    if (error == http::error::header_limit || error == http::error::buffer_overflow)
      return refuse(http::status::request_header_fields_too_large, "The request's header is too large.\n");
    if (error.category() == http::make_error_code(http::error::bad_method).category() &&
        error != http::error::end_of_stream && error != http::error::partial_message)
      return refuse(http::status::bad_request, "This is not an HTTP request.\n");
    if (error) return;
    const HttpRequest& request = parser_.get();
    // Browsers send Origin, and would let any web page talk to a server on its visitor's machine.
    if (!options_.allow_origins && request.count(http::field::origin) > 0)
      return refuse(http::status::forbidden, "Requests from web pages are not served.\n");
    const HttpPage page = application_.page({request.target().data(), request.target().size()});
    const bool is_page = page.status != 404;
    if ((!is_page || page.needs_key) && !has_key(request))
      return refuse(http::status::unauthorized, "Send the header `Authorization: Api-Key KEY`.\n");
    if (is_page) return answer(http::int_to_status(page.status), page.body);
    if (!websocket::is_upgrade(request) || request[http::field::sec_websocket_version] != kWebsocketVersion)
      return refuse(http::status::upgrade_required,
                    "This is a websocket server; connect with a websocket client.\n");
    if (request.count(http::field::host) == 0 ||
        request[http::field::sec_websocket_key].size() != kWebsocketKeyChars)
      return refuse(http::status::bad_request,
                    "The websocket handshake has no Host or no valid Sec-WebSocket-Key.\n");
    if (!upgrade_(stream_, request))
      refuse(http::status::service_unavailable, "There are too many connections.\n");
  }

  bool has_key(const HttpRequest& request) const {
    if (options_.api_key.empty()) return true;
    const auto given = request[http::field::authorization];
    return same_secret({given.data(), given.size()}, "Api-Key " + options_.api_key);
  }

  void refuse(http::status status, const std::string& why) {
    beast::error_code gone;
    const tcp::endpoint peer = stream_.socket().remote_endpoint(gone);
    application_.on_refused(static_cast<int>(status), gone ? "a client" : peer.address().to_string(), why);
    answer(status, why);
  }

  void answer(http::status status, const std::string& body) {
    response_.result(status);
    response_.set(http::field::content_type, "text/plain; charset=utf-8");
    if (status == http::status::upgrade_required) {
      response_.set(http::field::upgrade, "websocket");
      response_.set(http::field::sec_websocket_version, kWebsocketVersion);
    }
    response_.keep_alive(false);
    response_.body() = body;
    response_.prepare_payload();
    http::async_write(stream_, response_, [self = shared_from_this()](beast::error_code, std::size_t) {
      beast::error_code ignored;
      self->stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
    });
  }

  beast::tcp_stream stream_;
  const ServerOptions& options_;
  WebsocketApplication& application_;
  Upgrade upgrade_;
  std::function<void()> on_end_;
  beast::flat_buffer buffer_;
  http::request_parser<http::empty_body> parser_;
  http::response<http::string_body> response_;
};

}  // namespace

void WebsocketServer::Impl::open() {
  open_or_explain(options.host, options.port, [this] {
    bind_to(acceptor, options.host, options.port);
    acceptor.listen();
  });
}

void WebsocketServer::Impl::accept() {
  acceptor.async_accept([this](beast::error_code error, tcp::socket socket) {
    if (stopping) return;
    if (error) {  // out of file descriptors, most likely
      retry.expires_after(std::chrono::milliseconds(100));
      return retry.async_wait([this](beast::error_code cancelled) {
        if (!cancelled) accept();
      });
    }
    if (handshakes < options.limits.handshakes) {
      beast::error_code ignored;
      socket.set_option(tcp::no_delay(true), ignored);
      const auto upgrade = [this](beast::tcp_stream& stream, const HttpRequest& request) {
        if (stopping || sessions.size() >= options.limits.connections) return false;
        const auto session = std::make_shared<WebsocketSession>(
            std::move(stream), options.limits, application,
            [this](WebsocketSession* ended) { session_ended(ended); }, weak_from_this());
        sessions.insert(session.get());
        application.on_connections(sessions.size());
        session->start(request);
        return true;
      };
      ++handshakes;
      std::make_shared<HttpConnection>(std::move(socket), options, application, upgrade, [this] {
        --handshakes;
      })->start();
    }
    accept();
  });
}

void WebsocketServer::Impl::session_ended(WebsocketSession* session) {
  sessions.erase(session);
  application.on_connections(sessions.size());
  end_if_idle();
}

void WebsocketServer::Impl::end_if_idle() {
  if (stopping && sessions.empty()) context.stop();
}

void WebsocketServer::Impl::stop() {
  if (stopping) return;
  stopping = true;
  acceptor.close();
  retry.cancel();
  if (catches_signals) {
    signals.clear();  // the next one ends at once
    const auto end_now = [](int number) { _exit(128 + number); };
    std::signal(SIGINT, end_now);
    std::signal(SIGTERM, end_now);
  }
  for (WebsocketSession* session : std::set<WebsocketSession*>(sessions)) session->shut_down();
  end_if_idle();
}

void WebsocketServer::Impl::wait_for_signal() {
  signals.async_wait([this](beast::error_code error, int signal) {
    if (error) return;
    log::info("signal ", signal, ": finishing the answers that are due; a second one ends at once");
    stop();
  });
}

WebsocketServer::WebsocketServer(ServerOptions options, WebsocketApplication& application)
    : impl_(std::make_shared<Impl>(std::move(options), application)) {
  impl_->open();
}

WebsocketServer::~WebsocketServer() = default;

std::uint16_t WebsocketServer::port() const {
  return impl_->acceptor.local_endpoint().port();
}

void WebsocketServer::handle_signals() {
  impl_->signals.add(SIGINT);
  impl_->signals.add(SIGTERM);
  impl_->catches_signals = true;
  impl_->wait_for_signal();
}

void WebsocketServer::run() {
  impl_->accept();
  impl_->context.run();
}

void WebsocketServer::stop() {
  asio::post(impl_->context, [impl = impl_] { impl->stop(); });
}

}  // namespace shallowpi
