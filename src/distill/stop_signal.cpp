#include "distill/stop_signal.h"

#include <unistd.h>

#include <csignal>

namespace shallowpi {
namespace {

volatile std::sig_atomic_t received = 0;
std::string note_of_owner;  // changes only while nothing is handled

extern "C" void on_stop_signal(int signal) {
  if (received != 0 && (signal == SIGINT || signal == SIGTERM)) _exit(128 + SIGKILL);
  if (received != 0) return;
  received = signal;
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, note_of_owner.data(), note_of_owner.size());
}

void handle_all(void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;  // system calls in progress go on
  for (int signal : {SIGINT, SIGTERM, SIGUSR1, SIGHUP}) {
    struct sigaction before {};
    sigaction(signal, nullptr, &before);
    if (signal == SIGHUP && before.sa_handler == SIG_IGN) continue;  // nohup: the terminal may go
    sigaction(signal, &action, nullptr);
  }
}

}  // namespace

StopSignal::StopSignal(const std::string& note) {
  received = 0;
  note_of_owner = "\n" + note + "\n";
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
