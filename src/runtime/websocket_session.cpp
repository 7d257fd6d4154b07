#include "runtime/websocket_session.h"

#include <utility>

namespace shallowpi {
namespace {

constexpr std::size_t kPieceBytes = 64 << 10;  // read at a time
// A buffer larger than this, which holds two pictures of 1280 x 720, is given back after its message.
constexpr std::size_t kKeptBufferBytes = std::size_t{8} << 20;

}  // namespace

WebsocketSession::WebsocketSession(beast::tcp_stream stream, const ServerLimits& limits,
                                   WebsocketApplication& application,
                                   std::function<void(WebsocketSession*)> on_end,
                                   std::weak_ptr<void> context_owner)
    : stream_(std::move(stream)),
      limits_(limits),
      application_(application),
      on_end_(std::move(on_end)),
      context_owner_(std::move(context_owner)),
      message_timer_(stream_.get_executor()),
      write_timer_(stream_.get_executor()) {}

WebsocketSession::~WebsocketSession() {
  *gone_ = true;
  on_end_(this);
}

void WebsocketSession::start(const HttpRequest& request) {
  beast::get_lowest_layer(stream_).expires_never();  // the websocket has timeouts of its own
  stream_.set_option(websocket::stream_base::timeout{limits_.handshake, limits_.idle, true});
  stream_.read_message_max(limits_.message_bytes);
  // Beast's own would name its version.
  stream_.set_option(websocket::stream_base::decorator(
      [](websocket::response_type& response) { response.set(http::field::server, "shallowpi"); }));
  stream_.auto_fragment(false);  // one frame per message, as openpi sends them
  stream_.async_accept(request, [self = shared_from_this()](beast::error_code error) {
    if (error) return;
    self->open_ = true;
    std::string greeting = self->application_.greeting();
    const auto begin = [self] {
      self->waiting_since_ = Clock::now();
      self->read_on();
    };
    if (greeting.empty()) return begin();
    self->write({std::move(greeting)}, begin);
  });
}

void WebsocketSession::shut_down() {
  if (!open_) return drop();
  if (!busy_) return close(websocket::close_code::going_away, "The server is shutting down.");
  closing_ = true;
}

void WebsocketSession::read_on() {
  if (closing_) return;
  stream_.async_read_some(
      buffer_, kPieceBytes,
      [self = shared_from_this()](beast::error_code error, std::size_t) { self->on_piece(error); });
}

void WebsocketSession::on_piece(beast::error_code error) {
  if (error) {
    *gone_ = true;
    message_timer_.cancel();
    return;
  }
  if (pieces_++ == 0) {
    message_timer_.expires_after(limits_.message);
    message_timer_.async_wait([weak = weak_from_this()](beast::error_code cancelled) {
      const auto self = weak.lock();
      if (self && !cancelled && self->pieces_ > 0)
        self->close(websocket::close_code::policy_error, "The message took too long.");
    });
  }
  if (!stream_.is_message_done()) {
    if (pieces_ > limits_.message_pieces) return close(websocket::close_code::too_big, "Too many fragments.");
    return read_on();
  }
  pieces_ = 0;
  message_timer_.cancel();
  held_ = true;
  if (!busy_) handle_message();
}

void WebsocketSession::handle_message() {
  if (closing_) return;
  busy_ = true;
  held_ = false;
  WebsocketMessage message;
  message.bytes = {static_cast<const char*>(buffer_.data().data()), buffer_.size()};
  message.text = stream_.got_text();
  message.previous_total_ms = previous_total_ms_;
  message.gone = [gone = gone_] { return gone->load(); };
  // Only the network thread may own the session, or it could be destroyed in the thread that answers.
  busy_self_ = shared_from_this();
  application_.on_message(message, [weak = weak_from_this(), executor = stream_.get_executor(),
                                    context = context_owner_.lock()](WebsocketAnswer answer) {
    asio::post(executor, [weak, answer = std::move(answer)]() mutable {
      if (const auto self = weak.lock()) self->send_answer(std::move(answer));
    });
  });
  buffer_.consume(buffer_.size());
  if (buffer_.capacity() > kKeptBufferBytes) buffer_.shrink_to_fit();
  read_on();
}

void WebsocketSession::send_answer(WebsocketAnswer answer) {
  const auto self = std::move(busy_self_);
  const bool close = answer.close;
  write(std::move(answer), [self, close] {
    if (close) return self->close(websocket::close_code::internal_error, "Internal server error.");
    self->on_answered();
  });
}

void WebsocketSession::write(WebsocketAnswer answer, std::function<void()> then) {
  if (*gone_) return;
  answer_ = std::move(answer);
  stream_.text(answer_.text);
  write_timer_.expires_after(limits_.write);
  write_timer_.async_wait([weak = weak_from_this()](beast::error_code cancelled) {
    if (const auto self = weak.lock(); self && !cancelled) self->drop();
  });
  stream_.async_write(asio::buffer(answer_.bytes), [self = shared_from_this(), then = std::move(then)](
                                                       beast::error_code error, std::size_t) {
    self->write_timer_.cancel();
    if (!error) then();
  });
}

void WebsocketSession::on_answered() {
  busy_ = false;
  previous_total_ms_ = std::chrono::duration<double, std::milli>(Clock::now() - waiting_since_).count();
  waiting_since_ = Clock::now();
  if (closing_) return close(websocket::close_code::going_away, "The server is shutting down.");
  if (held_) handle_message();
}

void WebsocketSession::close(websocket::close_code code, const char* reason) {
  closing_ = true;
  *gone_ = true;
  if (std::exchange(close_begun_, true)) return;
  stream_.async_close(websocket::close_reason(code, reason),
                      [self = shared_from_this()](beast::error_code) {});
}

void WebsocketSession::drop() {
  *gone_ = true;
  beast::get_lowest_layer(stream_).close();
}

}  // namespace shallowpi
