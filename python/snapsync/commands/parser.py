"""The whole command line, with help and mistakes, by typer."""

from collections.abc import Callable
from types import FunctionType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from snapsync.commands.app import verbs
from snapsync.commands.declare import Argument, Option
from snapsync.errors import UsageError, told


def run(arguments: list[str]) -> int:
    """Run the verb that the arguments name; its exit code."""
    command = group()
    try:
        with command.make_context("snapsync", list(arguments)) as context:
            code: int = command.invoke(context) or 0
        return code
    except typer.Exit as done:
        return done.exit_code
    except TyperException as error:
        _refuse(error)


def group() -> TyperGroup:
    """Every verb, as typer knows them."""
    # Without rich: typer would load it for help and errors, which plain text serves as well.
    app = typer.Typer(
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback(invoke_without_command=True, epilog=_EPILOG)(snapsync)
    for name, verb in verbs.items():
        app.command(name, epilog=verb.epilog)(_for_typer(verb.function))
    return typer.main.get_group(app)


def _for_typer(function: Callable[..., int]) -> Callable[..., int]:
    """The same function, with its parameters declared in typer's words."""
    assert isinstance(function, FunctionType)
    copy = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)
    copy.__doc__ = function.__doc__
    copy.__annotations__ = {
        name: kind if name == "return" else Annotated[kind.__origin__, _translated(kind.__metadata__[0])]
        for name, kind in function.__annotations__.items()
    }
    return copy


def _translated(declared: Option | Argument) -> Any:
    if isinstance(declared, Option):
        return typer.Option(*declared.names, **declared.how)
    return typer.Argument(**declared.how)


_EPILOG = """A snapshot is written VOLUME@SNAP, where SNAP is its name, its id, its sequence number or
`latest`. Start with `snapsync demo`.

\b
Exit codes:
  0  done
  1  failed
  2  the command makes no sense as given
  3  refused, to protect data
  4  integrity: verify found differences, or something is damaged
  5  interrupted; the next command picks up from there"""


def snapsync(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Keep a standby copy of a file system in step with a primary, through snapshots.

    Only files that changed are opened, and of those only the blocks that differ are sent and written; the
    standby moves from snapshot to snapshot all or nothing.
    """
    if version:
        from snapsync._native import __version__

        typer.echo(f"snapsync {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


def _refuse(error: Exception) -> NoReturn:
    """Put what typer says about the arguments into our words."""
    said: str = getattr(error, "format_message", error.__str__)().rstrip(".")
    message = said[:1].lower() + said[1:]
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "snapsync"
    raise told(UsageError(message), message, f"see `{path} --help`") from None
