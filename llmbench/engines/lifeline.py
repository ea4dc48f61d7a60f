"""Run as a file: `python lifeline.py FD COMMAND...` runs a command that never outlives its owner.

The owner holds the other end of the pipe FD. When that is closed, by the owner or by its death
however sudden, the command is ended with all its children. Its process id is the first line of
standard output. Nothing of llmbench is imported, so that it starts at once.
"""

import os
import signal
import subprocess
import sys
import threading

GRACE_S = 3.0


def main(lifeline: int, command: list[str]) -> None:
    """Start `command` in a process group of its own; end with it, or end it with its owner."""
    process = subprocess.Popen(
        command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=sys.stderr
    )
    print(process.pid, flush=True)
    sys.stdout.close()
    threading.Thread(target=_end_with_owner, args=(lifeline, process), daemon=True).start()
    code = process.wait()
    _signal(process.pid, signal.SIGKILL)  # whom it left behind
    os._exit(code if code >= 0 else 128 - code)


def _end_with_owner(lifeline: int, process: subprocess.Popen) -> None:
    os.read(lifeline, 1)  # returns only when the owner's end is closed
    _signal(process.pid, signal.SIGTERM)
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        _signal(process.pid, signal.SIGKILL)


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
