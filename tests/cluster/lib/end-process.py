"""Ends processes and waits for their end: end-process.py SIGNAL "PID START-TIME"...

A pid alone may be another process's by now. The start time (in clock ticks since boot, field 22 of
/proc/PID/stat) tells, and a pidfd holds on to the process found, so that no other one is ever hit.
"""

import os
import select
import signal
import sys

# slurmd waits for its threads before it ends, for up to two minutes (24.11, _wait_for_all_threads).
DEADLINE_SECONDS = 150


def open_process(pid, start_time):
    """A pidfd of the process, or None if it is gone."""
    try:
        pidfd = os.pidfd_open(pid)
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
    except (ProcessLookupError, FileNotFoundError):
        return None
    return pidfd if fields[19] == start_time else None


def main():
    number = getattr(signal, "SIG" + sys.argv[1])
    pidfds = {}
    for record in sys.argv[2:]:
        pid, start_time = record.split()
        pidfd = open_process(int(pid), start_time)
        if pidfd is not None:
            pidfds[pidfd] = pid
            try:
                signal.pidfd_send_signal(pidfd, number)
            except ProcessLookupError:
                pass
    for pidfd, pid in pidfds.items():
        if not select.select([pidfd], [], [], DEADLINE_SECONDS)[0]:
            sys.exit(f"process {pid} has not ended {DEADLINE_SECONDS} s after SIG{sys.argv[1]}")


main()
