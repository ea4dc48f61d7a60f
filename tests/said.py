"""The command line within this process: what it printed, and how it ended.

It spares a test the seconds that a fresh Python takes to import statistics. That the installed
command does the same as a process is shown by tests/faults.
"""

import sys
from dataclasses import dataclass
from unittest.mock import patch

from click.testing import CliRunner

from llmbench.cli import main


@dataclass(frozen=True)
class Said:
    """As `subprocess.run` tells it."""

    returncode: int
    stdout: str
    stderr: str


def llmbench(*words: object, stdin: str | None = None) -> Said:
    """`llmbench WORDS`, which reads `stdin`."""
    argv, code = ["llmbench", *map(str, words)], 0
    with (
        patch.object(sys, "argv", argv),
        patch("signal.signal"),
        CliRunner().isolation(stdin) as (out, err, *_),
    ):
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        sys.stdout.flush(), sys.stderr.flush()
        return Said(code, out.getvalue().decode(), err.getvalue().decode())
