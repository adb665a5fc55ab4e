"""A command line that is understood without typer's parser means what it means to typer."""

from __future__ import annotations

import random
from typing import Any, get_args

import pytest
import typer
from typer.exceptions import TyperException

from snapsync.cli.parse.full import command
from snapsync.cli.parse.plain import understand
from snapsync.cli.parse.verbs import Verb, find, names

VERBS: dict[str, Verb] = {name: found for name in names() if (found := find(name))}
COMMANDS = {name: command(name, verb) for name, verb in VERBS.items()}
VALUES = (
    "a",
    "a b",
    "",
    "-",
    "5",
    "0",
    "007",
    "-1",
    "99999",
    "x=y",
    "1.5",
    "5%",
    "\udcff",
    "ü",
    "--",
    "\u0661",
    "5 ",
    "install",
)


def typers(verb: str, words: list[str]) -> dict[str, Any] | None:
    """What typer gives to the verb's function, without what is as it is by default; None where it refuses."""
    try:
        with COMMANDS[verb].make_context(verb, list(words)) as context:
            # What may be said more than once is a tuple before typer 0.29.
            given = {k: list(v) if isinstance(v, tuple) else v for k, v in context.params.items()}
    except (TyperException, typer.Exit):
        return None
    defaults = {name: p.default for name, p in VERBS[verb].parameters().items()}
    return {name: value for name, value in given.items() if value != defaults[name] and value not in ((), [])}


def spellings(verb: str) -> list[str]:
    """Every option of a verb, and some that are none of its own."""
    found = ["--help", "-h", "--nonsense", "-z", "--js"]
    for parameter in COMMANDS[verb].params:
        found += [*parameter.opts, *parameter.secondary_opts] if parameter.param_type_name == "option" else []
    return found


def line(verb: str, chance: random.Random) -> list[str]:
    """A command line that may make sense."""
    words: list[str] = []
    for _ in range(chance.randrange(6)):
        what = chance.random()
        if what < 0.4:
            words.append(chance.choice(VALUES))
        elif what < 0.9:
            option = chance.choice(spellings(verb))
            words += [option] if chance.random() < 0.4 else [option, chance.choice(VALUES)]
        else:
            words.append(f"{chance.choice(spellings(verb))}={chance.choice(VALUES)}")
    return words


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_what_is_understood_is_what_typer_understands(verb: str) -> None:
    chance = random.Random(verb)
    parameters, understood = VERBS[verb].parameters(), 0
    defaults = {name: p.default for name, p in parameters.items()}
    for _ in range(1500):
        words = line(verb, chance)
        given = understand(VERBS[verb], words)
        if given is not None:
            understood += 1
            told = {name: value for name, value in given.items() if value != defaults[name] and value != []}
            assert told == typers(verb, words), words
            assert all(type(value) in get_args_of(parameters[name].kind) for name, value in told.items()), (
                words
            )
    assert understood > 20 or verb == "service"  # its action is one of two words


def get_args_of(kind: Any) -> tuple[Any, ...]:
    kinds = get_args(kind) or (kind,)
    return tuple({*kinds, list} if list[str] in (kind, *kinds) else kinds) + concrete(kinds)


def concrete(kinds: tuple[Any, ...]) -> tuple[type, ...]:
    """`Path("a")` is a PosixPath."""
    return tuple(type(kind()) for kind in kinds if kind.__name__ == "Path")


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        (
            "sync",
            ["a", "b", "--json", "-q", "--keep-last", "3", "--exclude=*.x", "--exclude", "y", "-j", "2"],
        ),
        ("diff", ["a@1", "--", "a@2"]),
        ("list", ["a", "--quiet"]),
        ("verify", ["a", "b", "--sample", "5%"]),
        ("run", []),
        ("restore", ["a@1", "--to", "b", "x", "y"]),
        ("status", []),
    ],
)
def test_usual_lines_are_plain(verb: str, words: list[str]) -> None:
    assert understand(VERBS[verb], words) is not None
    assert typers(verb, words) is not None
