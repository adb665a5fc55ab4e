"""Where owner and group cannot be kept, nothing is run in the name of who happens to own the copy: set-id
bits and capabilities go with them, are told of every entry, and are there at no moment."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from machine import KINDS, Pair, Place, as_nobody, assert_told, done, missing, need, run, sh
from onlooker import look, reach, watch
from test_cli import reachable
from test_fidelity import differences, losses
from test_window import dress, program

SET_ID = "set-user-id and set-group-id, which go with owner and group"
CAPABILITIES = "extended attribute security.capability"


def lay_out(root: Path, text: str = "first") -> None:
    """Programs of several people in a directory of uid 65534."""
    looks = {
        "of-root": (0o4755, 0, 0),
        "of-group": (0o2755, 65534, 4242),
        "own": (0o6755, 65534, 65534),
        "of-other": (0o6755, 1001, 1001),
        "plain": (0o755, 65534, 65534),
    }
    for name, look_of in looks.items():
        program(root / name, f"{name} {text}")
        dress(root / name, *look_of)
    program(root / "able", f"able {text}")
    dress(root / "able", 0o755, 1001, 1001, caps=True)
    (root / "folder").mkdir(exist_ok=True)
    dress(root / "folder", 0o2755, 65534, 4242)


def set_ids(
    root: Path, names: Iterable[str] = ("of-root", "of-group", "own", "of-other", "folder")
) -> set[str]:
    return {name for name in names if (root / name).stat().st_mode & 0o6000}


def assert_harmless(root: Path) -> None:
    assert set_ids(root) == {"own"}
    assert stat.S_IMODE((root / "own").stat().st_mode) == 0o6755
    assert "security.capability" not in os.listxattr(root / "able")
    for fact in look(root):
        assert fact[1] != "runs as another" or b"own " in fact[2], fact


def assert_nothing_run(facts: Iterable[tuple[Any, ...]]) -> None:
    wider = [fact for fact in facts if fact[1] == "runs as another" and b"own " not in fact[2]]
    assert not wider


@pytest.fixture
def home(place: Place, request: pytest.FixtureRequest) -> Path:
    need("setfacl")
    home = place(getattr(request, "param", "xfs"))
    reach(home)
    reachable(home)
    home.chmod(0o777)
    (home / "source").mkdir()
    dress(home / "source", 0o777, 65534, 65534)
    lay_out(home / "source")
    return home


@pytest.mark.parametrize("home", KINDS, indirect=True)
def test_a_users_standby_has_nothing_that_runs_as_another(home: Path) -> None:
    wrap, source, target = as_nobody(), home / "source", home / "target"
    ran = run("sync", source, target, "--strict", "--quiet", wrap=wrap)
    assert_told(ran, "owner and group (5 entries", f"{SET_ID} (4 entries", CAPABILITIES, codes=(3,))
    assert not target.exists()
    seen = watch(target, "sync", source, target, wrap=wrap)
    assert seen.code == 0, seen.err
    assert_nothing_run(seen.facts)
    assert_harmless(target)
    for text in ("second", "third"):
        lay_out(source, text)
        assert losses(done("sync", source, target, wrap=wrap))[SET_ID] == 3
        assert_harmless(target)
    assert {(name, "mode") for name in ("of-root", "of-group", "of-other", "folder")} <= unlike(
        *wrap, pair=home
    )


@pytest.mark.parametrize("home", KINDS, indirect=True)
def test_what_a_user_restores_or_receives_has_nothing_that_runs_as_another(home: Path) -> None:
    wrap, source = as_nobody(), home / "source"
    done("snapshot", source, "--name", "one", wrap=wrap)
    snap, delta, shelf = f"{source}@one", home / "delta", home / "shelf"
    done("send", snap, "-o", delta, wrap=wrap)
    assert stat.S_IMODE(delta.stat().st_mode) == 0o600
    sh("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "mkdir", shelf)
    ways: dict[Path, tuple[object, ...]] = {
        home / "restored": ("restore", snap, "--to", home / "restored"),
        home / "clone": ("clone", snap, home / "clone"),
        home / "standby": ("receive", home / "standby", "-i", delta),
        shelf / "one": ("receive", "--as-snapshot", shelf, "-i", delta),
    }
    for made, words in ways.items():
        if words[0] == "clone" and is_btrfs(home):
            continue
        seen = watch(made, *words, wrap=wrap)
        assert seen.code == 0, seen.err
        assert_nothing_run(seen.facts)
        assert_harmless(made)
    # What is the same is left alone.
    mode = (source / "of-root").stat().st_mode
    assert watch(source, "restore", snap, "of-root", wrap=wrap).code == 0
    assert (source / "of-root").stat().st_mode == mode
    with (source / "of-root").open("ab") as file:
        file.write(b"more")
    seen = watch(source, "restore", snap, "of-root", wrap=wrap)
    assert seen.code == 0, seen.err
    assert stat.S_IMODE((source / "of-root").stat().st_mode) == 0o755


def is_btrfs(path: Path) -> bool:
    """There a clone is a snapshot, in which all keep their owners."""
    return sh("stat", "-f", "-c", "%T", path).strip() == "btrfs"


def test_root_of_a_user_namespace_makes_nothing_that_runs_as_the_real_one(home: Path) -> None:
    wrap = ("unshare", "--user", "--map-root-user")
    if run("--version", wrap=wrap).code:
        missing("user namespaces")
    source, target = home / "source", home / "target"
    for path in (home, source):
        os.chown(path, 0, 0)
    seen = watch(target, "sync", source, target, wrap=wrap)
    assert seen.code == 0, seen.err
    own = {fact for fact in seen.facts if fact[1] == "runs as another" and b"of-root" not in fact[2]}
    assert not own
    assert set_ids(target) == {"of-root"}, "which is the one whose owner is kept"
    assert (target / "own").stat().st_uid == 0
    assert unlike(*wrap, pair=home)


def unlike(*wrap: str, pair: Path) -> set[tuple[str, str]]:
    """What `verify` does not call equal."""
    ran = run("verify", pair / "source", pair / "target", "--json", wrap=wrap)
    assert ran.code == 4, ran
    return {(one["path"], one["what"]) for one in ran.json["differences"]}


def test_a_bit_that_the_kernel_drops_without_a_word_is_a_loss(place: Place) -> None:
    """Who is not of a group, and lacks one capability, may give it a file and not its set-group-id bit."""
    wrap = ("setpriv", "--bounding-set=-fsetid", "--inh-caps=-fsetid")
    pair = Pair.make(place, ("xfs", "ext4"))
    program(pair.source / "of-group", "of-group first")
    dress(pair.source / "of-group", 0o2755, 0, 4242)
    assert_told(run("sync", *ends(pair), "--strict", "--quiet", wrap=wrap), "mode (1 entry", codes=(3,))
    for text in ("first", "second"):
        program(pair.source / "of-group", f"of-group {text}")
        dress(pair.source / "of-group", 0o2755, 0, 4242)
        assert losses(done("sync", *ends(pair), wrap=wrap)) == {"mode": 1}
        assert stat.S_IMODE((pair.target / "of-group").stat().st_mode) == 0o755
        assert ("of-group", "mode") in differences(*ends(pair))


def ends(pair: Pair) -> tuple[Path, Path]:
    return pair.source, pair.target
