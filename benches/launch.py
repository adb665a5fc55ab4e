"""Runs a line of shell and tells, on the file descriptor it is given, what it took.

That is its seconds, those of the processor, bytes and exit code. It is a process of its own, as the kernel
counts what a parent had in memory as its child's: it has little.
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
processor = usage.ru_utime + usage.ru_stime
code = os.waitstatus_to_exitcode(status)
os.write(told, f"{seconds} {processor} {usage.ru_maxrss * 1024} {code}".encode())
