"""The group that every command joins, and the options that several of them share."""

from pathlib import Path
from typing import Any

import click

import llmbench

as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
outputs_option = click.option(
    "--outputs", type=click.Path(path_type=Path), help="Where runs are kept (default: outputs/)."
)
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting by its name."
)


class Stopped(click.Abort):
    """Ctrl-C in a command that keeps no repeats; `kept` says what is left of its work, if known."""

    def __init__(self, kept: str = "") -> None:
        super().__init__()
        self.kept = kept


class Commands(click.Group):
    """The group; Ctrl-C in a command that keeps no repeats is told apart from one that does."""

    def invoke(self, context: click.Context) -> Any:
        """What the command gives. Raises: Stopped on Ctrl-C, unless repeats were being kept."""
        try:
            return super().invoke(context)
        except (KeyboardInterrupt, click.Abort):
            if context.invoked_subcommand in ("run", "measure", "validate"):
                raise
            generating = context.invoked_subcommand == "generate"
            raise Stopped("nothing; generate writes no file" if generating else "") from None


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(llmbench.__version__, prog_name="llmbench")
def commands() -> None:
    """Measure language models so that a hostile reader believes the numbers.

    Exit codes: 0 done · 1 a study failed or faults were found · 2 bad parameters · 3 this machine
    lacks something · 4 the data cannot say · 74 the store cannot be written · 75 held by another
    run, or ended by SIGTERM: try again · 130 Ctrl-C.
    """
