"""Progress on stderr: a bar with the time left on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType

from llmbench.units import seconds

QUIET_S = 2.0  # nothing is shown for work shorter than this
LINE_EVERY_S = 15.0


class Progress:
    """Counts `total` steps of `label`."""

    def __init__(self, label: str, total: int) -> None:
        self.label, self.total, self.done = label, total, 0
        self.bar = None

    def __enter__(self) -> "Progress":
        self.started = self.last_line = time.monotonic()
        if sys.stderr.isatty() and self.total:
            from tqdm import tqdm

            self.bar = tqdm(total=self.total, desc=self.label, delay=QUIET_S, dynamic_ncols=True)
        return self

    def advance(self, what: str = "") -> None:
        """One step is done; `what` says which."""
        self.done += 1
        if self.bar is not None:
            self.bar.set_postfix_str(what, refresh=False)
            self.bar.update()
        elif time.monotonic() - self.last_line >= LINE_EVERY_S:
            self._line(what)

    def reach(self, done: int) -> None:
        """So many steps are done in all; a smaller number than before changes nothing."""
        for _ in range(min(done, self.total) - self.done):
            self.advance()

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()
        elif self.total and time.monotonic() - self.started >= QUIET_S:
            self._line("")

    def _line(self, what: str) -> None:
        self.last_line = time.monotonic()
        spent = self.last_line - self.started
        left = spent / max(1, self.done) * (self.total - self.done)
        text = f"{self.label}: {self.done} of {self.total}, {seconds(spent)} spent"
        text += f", about {seconds(left)} left" if 0 < self.done < self.total else ""
        print(f"{text} ({what})" if what else text, file=sys.stderr, flush=True)
