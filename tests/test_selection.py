"""`restore` brings back what is selected by patterns, type, size and time, and nothing else."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path

import pytest
import worlds
from machine import Pair, Place, assert_told, done, run, snapshots
from oracle import Entry, Picture, assert_same, freeze
from remote import Server
from worlds import World, fill

import snapsync

KINDS = ("btrfs", "xfs", "ext4")
DAY = 86_400
Selects = Callable[[bytes, Entry], bool]


def glob(pattern: str) -> Callable[[bytes], bool]:
    """What a pattern of this test matches, by rules that are written down here once more."""
    text = re.escape(os.fsencode(pattern.strip("/"))).decode("latin-1")
    text = (
        text.replace(r"\*\*/", "(?:.*/)?")
        .replace(r"\*\*", ".*")
        .replace(r"\*", "[^/]*")
        .replace(r"\?", "[^/]")
    )
    form = re.compile(text.encode("latin-1"), re.DOTALL)
    by_name = "/" not in pattern.rstrip("/")
    return lambda path: form.fullmatch(path.rsplit(b"/", 1)[-1] if by_name else path) is not None


def select(
    *patterns: str, kind: str | None = None, larger: int = -1, newer: float = 0, within: Iterable[str] = ()
) -> Selects:
    matches = [(glob(pattern), pattern.endswith("/")) for pattern in patterns]
    roots = [os.fsencode(path) for path in within]
    kinds = {"f": "file", "d": "directory", "l": "symlink", "p": "fifo", None: None}

    def selects(path: bytes, entry: Entry) -> bool:
        named = not matches or any(
            match(path) and (not only or entry.kind == "directory") for match, only in matches
        )
        return (
            named
            and kinds[kind] in (None, entry.kind)
            and (larger < 0 or (entry.kind == "file" and entry.size > larger))
            and entry.mtime_ns >= newer * 1_000_000_000
            and (not roots or any(path == root or path.startswith(root + b"/") for root in roots))
        )

    return selects


def chosen(held: Picture, selects: Selects) -> set[bytes]:
    """The selected paths and what is in them."""
    found = {path for path, entry in held.entries.items() if path != b"." and selects(path, entry)}
    return {path for path in held.entries if any(up in found for up in [path, *above(path)])}


def above(path: bytes) -> list[bytes]:
    names = path.split(b"/")
    return [b"/".join(names[:count]) for count in range(1, len(names))]


def assert_restored(held: Picture, to: Path, selects: Selects) -> None:
    """Exactly that is there, with the directories above."""
    wanted = chosen(held, selects)
    assert wanted
    wanted |= {directory for path in wanted for directory in above(path)}
    restored = freeze(to)
    assert restored.entries.keys() == {b".", *wanted}
    assert_same(held, restored, without=held.entries.keys() - wanted - {b"."}, ignore=["groups", "links"])


def documents(volume: Path) -> Picture:
    """A tree with names that are easily taken for others."""
    files = {
        "docs/a.odt": 100, "docs/b.ods": 100, "docs/old/c.odt": 5000, "docs/old/er/d.odt": 70_000,
        "docs/old/er/d.odt~": 1, "a.odt": 300_000, "elsewhere/docs/e.odt": 2000, "elsewhere/odt/x": 3,
        "notes": 10, "elsewhere/notes": 20, "pictures.odt/one": 4000, "Größe/ä.odt": 1000,
    }  # fmt: skip
    for at, (name, size) in enumerate(files.items()):
        (volume / name).parent.mkdir(parents=True, exist_ok=True)
        fill(volume / name, 0, size, at)
    strange = os.fsdecode(b"docs/\xff\xfe")
    (volume / strange).mkdir()
    fill(volume / strange / os.fsdecode(b"\x80.odt"), 0, 300, 5)
    (volume / "docs/link.odt").symlink_to("a.odt")
    os.mkfifo(volume / "docs/pipe.odt")
    os.link(volume / "docs/a.odt", volume / "elsewhere/hard.odt")
    os.chmod(volume / "docs", 0o750)
    for at, path in enumerate(sorted(volume.rglob("*"), reverse=True)):
        worlds.touch(path, (1_000_000_000 + at * DAY) * 1_000_000_000)
    return freeze(volume)


CASES: list[tuple[Sequence[str], Selects]] = [
    (["--match", "*.odt"], select("*.odt")),
    (["--match", "docs/**/*.odt"], select("docs/**/*.odt")),
    (["--match", "docs/*.odt"], select("docs/*.odt")),
    (["--match", "/notes"], select("/notes")),
    (["--match", "notes"], select("notes")),
    (["--match", "docs/old"], select("docs/old")),
    (["--match", "pictures.odt", "--match", "?.ods"], select("pictures.odt", "?.ods")),
    (["--match", "*.odt/"], select("*.odt/")),
    (["--match", "**/docs/*"], select("**/docs/*")),
    (["--match", "*.odt", "--type", "f"], select("*.odt", kind="f")),
    (["--match", "*.odt", "--type", "symlink"], select("*.odt", kind="l")),
    (["--match", "*.odt", "--type", "p"], select("*.odt", kind="p")),
    (["--match", "*.odt", "--larger", "4K"], select("*.odt", larger=4096)),
    (["--larger", "100K"], select(larger=100 << 10)),
    (["--type", "f"], select(kind="f")),
    (["--type", "f", "--newer", "2001-09-20T12:00Z"], select(kind="f", newer=1_000_987_200)),
    (["docs", "elsewhere/docs", "--match", "*.odt"], select("*.odt", within=["docs", "elsewhere/docs"])),
    (["docs", "--match", "docs"], select("docs", within=["docs"])),
]


@pytest.mark.parametrize("kinds", [("btrfs", "xfs"), ("xfs", "xfs"), ("ext4", "btrfs")], ids="-".join)
def test_exactly_what_is_selected_is_restored_elsewhere(
    place: Place, subtests: pytest.Subtests, kinds: tuple[str, str]
) -> None:
    volume = place(kinds[0])
    held = documents(volume)
    done("snapshot", volume, "--name", "then")
    for words, selects in CASES:
        with subtests.test(words=words):
            to = place.absent(kinds[1])
            report = done("restore", f"{volume}@then", *words, "--to", to)
            assert_restored(held, to, selects)
            tops = {os.fsencode(path) for path in report["paths"]}
            wanted = chosen(held, selects)
            assert tops == {path for path in wanted if not wanted & set(above(path))}
            if "docs" not in words[:1]:
                assert report["searched"] == len(held.entries) - 1


@pytest.mark.parametrize("kind", KINDS)
def test_exactly_what_is_selected_is_restored_in_place(
    place: Place, subtests: pytest.Subtests, kind: str
) -> None:
    for words, selects in CASES:
        with subtests.test(words=words):
            volume, out = place(kind), place.absent(kind)
            then = documents(volume)
            files = [*volume.rglob("*.odt"), *volume.rglob("notes")]
            done("snapshot", volume, "--name", "then")
            for path in files:
                if path.is_file() and not path.is_symlink():
                    fill(path, 0, 50, 77)
            (volume / "docs/old/c.odt").unlink()
            (volume / "docs/link.odt").unlink()
            (volume / "docs/pipe.odt").unlink()
            (volume / "docs/old/new.odt").write_text("new")
            _remove(volume / "Größe")
            now = freeze(volume)
            report = done("restore", f"{volume}@then", *words)
            assert_mixed(freeze(volume), then, now, chosen(then, selects))
            assert [snap["name"] for snap in snapshots(volume)] == ["then", report["before"]["name"]]
            done("restore", f"{volume}@{report['before']['id']}", "--to", out)
            assert_same(now, out)


def _remove(tree: Path) -> None:
    for path in sorted(tree.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    tree.rmdir()


def assert_mixed(after: Picture, then: Picture, now: Picture, wanted: set[bytes]) -> None:
    """What is wanted is as it was then, and all else as it was before the restore."""

    def told(picture: Picture, path: bytes) -> tuple[object, ...]:
        entry = picture.entries[path]
        # One name of several that is replaced is a file of its own.
        return entry.kind, entry.mode, entry.uid, entry.mtime_ns, entry.size, entry.target, entry.content

    whole = {path for path in wanted if then.entries[path].kind == "directory"}
    gone = {path for path in now.entries if whole & set(above(path))} - wanted
    came = {up for path in wanted for up in above(path)} - now.entries.keys()
    assert after.entries.keys() == (now.entries.keys() - gone) | wanted | came
    for path in wanted | came:
        assert told(after, path) == told(then, path), path
    dated = {up for path in wanted for up in above(path)} | {b"."}
    for path in now.entries.keys() - gone - wanted - dated:
        assert told(after, path) == told(now, path), path


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_a_selection_of_a_random_tree_is_that_of_a_model(place: Place, kind: str, seed: int) -> None:
    volume, chance = place(kind), random.Random(seed)
    world = World(volume, seed)
    world.grow(150)
    world.churn(60)
    held = freeze(volume)
    done("snapshot", volume, "--name", "then")
    world.churn(40)
    names = sorted({path.rsplit(b"/", 1)[-1] for path in held.entries} - {b"."})
    tried = 0
    while tried < 6:
        name = chance.choice(names).decode(errors="replace")
        pattern = chance.choice(["*", name[:1] + "*", "**/*" + name[-1:], "*/*", "*" + name[-1:]])
        if set(pattern) & set("[]{}\\!�\n") or not pattern.isascii():
            continue
        size = chance.choice([None, 4096])
        selects = select(pattern, kind="f" if size else None, larger=size if size else -1)
        if not chosen(held, selects):
            continue
        to, tried = place.absent("xfs"), tried + 1
        more = ["--larger", str(size), "--type", "f"] if size else []
        done("restore", f"{volume}@then", "--match", pattern, *more, "--to", to)
        assert_restored(held, to, selects)


def test_a_log_and_a_part_are_selected_from_too(
    place: Place, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    volume, standby, log = place("xfs"), place.absent("ext4"), f"file://{tmp_path}/log"
    held = documents(volume)
    done("sync", volume, log, "--name", "then")
    done("sync", "--part", "docs", "--include", "/docs", volume, standby, "--name", "of-docs")
    fill(volume / "docs/a.odt", 0, 10, 9)
    done("sync", volume, log)
    for words, selects in CASES:
        with subtests.test(words=words):
            to = place.absent("xfs")
            report = done("restore", f"{log}@then", *words, "--to", to)
            assert_restored(held, to, selects)
            assert report["searched"] > 0
    for address in (f"{volume}@docs/of-docs", f"{standby}@of-docs"):
        to = place.absent("xfs")
        done("restore", address, "--match", "*.odt", "--to", to)
        assert_restored(held, to, select("*.odt", within=["docs"]))
    done("restore", f"{volume}@docs/of-docs", "--match", "a.odt")
    assert freeze(volume).entries[b"docs/a.odt"].content == held.entries[b"docs/a.odt"].content


def test_a_light_volume_gets_its_selection_from_its_standby(place: Place) -> None:
    pair = Pair.make(place, ("ext4", "xfs"))
    done("init", pair.source, "--history", "light")
    held = documents(pair.source)
    pair.sync("--name", "then")
    fill(pair.source / "a.odt", 0, 400_000, 8)
    pair.sync()
    done("restore", f"{pair.source}@then", "--match", "*.odt", "--to", to := place.absent("xfs"))
    assert_restored(held, to, select("*.odt"))
    done("restore", f"{pair.source}@then", "--match", "/a.odt")
    assert freeze(pair.source).entries[b"a.odt"].content == held.entries[b"a.odt"].content


def test_another_machine_is_not_asked_for_more_paths_than_it_takes(pair: Pair, server: Server) -> None:
    client = server.client()
    for at in range(5000):
        (pair.source / f"{at:0210}").touch()
    (pair.source / "few").write_text("few")
    pair.sync()
    standby = ("--from", client.at(pair.target), *client.options)
    words = ("restore", f"{pair.source}@latest", "--type", "f")
    assert_told(run(*words, "--match", "*", *standby, "--quiet"), "5001 paths", codes=(3,))
    assert len(snapshots(pair.source)) == 1
    (pair.source / "few").unlink()
    done(*words, "--match", "f*", *standby)
    assert (pair.source / "few").read_text() == "few"


@pytest.mark.parametrize("of_log", [False, True], ids=["volume", "log"])
def test_where_nothing_is_selected_nothing_is_written(place: Place, tmp_path: Path, of_log: bool) -> None:
    volume, to = place("xfs"), place.absent("xfs")
    held = documents(volume)
    log = f"file://{tmp_path}/log"
    done("sync", volume, log, "--name", "then")
    address = f"{log if of_log else volume}@then"
    for more in ([], ["docs"], ["--larger", "1G"]):
        words = ("restore", address, *more, "--match", "*.nothing")
        report = done(*words, "--to", to)
        assert (report["paths"], report["data_bytes"], report["changes"]["rows"]) == ([], 0, 0)
        assert report["searched"] > 0
        ran = run(*words, "--to", to)
        assert ran.code == 0, ran
        assert f"among {report['searched']} entries" in ran.out
        assert not to.exists()
        if not of_log:
            report = done(*words)
            assert (report["paths"], report["before"]) == ([], None)
            assert run(*words).code == 0
    assert_same(held, volume)
    assert len(snapshots(volume)) == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--match", "a["], 'pattern "a["'),
        (["--match", ""], 'pattern ""'),
        (["--match", "../x"], 'pattern "../x"'),
        (["--match", os.fsdecode(b"\xff*")], "not UTF-8"),
        (["--type", "x"], '"x" is no type'),
        (["--larger", "much"], "'much'"),
        (["--newer", "soon"], '"soon" is no date'),
        (["--newer", "2026-02-30"], '"2026-02-30"'),
        (["nowhere", "--match", "*"], "has no nowhere"),
        (["--match", "*", "--name", "x"], "--name"),
    ],
)
def test_a_bad_selection_is_told(place: Place, words: list[str], told: str) -> None:
    volume = place("xfs")
    held = documents(volume)
    done("snapshot", volume, "--name", "then")
    assert_told(run("restore", f"{volume}@then", *words), told, codes=(2,))
    assert_same(held, volume)
    assert len(snapshots(volume)) == 1


def test_python_selects_too(place: Place) -> None:
    volume, to = place("xfs"), place.absent("xfs")
    held = documents(volume)
    snapsync.Volume(volume).snapshot("then")
    newer = datetime.fromtimestamp(1_000_000_000 + 5 * DAY).isoformat()
    report = snapsync.restore_to(f"{volume}@then", to, match=["*.odt"], type="f", larger=10, newer=newer)
    assert_restored(held, to, select("*.odt", kind="f", larger=10, newer=1_000_000_000 + 5 * DAY))
    assert report.searched == len(held.entries) - 1
    (volume / "notes").unlink()
    done_in_place = snapsync.restore_paths(f"{volume}@then", match=["/notes"])
    assert done_in_place.paths == ("notes",)
    assert done_in_place.before is not None
    assert (volume / "notes").exists()
    with pytest.raises(TypeError, match="not one text"):
        snapsync.restore_paths(f"{volume}@then", match="*.odt")
