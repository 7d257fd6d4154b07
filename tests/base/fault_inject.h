// Makes the N-th call that writes below a folder fail. A small shared library: linked into a test program, or
// loaded into any other with LD_PRELOAD, where the environment arms it:
//   SHALLOWPI_FAULT=ENOSPC:12[:sticky]   the 12th call fails (sticky: and every later one that needs space)
//   SHALLOWPI_FAULT_FOLDER=/absolute/dir
// Counted are open, write, fsync, rename, mkdir, ftruncate, sendfile and their variants. SHORT lets a write
// take only half of its bytes. EINTR strikes only calls that may return it.
#pragma once

namespace shallowpi::testing {

/// `fault` as above; call 0 never comes. `folder` must be absolute. Counting starts anew.
void arm_fault(const char* fault, const char* folder);
/// Stops counting; says whether the fault struck.
bool disarm_fault();

}  // namespace shallowpi::testing
