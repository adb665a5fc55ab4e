"""A place is understood in one way, by every verb, by jobs and by Python."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from machine import Pair, assert_told, run
from test_config import Jobs

from snapsync import UsageError
from snapsync import _native as native
from snapsync.jobs import config, lag

ROOT = Path(__file__).parents[1]
POOL = pytest.mark.parametrize("kinds", [("xfs", "xfs")])

HERE = {
    "/srv/data": ("/srv/data", None),
    "/srv/data@monday": ("/srv/data", "monday"),
    "/mnt/@": ("/mnt/@", None),
    "/mnt/@/home": ("/mnt/@/home", None),
    "./a:b": ("./a:b", None),
    "/a/b:c@d": ("/a/b:c", "d"),
    "\udcff@\udcfe": ("\udcff", "\udcfe"),
}
THERE = {
    "host:p@s": ("host", "p", "s"),
    "u@host:/srv/x": ("u@host", "/srv/x", None),
    "[::1]:p": ("[::1]", "p", None),
    "u@[fe80::1%eth0]:/p": ("u@[fe80::1%eth0]", "/p", None),
}
PARTS = {
    "/srv/data@mail/": ("/srv/data@mail/", "mail", None),
    "/srv/data@mail/monday": ("/srv/data@mail/", "mail", "monday"),
    "host:data@mail/7": ("data@mail/", "mail", "7"),
    "/mnt/@/home": ("/mnt/@/home", None, None),
}
NOWHERE = {
    "host:": "host:.",
    "ssh://u@host/srv/x": "u@host:/srv/x",
    "host::module": "host:PATH",
    "fe80::1:/srv/x": "[fe80::1]:/srv/x",
    "[::1": "in brackets",
    "u@:x": "./PATH",
}


def apart(place: str) -> tuple[str | None, str, str | None]:
    location = native.Location(place)
    return location.host, location.path, location.snapshot


def test_python_is_told_what_rust_understands() -> None:
    """The property test of what may be written at all is beside the code, in Rust."""
    assert {place: apart(place)[1:] for place in HERE} == HERE
    assert {place: apart(place) for place in THERE} == THERE
    assert {
        place: (told.path, told.part, told.snapshot)
        for place, told in ((place, native.Location(place)) for place in PARTS)
    } == PARTS
    assert native.Location.part_of("u@host:/srv/data//", "mail") == "u@host:/srv/data/.@mail/"
    assert [config.is_remote(place) for place in (*HERE, *THERE)] == [False] * len(HERE) + [True] * len(THERE)


@POOL
@pytest.mark.parametrize("text", NOWHERE, ids=["empty", "url", "module", "bare", "open", "user"])
def test_what_names_no_place_is_refused_by_all_with_the_right_spelling(pair: Pair, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        native.Location(text)
    assert NOWHERE[text] in caught.value.advice
    told = NOWHERE[text].split()[-1]
    home = pair.source.parent
    before = sorted(home.iterdir())
    for words in (
        ("sync", pair.source, text),
        ("sync", text, pair.target),
        ("verify", pair.source, text),
        ("diff", pair.source, text),
        ("switch", pair.source, text),
        ("rejoin", text, pair.source),
        ("delete", f"{text}@1"),
    ):
        if words[0] == "delete" and text == "host:":
            continue  # That has a path.
        assert_told(run(*words, "--quiet", cwd=home), told, codes=(2,))
    assert sorted(home.iterdir()) == before


@POOL
def test_jobs_understand_places_as_the_verbs_do(jobs: Jobs, pair: Pair) -> None:
    for place, right in NOWHERE.items():
        jobs.file.write_text(f'[job.web]\nsource = "{pair.source}"\ntarget = "{place}"\n')
        assert_told(run("status", "--config", jobs.file, env=jobs.env), right, "target", codes=(2,))


@POOL
@pytest.mark.parametrize("verb", ["snapshot", "log", "recover", "delete", "hold", "restore"])
def test_what_works_here_alone_says_so_of_another_machine(pair: Pair, verb: str) -> None:
    place = "host:/srv/x@y" if verb in ("delete", "hold", "restore") else "host:/srv/x"
    assert_told(run(verb, place, "--quiet"), "another machine", "there", codes=(2,))


def test_no_module_of_python_takes_a_place_apart() -> None:
    apart = re.compile(
        r"""\b(?:r?partition|r?split|r?find|r?index|startswith)\(\s*["'][@:[]|["'][@:]["'] in"""
    )
    assert apart.search('place.partition(":")')
    wrong = [path for path in (ROOT / "python").rglob("*.py") if apart.search(path.read_text())]
    assert not wrong


def test_a_standby_that_is_known_by_a_whole_path_is_that_of_a_job_below_a_home() -> None:
    for path in ("copy", "./copy", "~/copy", "/home/me/copy/"):
        assert lag._is_at("host:/home/me/copy", f"host:{path}"), path
    assert not lag._is_at("host:/home/me/copy", "host:py")
