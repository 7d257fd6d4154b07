// What a server counts, as a Prometheus text page.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "shallowpi/base/enum_names.h"

namespace shallowpi {

/// How a client's message ended.
enum class RequestEnd { kAnswered, kBadMessage, kQueueFull, kStale, kNotFinite, kFailed, kAbandoned };

template <>
inline constexpr auto kEnumNames<RequestEnd> = std::to_array<EnumName<RequestEnd>>({
    {RequestEnd::kAnswered, "answered"},
    {RequestEnd::kBadMessage, "bad_message"},
    {RequestEnd::kQueueFull, "queue_full"},
    {RequestEnd::kStale, "stale"},
    {RequestEnd::kNotFinite, "not_finite"},
    {RequestEnd::kFailed, "failed"},
    {RequestEnd::kAbandoned, "abandoned"},
});

/// Safe to use from several threads.
class ServerMetrics {
 public:
  void count(RequestEnd end);
  /// An HTTP request that was turned away with this status.
  void count_refused(int status);
  void observe_batch(std::size_t size, double queue_s, double infer_s);
  void set_connections(std::size_t open);
  std::size_t connections() const {
    const std::lock_guard lock(mutex_);
    return connections_;
  }
  void set_queued(std::size_t waiting);
  std::string prometheus() const;

 private:
  struct Histogram {
    static constexpr std::array kBounds = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0};
    std::array<std::uint64_t, kBounds.size() + 1> counts{};  // of seconds up to each bound, and beyond
    double sum = 0;
    void add(double seconds);
    void print(std::string& page, const std::string& name, const std::string& help) const;
  };

  mutable std::mutex mutex_;
  std::array<std::uint64_t, kEnumNames<RequestEnd>.size()> ends_{};
  std::map<int, std::uint64_t> refused_{{400, 0}, {401, 0}, {403, 0}, {426, 0}, {431, 0}, {503, 0}};
  std::uint64_t batches_ = 0, batched_ = 0;
  std::size_t connections_ = 0, queued_ = 0;
  Histogram queue_, infer_;
};

}  // namespace shallowpi
