"""Many manifests are one dataset, and what people see and ask of one in Python."""

from __future__ import annotations

import os
import random
import warnings
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from machine import Pair, Place, done
from object_store import Logs

import snapsync
from snapsync import history

TOLD = ("snapshot", "snapshot_id", "base_id", "sequence", "time")


@pytest.fixture
def volume(place: Place) -> snapsync.Volume:
    """A volume with four snapshots: a file changes, is renamed, and goes."""
    root = place("xfs")
    volume = snapsync.Volume(root)
    (root / "dir").mkdir()
    for number in range(50):
        (root / f"dir/{number}").write_bytes(b"x" * number)
    volume.snapshot("first")
    (root / "file").write_text("one")
    volume.snapshot("second")
    (root / "file").rename(root / "moved")
    volume.snapshot("third")
    (root / "moved").unlink()
    volume.snapshot("fourth")
    return volume


@pytest.fixture
def files(volume: snapsync.Volume, tmp_path: Path) -> list[Path]:
    """What changed from each snapshot to the next."""
    names = [snapshot.name for snapshot in volume.snapshots()]
    made = []
    for base, target in pairwise(names):
        snapsync.diff(f"{volume.path}@{base}", f"{volume.path}@{target}", tmp_path / f"{target}.arrow")
        made.append(tmp_path / f"{target}.arrow")
    return made


def rewrite(file: Path, *, without: tuple[str, ...] = (), **labels: str) -> None:
    table = pa.ipc.open_file(file.read_bytes()).read_all().drop_columns(list(without))
    metadata = table.schema.metadata | {f"snapsync.{key}".encode(): v.encode() for key, v in labels.items()}
    with pa.ipc.new_file(str(file), table.schema.with_metadata(metadata)) as writer:
        writer.write_table(table)


def test_each_row_tells_its_snapshot(volume: snapsync.Volume, files: list[Path]) -> None:
    table = history.dataset(files).to_table()
    assert tuple(table.column_names[: len(TOLD)]) == TOLD
    snapshots = volume.snapshots()
    expected = [
        {
            "snapshot": now.name,
            "snapshot_id": now.id,
            "base_id": before.id,
            "sequence": now.sequence,
            "time": now.created,
        }
        for before, now in pairwise(snapshots)
    ]
    seen = table.select(list(TOLD)).group_by(list(TOLD)).aggregate([]).sort_by("sequence")
    microseconds = pa.timestamp("us", "UTC")
    seen = seen.set_column(4, "time", seen["time"].cast(microseconds, safe=False))
    assert seen.to_pylist() == expected
    assert table.num_rows == sum(len(snapsync.Manifest(file)) for file in files)


def test_columns_are_those_of_a_manifest(files: list[Path]) -> None:
    """Also where there is none, and what the file says is not changed on the way."""
    schema = snapsync.Manifest(files[0]).schema
    assert list(history.SCHEMA)[len(TOLD) :] == [field.with_nullable(True) for field in schema]
    nothing = history.dataset([])
    assert nothing.schema == history.SCHEMA
    assert nothing.to_table().num_rows == 0
    inside = history.dataset(files[:1]).to_table().drop_columns(list(TOLD))
    own = pa.table(snapsync.Manifest(files[0]))
    assert inside.to_pylist() == own.to_pylist()


LAST = ds.field("snapshot") == "fourth"


def test_projections_and_filters_are_those_of_a_table(files: list[Path]) -> None:
    data = history.dataset(files)
    life = [
        ("second", None, "file", (True, False, False)),
        ("third", "file", "moved", (False, False, True)),
        ("fourth", "moved", None, (False, True, False)),
    ]
    about = (ds.field("old_path").isin(["file", "moved"])) | (ds.field("path") == "file")
    rows = data.to_table(filter=about, columns=["snapshot", "old_path", "path", "change"]).to_pylist()
    flags = ("created", "deleted", "renamed")
    told = [(r["snapshot"], r["old_path"], r["path"], tuple(r["change"][f] for f in flags)) for r in rows]
    assert told == life
    assert data.count_rows(filter=LAST) == len(snapsync.Manifest(files[-1]))
    assert data.to_table(filter=ds.field("change", "deleted"), columns=["old_path"]).to_pylist() == [
        {"old_path": "moved"}
    ]
    frame = polars.scan_pyarrow_dataset(data)
    gone = frame.filter(polars.col("change").struct.field("deleted")).select("snapshot", "old_path").collect()
    assert gone.rows() == [("fourth", "moved")]
    sql = "SELECT snapshot, old_path FROM data WHERE change.deleted"
    assert duckdb.sql(sql).fetchall() == [("fourth", "moved")]
    pandas = data.to_table(filter=ds.field("change", "deleted"), columns=["snapshot", "old_path"]).to_pandas()
    assert pandas.values.tolist() == [["fourth", "moved"]]


def test_a_filter_on_snapshots_opens_no_file_of_others(files: list[Path]) -> None:
    for number, file in enumerate(files):
        rewrite(file, created=(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number)).isoformat())
    data = history.dataset(files)
    rows = len(snapsync.Manifest(files[-1]))
    for file in files[:-1]:
        file.unlink()
    last = datetime(2026, 1, 3, tzinfo=UTC)
    for found in (LAST, ds.field("time") >= last):
        assert data.to_table(filter=found).num_rows == rows
    frame = polars.scan_pyarrow_dataset(data)
    assert frame.filter(polars.col("time") >= last).collect().height == rows
    assert frame.filter(polars.col("sequence") == 3).collect().height == rows
    for condition in ("snapshot = 'fourth'", "sequence > 2"):
        counted = duckdb.sql(f"SELECT count(*) FROM data WHERE {condition}").fetchall()
        assert counted == [(rows,)], condition
    recent = data.filter(ds.field("time") >= last)
    assert duckdb.sql("SELECT count(*) FROM recent").fetchall() == [(rows,)]
    assert recent.schema == data.schema


def test_a_manifest_of_an_older_build_has_nulls_for_what_it_lacks(files: list[Path]) -> None:
    rewrite(files[0], without=("rare", "rare_old"), format="1")
    data = history.dataset(files)
    old = data.to_table(filter=ds.field("snapshot") == "second")
    assert old["rare"].null_count == old["rare_old"].null_count == old.num_rows > 0
    assert duckdb.sql("SELECT count(*) FROM data WHERE rare IS NULL").fetchall() == [(data.count_rows(),)]
    assert polars.scan_pyarrow_dataset(data).select("snapshot", "rare").collect().height == data.count_rows()


def test_a_manifest_without_a_name_has_none(files: list[Path]) -> None:
    rewrite(files[0], name="", sequence="", base="")
    table = history.dataset(files[:1]).to_table(filter=ds.field("snapshot").is_null())
    assert table.num_rows
    assert table["sequence"].null_count == table["base_id"].null_count == table.num_rows


DAMAGE = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "something else": lambda _: b"no manifest",
}


@pytest.mark.parametrize("how", ["cut", "empty", "something else"])
def test_a_damaged_manifest_is_named_and_passed_over(files: list[Path], how: str) -> None:
    whole = history.dataset([files[0], files[2]]).to_table()
    files[1].write_bytes(DAMAGE[how](files[1].read_bytes()))
    with pytest.warns(snapsync.HistoryWarning, match=str(files[1])) as told:
        seen = history.dataset(files).to_table()
    assert len(told) == 1
    assert told[0].filename == __file__
    assert seen == whole


@pytest.mark.parametrize(("label", "text"), [("created", "someday"), ("sequence", "-1"), ("format", "99")])
def test_a_manifest_with_labels_that_make_no_sense_is_passed_over(
    files: list[Path], label: str, text: str
) -> None:
    rewrite(files[1], **{label: text})
    with pytest.warns(snapsync.HistoryWarning, match=str(files[1])):
        assert history.dataset(files).count_rows(filter=ds.field("snapshot") == "third") == 0


def test_a_sound_history_warns_of_nothing(files: list[Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert history.dataset(files).count_rows()


# --- a volume, and a notebook -----------------------------------------------------------------------


def test_a_volume_tells_what_changed_between_its_snapshots(volume: snapsync.Volume) -> None:
    first, second, *_ = volume.snapshots()
    assert [change.path for change in volume.diff(first, "second").changes() if change.kind == "file"] == [
        "file"
    ]
    for base in (second, "second", 1):
        changed = [change.flags for change in volume.diff(base).changes() if change.kind == "file"]
        assert changed == [("deleted",)]
    with pytest.raises(snapsync.UsageError):
        volume.diff("never")


def test_a_part_tells_what_changed_and_which_versions_there_are(place: Place) -> None:
    root, standby = place("xfs"), place.absent("xfs")
    (root / "mail").mkdir()
    for text in ("one\n", "two\n"):
        (root / "mail/file").write_text(text)
        done("sync", "--part", "mail", "--include", "/mail", root, standby)
    part = snapsync.Volume(root, "mail")
    assert [change.path for change in part.diff(0).changes() if "data" in change.flags] == ["mail/file"]
    assert [version.number for version in part.versions("mail/file").versions] == [1, 2]


def test_a_volume_tells_the_versions_of_a_file(volume: snapsync.Volume) -> None:
    report = volume.versions("file", diff=(0, 1))
    assert [[snap.name for snap in version.snapshots] for version in report.versions] == [["second", "third"]]
    assert report.diff is not None
    assert report.diff.endswith("+one\n\\ No newline at end of file\n")
    assert volume.versions(b"moved").exists is False
    for wrong in ((-1,), (1, 2, 3), (7,)):
        with pytest.raises(snapsync.UsageError):
            volume.versions("file", diff=wrong)


def test_a_notebook_shows_totals_and_the_first_changes(volume: snapsync.Volume) -> None:
    for number in range(40):
        (volume.path / f"{number:02}").write_text("x" * 2000)
    volume.snapshot("fifth")
    shown = volume.diff("fourth")._repr_html_()
    assert "created 40, changed 1, renamed 0, deleted 0; 78.1 KiB of data" in shown
    assert shown.count("<tr>") == 1 + 20 + 1
    assert "and 21 more" in shown
    assert "2.0 KiB" in shown
    nothing = volume.diff("fifth")._repr_html_()
    assert nothing.count("<tr>") == 1


def test_names_in_a_notebook_are_only_text(volume: snapsync.Volume) -> None:
    name = b"<script>alert(1)</script>\xff&\n\"'".replace(b"/", b"|")
    (volume.path / os.fsdecode(name)).write_text("x")
    volume.snapshot("fifth")
    shown: Any = volume.diff("fourth")._repr_html_()
    assert "<script" not in shown
    assert "&lt;script&gt;alert(1)&lt;|script&gt;\\xff&amp;\\n&quot;" in shown
    shown.encode()


# --- what a volume keeps ----------------------------------------------------------------------------


def rows_between(volume: object, base: str, target: str) -> list[dict[str, Any]]:
    """What `diff` says between two snapshots."""
    return list(pa.table(snapsync.diff(f"{volume}@{base}", f"{volume}@{target}")).to_pylist())


def rows_of(data: Any, snapshot: str) -> list[dict[str, Any]]:
    table = data.to_table(filter=ds.field("snapshot") == snapshot)
    return list(table.drop_columns(list(TOLD)).to_pylist())


@pytest.mark.parametrize("kinds", [("btrfs", "xfs"), ("xfs", "btrfs")], ids="-".join)
def test_a_history_is_what_changed_from_snapshot_to_snapshot(pair: Pair) -> None:
    """On the primary and on the standby, and the same when the snapshots are gone."""
    rng = random.Random(1)
    names = [f"s{number}" for number in range(6)]
    for name in names:
        for _ in range(20):
            (pair.source / f"{rng.randrange(40)}").write_bytes(rng.randbytes(rng.randrange(9000)))
        for gone in rng.sample(sorted(pair.source.glob("[0-9]*")), 3):
            gone.unlink()
        pair.sync("--name", name)
    for root in (pair.source, pair.target):
        expected = {now: rows_between(root, before, now) for before, now in pairwise(names)}
        for middle in names[1:4]:
            done("delete", f"{root}@{middle}")
        data = snapsync.Volume(root).history()
        for name, rows in expected.items():
            assert {row["path"] for row in rows} == {row["path"] for row in rows_of(data, name)}
            if root == pair.source:
                assert rows_of(data, name) == rows
        first = data.to_table(filter=ds.field("base_id").is_null())
        assert set(first["snapshot"].to_pylist()) == {"s0"}
        assert all(change["created"] for change in first["change"].to_pylist() if any(change.values()))
        sequences = data.to_table(columns=["sequence"])["sequence"].unique().to_pylist()
        assert sequences == list(range(6))


def test_a_log_has_the_history_of_its_rounds(place: Place, logs: Logs) -> None:
    """Its manifests are in no directory that stays, and are read as long as somebody has the dataset."""
    root, log = place("xfs"), logs("directory")
    log.begin()
    for number in range(4):
        (root / str(number)).write_text("x")
        done("sync", root, log.address, "--name", f"s{number}")
    data = snapsync.Volume(log.address).history()
    created = data.to_table(filter=ds.field("change", "created") & (ds.field("kind") == "file"))
    assert created.select(["snapshot", "path"]).to_pylist() == [
        {"snapshot": f"s{number}", "path": str(number)} for number in range(4)
    ]
    assert duckdb.sql("SELECT count(DISTINCT snapshot) FROM data").fetchall() == [(4,)]
    assert polars.scan_pyarrow_dataset(data).select("snapshot").unique().collect().height == 4


def test_a_part_has_a_history_of_its_own(place: Place) -> None:
    root, standby = place("xfs"), place.absent("xfs")
    (root / "mail").mkdir()
    for number in range(3):
        (root / f"mail/{number}").write_text("x")
        (root / f"{number}").write_text("x")
        done("sync", "--part", "mail", "--include", "/mail", root, standby)
    paths = snapsync.Volume(root, "mail").history().to_table(columns=["path"])["path"].unique().to_pylist()
    assert sorted(path for path in paths if path[-1].isdigit()) == ["mail/0", "mail/1", "mail/2"]


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_a_damaged_manifest_that_a_volume_keeps_is_named(place: Place, kind: str) -> None:
    volume = snapsync.Volume(place(kind))
    for number in range(4):
        (volume.path / str(number)).write_text("x")
        volume.snapshot(f"s{number}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = volume.history().to_table()
    for gone in ("s1", "s2"):
        volume.delete(gone)
    third = before.filter(ds.field("snapshot") == "s2")["snapshot_id"][0].as_py()
    [kept] = (volume.path / ".snapsync/store/history").glob(f"{third}*")
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)
    with pytest.warns(snapsync.HistoryWarning, match=str(kept)) as told:
        data = volume.history()
    assert {warning.filename for warning in told} == {__file__}
    assert set(data.to_table()["snapshot"].to_pylist()) == {"s0", "s1", "s3"}


def test_a_directory_that_is_no_volume_has_no_history(tmp_path: Path) -> None:
    with pytest.raises(snapsync.UsageError):
        snapsync.Volume(tmp_path).history()
