"""The recipes of docs/queries.md, run on a volume whose history is known: all libraries have to agree."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from machine import FileSystems, Place, done

import snapsync
from snapsync import history

PAGE = Path(__file__).parent.parent / "docs/queries.md"
GIB = 1 << 30
AGES = (20, 9, 6, 3, 1)
"""How many days ago each snapshot was taken."""


def sections() -> dict[str, list[str]]:
    """The blocks of code of the page, by their headings."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE):
        heading = part.partition("\n")[0]
        found[heading] = re.findall(r"^```python\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
    return found


class Known:
    """A volume with five snapshots, and what was done to it."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.root, self.folder = place("xfs"), folder
        self.names: list[str] = []
        for name in ("a", "b", "reports", "mail/new"):
            (self.root / name).mkdir(parents=True)
        self.write("reports/2026.ods", 10_000, 1000)
        self.write("a/moves", 50_000, 1001)
        self.write("a/shrinks", 9000, 1001)
        with (self.root / "large").open("wb") as file:
            file.truncate(2 * GIB)
        self.take()
        self.write("a/old", 1_000_000, 1002)
        self.take()
        self.write("a/grows", 20_000, 1000)
        os.truncate(self.root / "a/shrinks", 1000)
        (self.root / "reports").rename(self.root / "papers")
        self.take()
        with (self.root / "large").open("r+b") as file:
            file.seek(GIB)
            file.write(os.urandom(65536))
        (self.root / "a/moves").rename(self.root / "b/moves")
        (self.root / "papers").rename(self.root / "reports")
        self.write("top", 300, 1002)
        self.take()
        (self.root / "reports/2026.ods").unlink()
        self.write("mail/new/1", 5000, 1001)
        self.take()

    def write(self, name: str, size: int, owner: int) -> None:
        (self.root / name).write_bytes(os.urandom(size))
        os.chown(self.root / name, owner, owner)

    def take(self) -> None:
        self.names.append(done("snapshot", self.root)["snapshot"]["name"])

    def manifests(self) -> Iterator[Path]:
        """What changed in each round, with a time of our own."""
        empty = self.folder / "empty"
        empty.mkdir()
        sides = [str(empty), *(f"{self.root}@{name}" for name in self.names)]
        for number, (base, target) in enumerate(pairwise(sides)):
            file = self.folder / f"{number}.arrow"
            snapsync.diff(base, target, file)
            told = {
                "name": self.names[number],
                "sequence": str(number),
                "created": self.time(number).isoformat(),
            }
            told |= {"base": f"id-{number - 1}" if number else "", "target": f"id-{number}"}
            relabel(file, {f"snapsync.{key}": value for key, value in told.items()})
            yield file

    @staticmethod
    def time(number: int) -> datetime:
        return NOON - timedelta(days=AGES[number])


NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)


def relabel(file: Path, labels: dict[str, str]) -> None:
    with pa.ipc.open_file(file.read_bytes()) as reader:
        table = reader.read_all()
    metadata = table.schema.metadata | {key.encode(): value.encode() for key, value in labels.items()}
    with pa.ipc.new_file(str(file), table.schema.with_metadata(metadata)) as writer:
        writer.write_table(table)


@pytest.fixture(scope="module")
def known(file_systems: FileSystems, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Known]:
    place = Place(file_systems)
    yield Known(place, tmp_path_factory.mktemp("queries"))
    place.clear()


@pytest.fixture(scope="module")
def answers(known: Known) -> dict[str, list[Any]]:
    """What each block of the page prints last, in rows, by headings. Blocks use what those above made."""
    dataset = history.dataset(list(known.manifests()))
    names: dict[str, Any] = {"__name__": "page"}
    found: dict[str, list[Any]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapsync.Volume, "history", lambda _: dataset, raising=False)
        for heading, blocks in sections().items():
            for block in blocks:
                *body, last = ast.parse(block.replace("/srv/data", str(known.root))).body
                exec(compile(ast.Module(body, []), str(PAGE), "exec"), names)
                if isinstance(last, ast.Expr) and isinstance(last.value, ast.Call):
                    shown = eval(compile(ast.Expression(last.value.args[0]), str(PAGE), "eval"), names)
                    found.setdefault(heading, []).append(rows_of(shown))
                else:
                    exec(compile(ast.Module([last], []), str(PAGE), "exec"), names)
    return found


def rows_of(shown: Any) -> list[dict[str, Any]]:
    if hasattr(shown, "to_arrow_table"):
        return list(shown.to_arrow_table().to_pylist())
    if hasattr(shown, "to_dicts"):
        return list(shown.to_dicts())
    return list(pa.Table.from_pandas(shown, preserve_index=False).to_pylist())


def test_the_page_has_a_recipe_for_each_library() -> None:
    found = {heading: len(blocks) for heading, blocks in sections().items() if len(blocks) > 1}
    assert len(found) == 5
    assert set(found.values()) == {3}


def test_directories_that_grew(known: Known, answers: dict[str, list[Any]]) -> None:
    seen = answers["Which directories grew most in a week"]
    expected = {"b": 50_000, "mail/new": 5000, "": 300, "reports": -10_000, "a": 20_000 - 8000 - 50_000}
    for rows in seen:
        assert {row["directory"]: row["bytes"] for row in rows} == expected
        assert [row["bytes"] for row in rows] == sorted(expected.values(), reverse=True)
    assert len(seen) == 3


def test_owners_that_changed_most(known: Known, answers: dict[str, list[Any]]) -> None:
    seen = answers["Who changed most"]
    by_owner = [{row["owner"]: (row["changes"], row["bytes"]) for row in rows} for rows in seen]
    assert by_owner[0] == by_owner[1] == by_owner[2]
    assert by_owner[0][1000] == (2, 20_000)
    assert by_owner[0][1001] == (3, 5000)
    assert by_owner[0][1002] == (1, 300)
    assert next(iter(by_owner[0])) == 0


def test_when_a_file_was_deleted(known: Known, answers: dict[str, list[Any]]) -> None:
    seen = answers["When was it deleted"]
    expected = {"snapshot": known.names[4], "base_id": "id-3", "size_old": 10_000}
    for rows in seen:
        assert [{key: row[key] for key in expected} for row in rows] == [expected]
        assert rows[0]["time"] == known.time(4)
    assert len(seen) == 3


def test_churn_a_day(known: Known, answers: dict[str, list[Any]]) -> None:
    def day(number: int) -> date:
        return known.time(number).date()

    expected = [
        {"day": day(1), "bytes": 1_000_000, "created": 1, "deleted": 0},
        {"day": day(2), "bytes": 20_000, "created": 1, "deleted": 0},
        {"day": day(3), "bytes": 65_536 + 300, "created": 1, "deleted": 0},
        {"day": day(4), "bytes": 5000, "created": 1, "deleted": 1},
    ]
    seen = answers["Churn a day"]
    assert seen == [expected] * 3


def test_large_files_that_changed(known: Known, answers: dict[str, list[Any]]) -> None:
    seen = answers["Files over 1 GiB that changed"]
    expected = [(known.names[3], "large", 2 * GIB, 65_536), (known.names[0], "large", 2 * GIB, 0)]
    for rows in seen:
        told = [(row["snapshot"], row["path"], row["size"], row["data_bytes"]) for row in rows]
        assert told == expected
    assert len(seen) == 3
