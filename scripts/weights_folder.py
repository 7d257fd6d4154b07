"""How convert_jax.py and merge_adapter.py write a checkpoint folder: whole or not at all, with progress and errors that
say what to do."""
import contextlib
import glob
import os
import shutil
import sys
import time


def fail(message):
    sys.exit(f"error: {message}")


def few(items):
    return ", ".join(items[:10]) + (f" and {len(items) - 10} more" if len(items) > 10 else "")


class Progress:
    """Bytes written, on stderr: one line that is redrawn on a terminal; in a log one per half minute, and the last."""

    def __init__(self, total):
        self.total, self.done, self.started, self.last = total, 0, time.monotonic(), time.monotonic()

    def advance(self, size):
        self.done += size
        now, at_end, on_terminal = time.monotonic(), self.done == self.total, sys.stderr.isatty()
        if not at_end and now - self.last < (0.2 if on_terminal else 30):
            return
        left = round((now - self.started) / self.done * (self.total - self.done))
        text = f"{self.done / 1e6:.0f} of {self.total / 1e6:.0f} MB written, {left // 60} min {left % 60:02} s left "
        print("\r" * on_terminal + text, end="\n" if at_end or not on_terminal else "", file=sys.stderr, flush=True)
        self.last = now


@contextlib.contextmanager
def new_folder(out, size):
    """A folder beside `out` for `size` bytes of weights, which takes its place at the end, and is gone if anything fails."""
    temporary = out.absolute().with_name(f"{out.name}.{os.getpid()}.tmp")
    for stale in out.absolute().parent.glob(glob.escape(out.name) + ".*.tmp"):  # of killed processes
        shutil.rmtree(stale, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        if (free := shutil.disk_usage(temporary).free) < size:
            fail(f"the weights need {size / 1e9:.1f} GB, but {temporary.parent} has {free / 1e9:.1f} GB free")
        yield temporary
        os.rename(temporary, out)
    except OSError as error:
        fail(f"{out} cannot be written: {error}")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
