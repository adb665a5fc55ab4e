"""An option is declared once: as a keyword, an option of the command line, and for the native half."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import snapsync
from snapsync import _native
from snapsync.api import rounds
from snapsync.cli.parse.verbs import find
from snapsync.declare import defaults, options
from snapsync.jobs.config import Job
from snapsync.jobs.spelled import arguments
from snapsync.options import (
    ChannelOptions,
    DriftOptions,
    KeepOptions,
    SyncOptions,
    TargetOptions,
    TransferOptions,
)
from snapsync.options_of_changes import GuardOptions
from snapsync.options_of_commands import HookOptions, TakingOptions


def sync(tmp_path: Path, **groups: Any) -> str:
    """A round of the native half between two places that are not there."""
    usual = {
        "options": rounds._round({}),
        "keep": {},
        "hooks": defaults(HookOptions),
        "taking": defaults(TakingOptions),
        "transfer": defaults(TransferOptions),
        "ssh": defaults(ChannelOptions),
    }
    return _native.sync(str(tmp_path / "a"), str(tmp_path / "b"), **{**usual, **groups})


def leaves(group: dict[str, Any], *above: str) -> list[tuple[str, ...]]:
    """The names of all options in nested groups."""
    return [
        path
        for name, value in group.items()
        for path in (leaves(value, *above, name) if isinstance(value, dict) else [(*above, name)])
    ]


def with_nonsense(group: dict[str, Any], name: str, *below: str) -> dict[str, Any]:
    """The same group, with a value for one option that none can have."""
    return {**group, name: with_nonsense(group[name], *below) if below else {"no": "value"}}


@pytest.mark.parametrize("path", leaves(rounds._round({})), ids="-".join)
def test_the_native_half_knows_every_option_of_a_round(path: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"invalid type: map|unknown variant|unknown field `no`"):
        sync(tmp_path, options=with_nonsense(rounds._round({}), *path))


@pytest.mark.parametrize(
    ("group", "name"),
    [("transfer", name) for name in options(TransferOptions)]
    + [("hooks", name) for name in options(HookOptions)]
    + [("taking", name) for name in options(TakingOptions)]
    + [("ssh", name) for name in options(ChannelOptions)],
)
def test_the_native_half_knows_every_option_of_a_connection(group: str, name: str, tmp_path: Path) -> None:
    groups = {
        "transfer": TransferOptions,
        "hooks": HookOptions,
        "taking": TakingOptions,
        "ssh": ChannelOptions,
    }
    usual = defaults(groups[group])
    with pytest.raises(TypeError, match=r"invalid type: map|unknown variant"):
        sync(tmp_path, **{group: with_nonsense(usual, name)})


def test_every_option_of_sync_goes_to_the_native_half() -> None:
    """In a group that is handed through whole, under its own name or as a part of a group."""
    handed = {path[-1] for path in leaves(rounds._round({}))}
    told_otherwise = {"part", "exclude_from", "scrub", "scrub_limit", "trust_times", "jobs"}
    groups = (KeepOptions, HookOptions, TakingOptions, TransferOptions, ChannelOptions, GuardOptions)
    beside = {name for group in groups for name in options(group)}
    parts = {"period", "limit", "deleted", "changed", "shrink"}
    assert options(SyncOptions).keys() == handed - parts | told_otherwise | beside


def test_an_unknown_keyword_is_refused_as_python_does(tmp_path: Path) -> None:
    wrong: Any = {"strickt": True}
    for call in (snapsync.sync, snapsync.restore_to, snapsync.rejoin, snapsync.switch, snapsync.verify):
        with pytest.raises(TypeError, match="unexpected keyword argument 'strickt'"):
            call(tmp_path / "a", tmp_path / "b", **wrong)
    with pytest.raises(TypeError, match="unexpected keyword argument 'strickt'"):
        snapsync.receive(tmp_path / "a", **wrong)


@pytest.mark.parametrize("name", ["exclude", "exclude_from", "include", "rsh", "ssh_options"])
def test_one_text_is_not_taken_for_its_letters(name: str, tmp_path: Path) -> None:
    """As one pattern for each letter `exclude="*.tmp"` would leave out everything."""
    one: Any = {name: "*.tmp"}
    with pytest.raises(TypeError):
        snapsync.sync(tmp_path / "a", tmp_path / "b", **one)
    assert not (tmp_path / "a").exists()


def test_numbers_may_be_whatever_python_takes_for_one(tmp_path: Path) -> None:
    class Number:
        def __index__(self) -> int:
            return 7

    number: Any = Number()
    with pytest.raises(snapsync.UsageError, match="does not exist"):
        snapsync.sync(tmp_path / "a", tmp_path / "b", timeout=number, bwlimit=1 << 63)
    with pytest.raises(OverflowError):
        snapsync.sync(tmp_path / "a", tmp_path / "b", bwlimit=1 << 64)


def test_every_option_that_a_job_may_have_is_one_that_sync_takes_back() -> None:
    """What a job is given is typed on a command line, and read there as it was."""
    given: dict[str, Any] = {}
    for name, (kind, option) in options(SyncOptions).items():
        if option.once:
            continue
        usual = option.default or {bool: True, bool | None: False, int | None: "7", str | None: "light"}.get(
            kind, ("x",)
        )
        given[name] = usual
    verb = find("sync")
    assert verb is not None
    from snapsync.cli.parse.plain import understand

    back = understand(verb, arguments(Job("web", "/a", "h:/b", options=given)))
    assert back is not None
    for name, value in given.items():
        assert back.pop(name) == (list(value) if isinstance(value, tuple) else value), name
    assert back == {"source": "/a", "target": "h:/b"}


def test_groups_of_receive_are_known_to_the_native_half(tmp_path: Path) -> None:
    usual = {"target": defaults(TargetOptions), "drift": defaults(DriftOptions)}
    for group, values in usual.items():
        for name in values:
            with pytest.raises(TypeError, match="invalid type: map"):
                _native.receive(str(tmp_path), None, **{**usual, group: with_nonsense(values, name)})
