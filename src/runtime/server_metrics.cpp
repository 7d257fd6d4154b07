#include "runtime/server_metrics.h"

#include "shallowpi/base/text.h"

namespace shallowpi {

namespace {

std::string describe(const std::string& name, const std::string& type, const std::string& help) {
  return str("# HELP ", name, " ", help, "\n# TYPE ", name, " ", type, "\n");
}

std::string gauge(const std::string& name, const std::string& help, std::uint64_t value) {
  return str(describe(name, "gauge", help), name, " ", value, "\n");
}

}  // namespace

void ServerMetrics::Histogram::add(double seconds) {
  std::size_t bin = 0;
  while (bin < kBounds.size() && seconds > kBounds[bin]) ++bin;
  ++counts[bin];
  sum += seconds;
}

void ServerMetrics::Histogram::print(std::string& page, const std::string& name,
                                     const std::string& help) const {
  page += describe(name, "histogram", help);
  std::uint64_t total = 0;
  for (std::size_t bin = 0; bin < counts.size(); ++bin) {
    total += counts[bin];
    page +=
        str(name, "_bucket{le=\"", bin < kBounds.size() ? str(kBounds[bin]) : "+Inf", "\"} ", total, "\n");
  }
  page += str(name, "_sum ", fixed(sum, 6), "\n", name, "_count ", total, "\n");
}

void ServerMetrics::count(RequestEnd end) {
  const std::lock_guard lock(mutex_);
  ++ends_[static_cast<std::size_t>(end)];
}

void ServerMetrics::count_refused(int status) {
  const std::lock_guard lock(mutex_);
  ++refused_[status];
}

void ServerMetrics::observe_batch(std::size_t size, double queue_s, double infer_s) {
  const std::lock_guard lock(mutex_);
  ++batches_;
  batched_ += size;
  queue_.add(queue_s);
  infer_.add(infer_s);
}

void ServerMetrics::set_connections(std::size_t open) {
  const std::lock_guard lock(mutex_);
  connections_ = open;
}

void ServerMetrics::set_queued(std::size_t waiting) {
  const std::lock_guard lock(mutex_);
  queued_ = waiting;
}

std::string ServerMetrics::prometheus() const {
  const std::lock_guard lock(mutex_);
  std::string page =
      describe("shallowpi_requests_total", "counter", "Messages of clients, by how they ended.");
  for (const auto& entry : kEnumNames<RequestEnd>)
    page += str("shallowpi_requests_total{end=\"", entry.name, "\"} ",
                ends_[static_cast<std::size_t>(entry.value)], "\n");
  page += describe("shallowpi_refused_handshakes_total", "counter",
                   "HTTP requests that were turned away, by status.");
  for (const auto& [status, count] : refused_)
    page += str("shallowpi_refused_handshakes_total{status=\"", status, "\"} ", count, "\n");
  page += gauge("shallowpi_connections", "Open websockets.", connections_);
  page += gauge("shallowpi_queued", "Observations that wait for inference.", queued_);
  page += str(describe("shallowpi_batches_total", "counter", "Inferences run."), "shallowpi_batches_total ",
              batches_, "\n", describe("shallowpi_batched_total", "counter", "Observations in them."),
              "shallowpi_batched_total ", batched_, "\n");
  queue_.print(page, "shallowpi_queue_seconds", "Longest wait in the queue of an inference's observations.");
  infer_.print(page, "shallowpi_infer_seconds", "Duration of an inference, preparation included.");
  return page;
}

}  // namespace shallowpi
