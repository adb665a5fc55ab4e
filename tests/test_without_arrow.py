"""What people run every day goes where pyarrow cannot be imported; what takes it says so in one sentence."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from machine import Pair, Ran, run
from oracle import assert_same

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine whose pyarrow cannot be loaded, nor rich and prometheus_client."""
    for name in ("pyarrow", "rich", "prometheus_client"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('none here', name={name!r})\n")
    return {"PYTHONPATH": str(tmp_path), "SNAPSYNC_STATE_DIR": str(tmp_path / "state")}


def good(bare: dict[str, str], *words: object) -> Ran:
    ran = run(*words, env=bare)
    assert ran.code == 0, ran
    return ran


def test_rounds_and_all_about_snapshots_go_without_pyarrow(
    pair: Pair, bare: dict[str, str], tmp_path: Path
) -> None:
    source, target = pair.source, pair.target
    (source / "file").write_text("one")
    good(bare, "sync", source, target, "--name", "first")
    (source / "file").write_text("two, and longer")
    good(bare, "sync", source, target, "--name", "second")
    assert_same(source, target)
    for words in (
        ("status", source),
        ("status", target, "--json"),
        ("list", target),
        ("log", target),
        ("log", target, "file"),
        ("find", target, "f*"),
        ("versions", target / "file"),
        ("verify", source, target),
        ("diff", f"{target}@first", f"{target}@second", "--json"),
        ("diff", f"{target}@first", f"{target}@second", "-o", tmp_path / "changes.arrow"),
        ("snapshot", source, "--name", "third"),
        ("prune", source, "--keep-last", "5"),
        ("restore", f"{target}@first", "--to", tmp_path / "first"),
        ("restore", f"{source}@third", "file"),
        ("recover", target),
    ):
        good(bare, *words)
    assert (tmp_path / "first/file").read_text() == "one"
    assert (source / "file").read_text() == "two, and longer"


def test_jobs_run_without_pyarrow(pair: Pair, bare: dict[str, str], tmp_path: Path) -> None:
    source, target = pair.source, pair.target
    (source / "file").write_text("one")
    config = tmp_path / "config.toml"
    config.write_text(f'[job.web]\nsource = "{source}"\ntarget = "{target}"\nperiod = "1h"\n')
    good(bare, "run", "--config", config)
    good(bare, "status", "--config", config)
    assert_same(source, target)


def test_the_demo_goes_without_pyarrow(bare: dict[str, str], tmp_path: Path) -> None:
    ran = run("demo", env=bare, cwd=tmp_path)
    assert ran.code == 0, ran
    assert "All sides are equal" in ran.out


@pytest.mark.parametrize("verb", ["diff", "inspect", "report"])
def test_what_takes_pyarrow_says_so_in_one_sentence(
    pair: Pair, bare: dict[str, str], tmp_path: Path, verb: str
) -> None:
    source, target = pair.source, pair.target
    (source / "file").write_text("one")
    good(bare, "sync", source, target, "--name", "first")
    changes = tmp_path / "changes.arrow"
    good(bare, "diff", source, target, "-o", changes)
    words = {"diff": (source, target), "inspect": (changes,), "report": (target, "--json")}
    ran = run(verb, *words[verb], env=bare)
    assert ran.code == 2
    assert "this takes the Python library pyarrow" in ran.err
    assert "pip install 'snapsync[arrow]'" in ran.err
    assert "Traceback" not in ran.err


def test_what_an_index_shows_of_the_readme_leads_somewhere() -> None:
    """An index of packages shows the README alone: a link has to be whole, and its file has to be there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    place = f"{project['urls']['Repository']}/blob/main/"
    links = LINK.findall((ROOT / "README.md").read_text())
    assert len(links) > 20
    for link in links:
        assert link.startswith(("https://", "#")), f"{link} leads nowhere from another site"
        if link.startswith(place):
            assert (ROOT / link.removeprefix(place).partition("#")[0]).is_file(), link
