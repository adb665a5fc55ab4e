"""Reading any command line by typer, with help and mistakes; the page in this package explains it."""

import re
from collections.abc import Callable
from inspect import Parameter as Signed
from inspect import Signature
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from snapsync.cli.parse.verbs import Parameter, Verb, find, names
from snapsync.declare import Option
from snapsync.errors import UsageError, told


def run(arguments: list[str]) -> int:
    """Run the verb that the arguments name; its exit code."""
    verbs = group()
    try:
        with verbs.make_context("snapsync", list(arguments)) as context:
            code: int = verbs.invoke(context) or 0
        return code
    except typer.Exit as done:
        return done.exit_code
    except TyperException as error:
        _refuse(error, arguments[0] if arguments else "")


def group() -> TyperGroup:
    """Every verb, as typer knows them."""
    app = _app(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
    app.callback(cls=_Verbs, invoke_without_command=True, epilog=_EPILOG)(snapsync)
    return typer.main.get_group(app)


class _Verbs(TyperGroup):
    """The verbs; each becomes a command of typer's only when it is asked for."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands:
            verb = find(cmd_name)
            if verb is None:
                self.list_commands(ctx)  # typer suggests one that is spelled alike
                return None
            self.commands[cmd_name] = command(cmd_name, verb)
        return self.commands[cmd_name]

    def list_commands(self, ctx: Any) -> list[str]:
        for name in (all_names := names()):
            self.get_command(ctx, name)
        return all_names


def _app(**how: Any) -> typer.Typer:
    # Without rich, which typer would load to print help and errors.
    return typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False, **how)


def command(name: str, verb: Verb) -> Any:
    """A verb as typer knows it."""
    app = _app()
    app.command(name, epilog=verb.epilog)(_for_typer(verb))
    return typer.main.get_command(app)


def _for_typer(verb: Verb) -> Callable[..., int]:
    """A function with the parameters of a verb, declared in typer's words."""
    parameters = verb.parameters()

    def run(**values: Any) -> int:
        given = {
            name: _listed(value)
            for name, value in values.items()
            if value != parameters[name].default and value not in (None, [], ())
        }
        return verb.run(given)

    kinds = {name: _translated(parameter) for name, parameter in parameters.items()}
    signed = [
        Signed(name, Signed.KEYWORD_ONLY, annotation=kinds[name], default=_default(parameter))
        for name, parameter in parameters.items()
    ]
    run.__doc__ = verb.function.__doc__
    run.__annotations__ = kinds
    run.__signature__ = Signature(signed)  # type: ignore[attr-defined]
    return run


def _listed(value: Any) -> Any:
    """What may be said more than once is a tuple before typer 0.29."""
    return list(value) if isinstance(value, tuple) else value


def _default(parameter: Parameter) -> Any:
    is_needed = parameter.default is None and not _may_be_none(parameter.kind)
    return Signed.empty if is_needed else parameter.default


def _may_be_none(kind: Any) -> bool:
    return type(None) in getattr(kind, "__args__", ())


def _translated(parameter: Parameter) -> Any:
    info = parameter.info
    words = typer.Option(*info.names, **info.how) if isinstance(info, Option) else typer.Argument(**info.how)
    return Annotated[parameter.kind, words]


_EPILOG = """A snapshot is written VOLUME@SNAP, where SNAP is its name, its id, its sequence number or
`latest`, or a date or time, such as 2026-11-25, 2026-11-25T14:00, yesterday or 2h-ago: then the
newest snapshot at or before it is meant. Start with `snapsync demo`.

\b
Exit codes:
  0  done
  1  failed
  2  the command makes no sense as given
  3  refused, to protect data
  4  integrity: verify found differences, or something is damaged
  5  interrupted; the next command picks up from there
  6  done with --keep-going, but for what could not be read and is listed"""


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


# What typer and pydantic say of a mistake, in words that everybody understands.
_PLAINER = (
    (r"\. Choose from: ", ": it is one of "),
    (r"Value error, ", ""),
    (r"Input should be a valid integer.*", "it has to be a whole number"),
    (r"Input should be greater than or equal to (\S+)", r"it has to be \1 or more"),
    (r"Input should be less than or equal to (\S+)", r"it has to be \1 or less"),
)


def _refuse(error: Exception, first: str) -> NoReturn:
    """Turn what typer says about a mistake into a UsageError. `first` is the first word of the line."""
    said = " ".join(str(getattr(error, "format_message", error.__str__)()).rstrip(".").split())
    for pattern, plain in _PLAINER:
        said = re.sub(pattern, plain, said)
    message = said[:1].lower() + said[1:]
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "snapsync"
    if path == "snapsync" and find(first):
        path = f"snapsync {first}"
    advice = f"see `{path} --help`"
    if first in ("umount", "unmount"):
        message, advice = f"no such command '{first}'", "`umount DIR`, of the system, ends a mount"
    raise told(UsageError(message), message, advice) from None
