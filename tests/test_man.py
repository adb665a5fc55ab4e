"""The man pages tell what `--help` tells, and no formatter has a word to say about them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from snapsync.cli.parse.verbs import find, names
from snapsync.declare import Option
from snapsync.jobs.values import KEYS

SCRIPT = Path(__file__).parent.parent / "scripts/man"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("man")
    subprocess.run([sys.executable, SCRIPT, directory], check=True)
    return directory


def shown(page: Path) -> str:
    """What a reader sees, without line ends."""
    said = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", page],
        env={"MANWIDTH": "2000", "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MAN_KEEP_FORMATTING": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stderr == "", page.name
    return " ".join(said.stdout.split())


@pytest.mark.skipif(not shutil.which("man"), reason="needs man-db")
@pytest.mark.parametrize("verb", names())
def test_the_page_of_a_verb_has_every_option_with_its_help(pages: Path, verb: str) -> None:
    text = shown(pages / f"snapsync-{verb}.1")
    found = find(verb)
    assert found is not None
    for parameter in found.parameters().values():
        assert " ".join(str(parameter.info.how.get("help") or "").split()) in text
        if isinstance(parameter.info, Option):
            assert all(one in text for pair in parameter.info.names for one in pair.split("/"))
    examples = [line.strip() for line in found.epilog.splitlines() if line.startswith("  ")]
    assert examples
    assert all(" ".join(example.split()) in text for example in examples)


@pytest.mark.skipif(not shutil.which("man"), reason="needs man-db")
def test_the_overview_names_every_verb_and_the_page_of_the_configuration_every_key(pages: Path) -> None:
    overview = shown(pages / "snapsync.1")
    assert all(f"snapsync-{name}(1)" in overview for name in names())
    keys = shown(pages / "snapsync.toml.5")
    assert all(f"{key} (" in keys for key in KEYS)


@pytest.mark.skipif(not shutil.which("mandoc"), reason="needs mandoc")
def test_mandoc_has_no_warning(pages: Path) -> None:
    every = sorted(pages.iterdir())
    said = subprocess.run(["mandoc", "-Tlint", "-Wwarning", *every], capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (0, "")
