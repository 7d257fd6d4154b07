// A websocket server for peers that may be hostile: one network thread, every size, count and wait bounded.
// What the messages mean is the application's business, so that tests run the same sessions with another one.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace shallowpi {

struct ServerLimits {
  std::size_t message_bytes = std::size_t{32} << 20;  ///< larger ones end the connection with code 1009
  std::size_t message_pieces = 1 << 17;               ///< frames and reads of one message; likewise
  std::size_t header_bytes = 8 << 10;                 ///< of the HTTP request
  std::size_t connections = 64;                       ///< websockets; one more is answered with 503
  std::size_t handshakes = 256;                       ///< connections that have not finished their request
  std::chrono::milliseconds handshake{5000};          ///< for the HTTP request, the upgrade, and closing
  std::chrono::milliseconds idle{60000};     ///< without a sign of life; a ping is sent after half of it
  std::chrono::milliseconds message{30000};  ///< from a message's first byte to its last
  std::chrono::milliseconds write{30000};    ///< for the peer to take an answer
};

struct ServerOptions {
  std::string host = "127.0.0.1";  ///< an IP address
  std::uint16_t port = 8000;       ///< 0: any free one
  std::string api_key;             ///< not empty: peers must send `Authorization: Api-Key KEY`
  bool allow_origins = false;      ///< accept browsers (requests with an Origin header)
  ServerLimits limits;
};

/// What goes back for one message.
struct WebsocketAnswer {
  std::string bytes;
  bool text = false;
  bool close = false;  ///< end the connection with code 1011 afterwards
};

struct WebsocketMessage {
  std::string_view bytes;  ///< valid during the call only
  bool text = false;
  /// From waiting for the connection's last message to its answer's last byte.
  std::optional<double> previous_total_ms;
  std::function<bool()> gone;  ///< has the peer left? Callable from any thread
};

struct HttpPage {
  int status = 404;
  std::string body;
  bool needs_key = false;
};

/// All calls come from the network thread and must return soon.
class WebsocketApplication {
 public:
  virtual ~WebsocketApplication() = default;
  /// The first message on every connection; empty: none.
  virtual std::string greeting() = 0;
  /// `answer` has to be called once, from any thread. A connection's next message comes after its answer has
  /// been written.
  virtual void on_message(const WebsocketMessage& message, std::function<void(WebsocketAnswer)> answer) = 0;
  /// The page of a plain GET request.
  virtual HttpPage page(std::string_view path) = 0;
  virtual void on_connections(std::size_t /*open*/) {}
  /// A request was turned away with this HTTP status before it became a websocket.
  virtual void on_refused(int /*status*/, const std::string& /*peer*/, const std::string& /*why*/) {}
};

class WebsocketServer {
 public:
  /// Opens the port. Throws UsageError for a host that is no IP address, and IoError where the system does
  /// not open it.
  WebsocketServer(ServerOptions options, WebsocketApplication& application);
  ~WebsocketServer();
  std::uint16_t port() const;
  /// From now on SIGINT and SIGTERM stop it, also before run(); a second one ends the process at once.
  void handle_signals();
  /// Serves until stop().
  void run();
  /// From any thread: no more connections and messages; run() returns when the answers that are due are sent.
  void stop();

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

/// Throws what WebsocketServer would throw for this address, and leaves it free.
void check_address(const std::string& host, std::uint16_t port);
/// As in a URL: IPv6 addresses in brackets.
std::string url_host(const std::string& host);
/// Whether it is an address of this machine only. Throws UsageError where `host` is no IP address.
bool is_loopback(const std::string& host);

}  // namespace shallowpi
