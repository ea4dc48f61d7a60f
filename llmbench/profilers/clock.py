"""The clocks. Durations come from a monotonic clock; wall time is only ever a label."""

import itertools
import statistics
import time
from typing import Protocol

import psutil


class Clock(Protocol):
    """What `timing` and `worker` need of a clock; a test passes one that stands still."""

    def now_ns(self) -> int:
        """Nanoseconds since some fixed moment; never goes back."""
        ...

    def sleep_s(self, seconds: float) -> None:
        """Return after `seconds` of this clock."""
        ...


class MonotonicClock:
    """`time.perf_counter_ns`: CLOCK_MONOTONIC on Linux, which stops while the machine sleeps."""

    def now_ns(self) -> int:
        """Nanoseconds of the monotonic clock."""
        return time.perf_counter_ns()

    def sleep_s(self, seconds: float) -> None:
        """Sleep for at least `seconds`."""
        time.sleep(seconds)


def overhead_ns(clock: Clock, readings: int = 101) -> int:
    """Median difference of two adjacent readings of `clock`, in ns: what one reading costs."""
    times = [clock.now_ns() for _ in range(readings)]
    return int(statistics.median(b - a for a, b in itertools.pairwise(times)))


def suspended_s() -> float | None:
    """Seconds this machine has slept since it booted; None where the kernel does not tell.

    A difference between two calls means that a measurement between them was interrupted by sleep:
    CLOCK_BOOTTIME goes on while CLOCK_MONOTONIC stands still. Source: clock_gettime(2).
    """
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return None
    boot = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return max(0.0, (boot - time.clock_gettime_ns(time.CLOCK_MONOTONIC)) / 1e9)


def busy_cpu_s() -> float:
    """CPU seconds that all programs of this machine have used since it booted."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
