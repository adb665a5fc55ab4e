"""Who has leases on files and keeps them: `python leases.py FILE...` says `held` when it has all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time

if __name__ == "__main__":
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    held = [os.open(path, os.O_RDWR) for path in sys.argv[1:]]
    for fd in held:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    print("held", flush=True)
    while True:
        time.sleep(0.05)
        for fd in held:
            with contextlib.suppress(OSError):
                fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
