"""`petawatch`: one command whose subcommands come from entry points.

A subcommand is imported when it is run, so that the agent never loads what
only the pipeline needs, and `--help` loads nothing.
"""

from __future__ import annotations

import difflib
import importlib.metadata
from typing import Any

import click

from collectors.contract.source import BackendUnavailableError
from collectors.kit import plugins
from collectors.kit.config import ConfigError, SetupError
from collectors.kit.lifecycle import StageFailedError
from collectors.kit.log import set_up_logging

GROUP = "petawatch.commands"
HELP = {
    "agent": "Reads this node's GPUs and sends what they say.",
    "backup": "Writes the books to one file, while they are in use.",
    "check-rules": "Checks the alert rules, and lists those that hold.",
    "doctor": "Says what is here, what is not, and what to do about it.",
    "draft-site": "Writes a first site.toml out of what the agents say.",
    "month": "Freezes a month of the ledger, and says which are.",
    "notify-test": "Sends a test message to those who are told of incidents.",
    "import-allocations": "Tells the ledger what a table says of who held which GPUs.",
    "past": "Fills a simulated site's books with a past, marked as simulated.",
    "pipeline": "Runs the roles behind the bus: store, watch, books, notify.",
    "rebuild": "Makes minutes anew from the bus, and hours from the minutes.",
    "replay": "Sends recorded telemetry as if it came from live nodes.",
    "restore": "Fills the books from a file that `backup` wrote.",
    "selftest": "Sends a simulation through this installation and compares every total.",
    "serve": "Answers people: API and pages.",
    "simulate": "Sends a simulated centre, or writes its records to a file.",
    "up": "Runs everything in one process and shows it in the browser.",
    "usage": "Says who used what, out of the ledger.",
    "watch-slurm": "Tells the ledger which Slurm job has which GPUs.",
    "why": "Says who owned a GPU at a time, by which record, and what lost against it.",
}
"""What `--help` says of a subcommand without importing it; a test compares them."""
_REFUSED = (ConfigError, SetupError, plugins.MissingPartError, BackendUnavailableError)


class RefusedStartError(click.ClickException):
    """A sentence for the person who typed the command: nothing was begun."""

    exit_code = 2


class LazyGroup(click.Group):
    """Finds subcommands by entry point."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's signature
        """All names, whether or not what they need is installed."""
        return plugins.names(GROUP)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the subcommand."""
        if cmd_name not in self.list_commands(ctx):
            return None
        try:
            return plugins.load(GROUP, cmd_name)
        except plugins.MissingPartError as error:
            raise RefusedStartError(str(error)) from error

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with a suggestion for a name that there is not."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], known, n=1)
            rest = f"Did you mean {near[0]!r}?" if near else f"There is: {', '.join(known)}."
            ctx.fail(f"No such command {args[0]!r}. {rest}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists names and texts without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, HELP.get(name, "")) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> Any:
        """Runs it; errors that a person can mend end in a sentence instead of a traceback."""
        try:
            return super().invoke(ctx)
        except _REFUSED as error:
            raise RefusedStartError(str(error)) from error
        except BrokenPipeError:
            raise  # The reader of the output has gone: click ends without a word.
        except ConnectionError as error:
            # The bus, the series store or the books cannot be reached now.
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if not error.filename:
                raise
            # A file or folder that was named is not to be had.
            raise click.ClickException(f"{error.filename}: {error.strerror}") from error
        except StageFailedError as error:
            if isinstance(error.__cause__, _REFUSED):
                raise RefusedStartError(str(error.__cause__)) from error
            raise click.ClickException(str(error)) from error


def _print_version(ctx: click.Context, _: click.Parameter, value: object) -> None:
    if value:
        click.echo(f"petawatch {importlib.metadata.version('petawatch')}")
        ctx.exit()


@click.command(cls=LazyGroup)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
    help="Show the version and exit.",
)  # fmt: skip
@click.option("--log-level", default="info", show_default=True, envvar="PETAWATCH_LOG_LEVEL",
              help="debug, info, warning or error.")  # fmt: skip
def main(*, log_level: str) -> None:
    """Telemetry for shared GPU data centres: what is delivered, to whom, and what is breaking."""
    try:
        set_up_logging(log_level)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--log-level") from error
