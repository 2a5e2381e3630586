"""The command line: one function for each verb. Data goes to stdout, progress and errors to stderr."""

from __future__ import annotations

from typing import Annotated, NoReturn

import typer

from actors.cli import benches, lifetime, plans, replay, roles, rows, speech
from actors.cli.call import Call
from actors.cli.faults import MEANINGS, Exit, exit_code, report, unforeseen
from actors.cli.labs import Labs
from actors.cli.screen import Screen
from placement.errors import TierceError

_EXITS = "\n\n".join(f"{code.value}: {meaning}" for code, meaning in MEANINGS.items())

app = typer.Typer(
    help="One file says where each LoRA role and each RAG shard lives; a lab on Ray keeps it so.",
    epilog=f"Exit codes:\n\n{_EXITS}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (lifetime, plans, speech, rows, roles, benches, replay):
    app.add_typer(group.app)


def run(arguments: list[str] | None = None, labs: Labs | None = None) -> NoReturn:
    """Run one command and exit with its code; `arguments` default to the process's own.

    The outermost loop of the process: an error ends here as one line; with --debug, as a traceback.
    """
    call = Call(labs or Labs())
    try:
        app(arguments, prog_name="tierce", obj=call)
    except Exception as error:
        if call.debug:
            raise
        known = error if isinstance(error, TierceError) else unforeseen(error)
        report(known, Screen(), json=call.json)
        raise SystemExit(exit_code(known)) from error
    raise SystemExit(Exit.DONE)


def _version(wanted: bool) -> None:  # noqa: FBT001  (typer's callback)
    if wanted:
        from tierce import __version__

        typer.echo(f"tierce {__version__}")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,  # noqa: ARG001
) -> None:
    """Set what all commands share."""
    ctx.obj.debug = debug
