"""Facts about the machine this runs on."""

import os


def usable_cpus() -> int:
    """CPUs this process may run on: its affinity, which containers restrict, not the socket's."""
    return len(os.sched_getaffinity(0))
