"""The command as people and programs meet it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import worlds
from machine import Pair, Place, as_nobody, done, environment, run
from oracle import assert_same, touch_marks

VERBS = (
    *("sync", "snapshot", "list", "delete", "prune", "hold", "release"),
    *("diff", "inspect", "verify", "status", "report", "run", "service", "demo"),
)


@pytest.fixture
def synced(place: Place) -> Pair:
    pair = Pair.make(place, ("btrfs", "xfs"))
    worlds.bulk(pair.source, 50)
    pair.sync("--name", "one")
    worlds.fill(pair.source / "file", 0, 10_000, 1)
    pair.sync("--name", "two")
    return pair


def commands(pair: Pair, folder: Path) -> dict[str, tuple[object, ...]]:
    """Each verb in a form that succeeds, in an order that works."""
    source = pair.source
    return {
        "diff": ("diff", f"{source}@one", f"{source}@two", "-o", folder / "out.arrow"),
        "inspect": ("inspect", folder / "out.arrow"),
        "snapshot": ("snapshot", source, "--name", "three"),
        "sync": ("sync", source, pair.target),
        "list": ("list", source),
        "status": ("status", source),
        "verify": ("verify", source, pair.target),
        "hold": ("hold", f"{source}@three"),
        "release": ("release", f"{source}@three"),
        "delete": ("delete", f"{source}@three"),
        "prune": ("prune", source, "--keep-last", "9"),
        "demo": ("demo",),
    }


def test_json_is_one_object_on_stdout(synced: Pair, tmp_path: Path) -> None:
    for verb, args in commands(synced, tmp_path).items():
        ran = run(*args, "--json", cwd=tmp_path)
        assert ran.code == 0, ran
        assert json.loads(ran.out)["verb"] == verb
        assert ran.out.count("\n") == 1


def test_json_is_one_object_when_a_verb_fails_too(place: Place) -> None:
    missing = place.absent("xfs")
    ran = run("list", missing, "--json")
    assert ran.code in (2, 3)
    error = json.loads(ran.out)["error"]
    assert error["exit_code"] == ran.code
    assert error["message"] in ran.err


def test_json_holds_paths_of_any_bytes(place: Place) -> None:
    volume = place("xfs")
    odd = os.path.join(os.fsencode(volume), b"\xff\n")
    os.mkdir(odd)
    name = os.fsdecode(odd)
    report = done("snapshot", name)
    assert os.fsencode(report["volume"]["path"]) == odd


def test_quiet_is_silent(synced: Pair, tmp_path: Path) -> None:
    loud = ("inspect", "list", "status")  # these are asked for what they print
    for verb, args in commands(synced, tmp_path).items():
        ran = run(*args, "--quiet", cwd=tmp_path)
        assert ran.code == 0, ran
        assert ran.err == ""
        assert verb in loud or ran.out == "", verb


def test_results_go_to_stdout_and_the_rest_to_stderr(synced: Pair, tmp_path: Path) -> None:
    for args in commands(synced, tmp_path).values():
        ran = run(*args, cwd=tmp_path)
        assert ran.code == 0, ran
        assert ran.out
        assert "\x1b" not in ran.out + ran.err, "colours or bars without a terminal"


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_complete_and_has_an_example(verb: str) -> None:
    ran = run(verb, "--help")
    assert ran.code == 0
    assert re.search(r"^ +snapsync " + verb, ran.out, re.MULTILINE), "no example"
    for option in ("--json", "--quiet", "--help"):
        assert option in ran.out


def test_help_names_every_verb_and_exit_code() -> None:
    ran = run("--help")
    assert ran.code == 0
    for word in (*VERBS, *"012345"):
        assert re.search(rf"^ +{word}\b", ran.out, re.MULTILINE), word


def test_the_version_is_told() -> None:
    assert re.fullmatch(r"snapsync \d+\.\d+\.\d+\S*\n", run("--version").out)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "service",
            "missing argument 'action': it is one of install, uninstall\n  see `snapsync service --help`",
        ),
        ("service start", "invalid value for 'action': 'start' is not one of 'install', 'uninstall'\n"),
        ("sync --name", "option '--name' requires an argument\n  see `snapsync sync --help`"),
        (
            "run --parallel 0",
            "invalid value for '--parallel': it has to be 1 or more\n  see `snapsync run --help`",
        ),
        ("run --parallel 65", "it has to be 64 or less"),
        ("run --parallel x", "it has to be a whole number\n"),
        (
            "versions f --restore mon",
            "'mon' is no number of a version, which `snapsync versions FILE` lists\n",
        ),
        ("status --max-lag soon", "  `snapsync status --help` shows what it may be"),
        ("umount /mnt", "no such command 'umount'\n  `umount DIR`, of the system, ends a mount\n"),
        ("unmount /mnt", "no such command 'unmount'\n  `umount DIR`, of the system, ends a mount\n"),
        ("snc a b", "Did you mean 'sync'?"),
    ],
)
def test_a_line_that_makes_no_sense_is_told_in_plain_words(line: str, words: str) -> None:
    ran = run(*line.split())
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err
    assert "\\" not in ran.err


def test_exit_codes_follow_the_contract(synced: Pair) -> None:
    assert run("verify", synced.source, synced.target).code == 0
    assert run("verify", f"{synced.source}@one", synced.target).code == 4
    assert run("nonsense").code == 2
    assert run("snapshot", synced.target).code == 3


def test_verify_names_each_difference(synced: Pair) -> None:
    os.chmod(synced.target / "file", 0o600)
    (synced.target / "bulk-0000/000007").write_text("changed")
    (synced.target / "extra").touch()
    ran = run("verify", synced.source, synced.target, "--json")
    assert ran.code == 4
    named = {line["path"] for line in ran.json["differences"]}
    assert {"file", "bulk-0000/000007", "extra"} <= named
    text = run("verify", synced.source, synced.target)
    assert all(name in text.out for name in named)


def test_a_round_with_nothing_changed_says_so_and_writes_nothing(synced: Pair) -> None:
    before = touch_marks(synced.target)
    report = done("sync", synced.source, synced.target)
    assert report["unchanged"]
    assert report["data_bytes"] == 0
    assert not any(report["changes"].values())
    assert "nothing changed" in run("sync", synced.source, synced.target).out
    assert touch_marks(synced.target) == before


def test_the_summary_counts_what_happened(synced: Pair) -> None:
    (synced.source / "file").rename(synced.source / "renamed")
    (synced.source / "bulk-0000/000001").unlink()
    worlds.fill(synced.source / "bulk-0000/000002", 0, 5_000, 5)
    worlds.fill(synced.source / "new", 0, 7_000, 5)
    (synced.source / "new-dir").mkdir()
    report = done("sync", synced.source, synced.target)
    changes = report["changes"]
    assert (changes["created"], changes["renamed"], changes["deleted"]) == (2, 1, 1)
    assert changes["changed"] >= 1
    assert 12_000 <= report["data_bytes"] <= 20_000
    assert report["tree_bytes"] > report["data_bytes"]


def test_old_snapshots_go_on_both_sides_when_asked(synced: Pair) -> None:
    (synced.source / "new").touch()
    report = done("sync", synced.source, synced.target, "--name", "three", "--keep-last", "2")
    assert "one" in [snap["name"] for snap in report["pruned"]]
    for volume in (synced.source, synced.target):
        names = [snap["name"] for snap in done("list", volume)["snapshots"]]
        assert names == ["two", "three"]
    synced.sync()


def test_snapshots_are_deleted_in_any_order(synced: Pair) -> None:
    (synced.source / "new").touch()
    synced.sync("--name", "three")
    kept = done("verify", f"{synced.source}@three", f"{synced.target}@three")
    assert kept["equal"]
    for volume in (synced.source, synced.target):
        done("delete", f"{volume}@two")
        done("delete", f"{volume}@0")
        assert [snap["name"] for snap in done("list", volume)["snapshots"]] == ["three"]
    assert done("verify", f"{synced.source}@three", f"{synced.target}@three")["equal"]
    (synced.source / "newer").touch()
    synced.sync()


def test_a_snapshot_is_named_in_four_ways(synced: Pair) -> None:
    snap = done("list", synced.source)["snapshots"][-1]
    for key in (snap["name"], snap["id"], snap["sequence"], "latest"):
        assert done("verify", f"{synced.source}@{key}", synced.target)["equal"]


def test_a_name_that_means_two_snapshots_means_none(synced: Pair) -> None:
    """A primary may give the name of a deleted snapshot again, while its standby still has the first."""
    done("delete", f"{synced.source}@0")
    synced.sync("--name", name := "again")
    synced.sync()
    done("delete", f"{synced.source}@{name}")
    synced.sync("--name", name)
    ran = run("verify", f"{synced.target}@{name}", synced.target)
    assert ran.code == 2
    assert name in ran.err
    assert done("verify", f"{synced.source}@{name}", synced.source)["equal"]


def test_the_newest_snapshot_is_a_link_where_it_is_a_directory(synced: Pair) -> None:
    latest = synced.source / ".snapsync/latest"
    assert (latest / "file").read_bytes() == (synced.source / "file").read_bytes()
    (synced.source / "new").touch()
    synced.sync()
    assert (latest / "new").exists()


def test_status_tells_how_far_the_standby_is_behind(synced: Pair) -> None:
    (synced.source / "new").touch()
    done("snapshot", synced.source)
    report = done("status", synced.source)
    assert [standby["lag"] for standby in report["standbys"]] == [1]
    assert report["volume"]["role"] == "primary"
    assert done("status", synced.target)["volume"]["role"] == "standby"


# --- start-up ---------------------------------------------------------------------------------


def imported(*args: object) -> set[str]:
    """The modules that one run of the command imports."""
    script = "import sys; from snapsync.cli.main import run; run(sys.argv[1:]); print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", script, *map(str, args)],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    return {name.split(".")[0] for name in ran.stdout.splitlines()[-1].split()}


def test_a_verb_without_a_manifest_loads_no_arrow(synced: Pair) -> None:
    pair = synced.source, synced.target
    for args in (("--help",), ("list", pair[0]), ("sync", *pair), ("verify", *pair, "--json")):
        assert not {"pyarrow", "rich"} & imported(*args)


def test_a_plain_round_loads_nothing_that_takes_long(synced: Pair) -> None:
    pair = synced.source, synced.target
    for args in (
        ("list", pair[0]),
        ("sync", *pair, "--json", "--quiet"),
        ("diff", *pair, "--json", "--quiet"),
    ):
        assert not {"dataclasses", "inspect", "pathlib", "tempfile", "typer", "typing"} & imported(*args)


def test_importing_the_package_loads_nothing_else() -> None:
    script = "import sys, snapsync; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    modules = out.stdout.split()
    assert [name for name in modules if name.startswith("snapsync")] == ["snapsync"]
    assert not {"pyarrow", "rich", "typer"} & set(modules)


# --- the demo ---------------------------------------------------------------------------------


def around() -> tuple[str, list[str]]:
    return Path("/proc/self/mountinfo").read_text(), sorted(os.listdir("/sys/block"))


@pytest.mark.parametrize("kind", ["btrfs", "xfs", "ext4"])
def test_the_demo_proves_both_sides_equal_and_leaves_nothing(place: Place, kind: str) -> None:
    here, before = place(kind), around()
    ran = run("demo", cwd=here, env={"TMPDIR": here})
    assert ran.code == 0, ran
    assert "All sides are equal" in ran.out
    assert os.listdir(here) == []
    assert around() == before


def test_the_second_act_of_the_demo_tells_of_a_log_and_two_standbys(place: Place) -> None:
    here = place("xfs") / "with a space"
    here.mkdir()
    ran = run("demo", "--keep", cwd=here)
    assert ran.code == 0, ran
    act = ran.out[ran.out.index("==== Second act") :]
    told = (
        ("sync primary LOG", "(thursday): primary -> LOG"),
        ("sync LOG east", "(thursday): LOG -> east"),
        ("sync LOG west", "(thursday): LOG -> west"),
        ("promote west", "west is the primary of epoch 2"),
        ("sync primary LOG", "LOG is not fed", "exit code 3"),
        ("rejoin primary LOG", "primary follows LOG", "kept snapshot left-"),
        ("sync LOG east", "(sunday): LOG -> east"),
    )
    at = 0
    for words in told:
        for word in words:
            at = act.index(word, at)
    (made,) = here.iterdir()
    for other in ("primary", "east"):
        assert_same(made / "west", made / other)
        assert not (made / other / "letters/22.txt").exists()
    assert done("status", f"file://{made}/log")["volume"]["epoch"] == 2


@pytest.mark.parametrize("kind", ["btrfs", "xfs", "ext4"])
def test_the_demo_needs_no_privilege(place: Place, kind: str) -> None:
    wrap, here = as_nobody(), place(kind)
    reachable(here)
    ran = run("demo", cwd=here, env={"TMPDIR": here, "HOME": here}, wrap=wrap)
    assert ran.code == 0, ran
    assert "equal" in ran.out
    assert os.listdir(here) == []


def test_a_volume_needs_no_privilege(place: Place) -> None:
    """Someone's own files, on a file system where that someone is not root."""
    wrap, home = as_nobody(), place("xfs")
    reachable(home)
    source, target = home / "source", home / "target"
    source.mkdir()
    worlds.bulk(source, 50)
    subprocess.run(["chown", "-R", "65534:65534", source], check=True)
    for _ in range(2):
        ran = run("sync", source, target, wrap=wrap)
        assert ran.code == 0, ran
        ran = run("verify", source, target, wrap=wrap)
        assert ran.code == 0, ran
        worlds.fill(source / "bulk-0000/000001", 0, 1_000, 3)


def reachable(path: Path) -> None:
    """Lets another user in, through the private temporary directories above."""
    for folder in path.parents:
        if "snapsync-test-" in str(folder):
            os.chmod(folder, 0o755)
    os.chown(path, 65534, 65534)
