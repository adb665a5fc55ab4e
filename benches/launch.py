"""Runs a line of shell and tells, on the file descriptor it is given, its seconds, bytes and exit code.

A process of its own, because the kernel counts what a parent had in memory as its child's: it has little.
"""

import os
import sys
import time

told, command = int(sys.argv[1]), sys.argv[2]
os.set_inheritable(told, False)
started = time.monotonic()
pid = os.spawnvp(os.P_NOWAIT, "bash", ["bash", "-e", "-o", "pipefail", "-c", command])
_, status, usage = os.wait4(pid, 0)
seconds = time.monotonic() - started
os.write(told, f"{seconds} {usage.ru_maxrss * 1024} {os.waitstatus_to_exitcode(status)}".encode())
