"""The commands. Data goes to stdout, a table or one JSON document; progress and logs to stderr."""

import signal
import sys
from typing import Any

import click

from llmbench.cli import kernels, measuring, reading, trying
from llmbench.cli.group import Stopped, commands
from llmbench.errors import Held, LlmbenchError

__all__ = ["commands", "kernels", "main", "measuring", "reading", "trying"]


def main() -> None:
    """Run the command line; every expected error becomes its message and its exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        commands(standalone_mode=False)
    except LlmbenchError as error:
        click.echo(f"llmbench: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except Stopped as stopped:
        kept = f"kept: {stopped.kept}" if stopped.kept else "go on: the same command"
        click.echo(f"llmbench: stopped by Ctrl-C\n{kept}", err=True)
        sys.exit(130)
    except (KeyboardInterrupt, click.Abort):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one must not spoil the ending
        click.echo("llmbench: stopped by Ctrl-C\nkept: every finished repeat\n"
                   "go on: the same command", err=True)  # fmt: skip
        sys.exit(130)


def _terminated(number: int, frame: Any) -> None:
    raise Held("ended by SIGTERM", kept="every finished repeat", how="the same command again")
