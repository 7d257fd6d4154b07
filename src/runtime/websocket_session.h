// One websocket connection of websocket_server.h.
#pragma once

#include <atomic>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/websocket.hpp>
#include <memory>

#include "runtime/websocket_server.h"

namespace shallowpi {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
namespace websocket = boost::beast::websocket;

using HttpRequest = http::request<http::empty_body>;

/// Reads on while an answer is being worked out, so that pings are answered and a peer that leaves is
/// noticed: one complete message may wait, then reading pauses. All members run on the network thread.
class WebsocketSession : public std::enable_shared_from_this<WebsocketSession> {
 public:
  WebsocketSession(beast::tcp_stream stream, const ServerLimits& limits, WebsocketApplication& application,
                   std::function<void(WebsocketSession*)> on_end, std::weak_ptr<void> context_owner);
  ~WebsocketSession();

  void start(const HttpRequest& request);
  /// Ends the connection with code 1001, after the answer that is due.
  void shut_down();

 private:
  using Clock = std::chrono::steady_clock;

  void read_on();
  void on_piece(beast::error_code error);
  void handle_message();
  void send_answer(WebsocketAnswer answer);
  void write(WebsocketAnswer answer, std::function<void()> then);
  void on_answered();
  void close(websocket::close_code code, const char* reason);
  void drop();

  websocket::stream<beast::tcp_stream> stream_;
  const ServerLimits limits_;
  WebsocketApplication& application_;
  std::function<void(WebsocketSession*)> on_end_;
  const std::weak_ptr<void> context_owner_;
  beast::flat_buffer buffer_;
  asio::steady_timer message_timer_, write_timer_;
  std::shared_ptr<std::atomic<bool>> gone_ = std::make_shared<std::atomic<bool>>(false);
  std::shared_ptr<WebsocketSession> busy_self_;  // itself, while an answer is due
  WebsocketAnswer answer_;                       // while it is being written
  std::size_t pieces_ = 0;
  Clock::time_point waiting_since_ = Clock::now();
  std::optional<double> previous_total_ms_;
  bool open_ = false;         // the handshake is done
  bool busy_ = false;         // an answer is due or being written
  bool held_ = false;         // buffer_ holds a whole message that waits for the answer before it
  bool closing_ = false;      // nothing more is read, and a close frame follows the answer that is due
  bool close_begun_ = false;  // it is being sent: Beast never ends a second closing handshake
};

}  // namespace shallowpi
