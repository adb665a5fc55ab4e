"""What may stand next on a command line. Shells ask while somebody types, so it is quick, and silent."""

from snapsync.cli.parse.verbs import Verb, choices, find
from snapsync.declare import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_SHELLS = ["bash", "zsh", "fish"]
_VALUES = {"compress": ["none", "zstd:1", "zstd:3", "zstd:19"]}


def answer(words: list[str]) -> int:
    """Print what the last of `words` may become, a line each; nothing where that is a path."""
    try:
        found = sorted({one for one in _candidates(words) if one.startswith(words[-1]) and one.isprintable()})
        print("\n".join(found))
    except Exception:  # whoever types is told by the verb itself
        pass
    return 0


def _candidates(words: list[str]) -> "Iterable[str]":
    if len(words) < 2:
        return _verbs()
    verb, before, word = find(words[0]), words[-2], words[-1]
    if verb is None:
        return ()
    options = _options(verb)
    if before in options and len(words) > 2:
        return _values(options[before])
    if word.startswith("-"):
        return ("--help", *options, *_flags(verb))
    if words[0] == "completion":
        return _SHELLS
    if words[0] == "run":
        return _jobs(words)
    return _snapshots(word)


def _verbs() -> list[str]:
    from pkgutil import iter_modules

    from snapsync.cli import commands

    return [name for _, name, _ in iter_modules(commands.__path__)]


def _spelled(verb: Verb, *, flags: bool) -> dict[str, str]:
    return {
        one: name
        for name, parameter in verb.parameters().items()
        if isinstance(parameter.info, Option) and (bool in choices(parameter.kind)) is flags
        for pair in parameter.info.names or ("--" + name.replace("_", "-"),)
        for one in pair.split("/")
    }


def _options(verb: Verb) -> dict[str, str]:
    """The options that take a value."""
    return _spelled(verb, flags=False)


def _flags(verb: Verb) -> list[str]:
    return list(_spelled(verb, flags=True))


def _values(name: str) -> list[str]:
    return ["full", "light"] if name == "history" else _VALUES.get(name, [])


def _jobs(words: list[str]) -> "Iterable[str]":
    from pathlib import Path

    from snapsync.jobs.config import load

    named = words[words.index("--config") + 1] if "--config" in words[:-2] else None
    return load(Path(named) if named else None).jobs


def _snapshots(word: str) -> list[str]:
    """VOLUME@SNAP for each snapshot of a volume on this machine; a log or a host would be slow to ask."""
    import os

    from snapsync._native import Location
    from snapsync.api.snapshots import list_

    # With a letter more it names a snapshot, also where nothing of its name is typed yet.
    location = Location.known(f"{word}x")
    volume = location.path
    if location.snapshot is None or location.host is not None or not os.path.isdir(volume):
        return []
    return [f"{volume}@latest", *(f"{volume}@{snap.name}" for snap in list_(volume).snapshots)]
