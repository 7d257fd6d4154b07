#include "distill/stop_signal.h"

#include <unistd.h>

#include <csignal>
#include <string_view>

namespace shallowpi {
namespace {

volatile std::sig_atomic_t received = 0;

extern "C" void on_stop_signal(int signal) {
  if (received != 0 && signal != SIGUSR1) _exit(128 + signal);
  if (received != 0) return;
  received = signal;
  constexpr std::string_view kNote =
      "\nfinishing this step and saving; a second signal ends at once, without saving\n";
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, kNote.data(), kNote.size());
}

void handle_all(void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;  // system calls in progress go on
  for (int signal : {SIGINT, SIGTERM, SIGUSR1}) sigaction(signal, &action, nullptr);
}

}  // namespace

StopSignal::StopSignal() {
  received = 0;
  handle_all(on_stop_signal);
}

StopSignal::~StopSignal() {
  handle_all(SIG_DFL);
}

bool StopSignal::requested() const {
  return received != 0;
}

int StopSignal::exit_code() const {
  return 128 + (received == SIGINT ? SIGINT : SIGTERM);
}

}  // namespace shallowpi
