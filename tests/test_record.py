"""A record is a frozen dataclass in all that is seen of it."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest

from snapsync.record import Record
from snapsync.reports import snapshots as reports


class Point(Record):
    """One that the tests know."""

    x: int
    y: int = 7


@dataclasses.dataclass(frozen=True)
class Model:
    """The same by the library."""

    x: int
    y: int = 7


@pytest.mark.parametrize(
    "given", [((1,), {}), ((1, 2), {}), ((), {"x": 1}), ((1,), {"y": 3}), ((), {"y": 1, "x": 2})]
)
def test_it_is_made_and_shown_as_a_dataclass_is(given: tuple[tuple[int, ...], dict[str, int]]) -> None:
    values, named = given
    point, model = Point(*values, **named), Model(*values, **named)
    assert dataclasses.asdict(point) == dataclasses.asdict(model)
    assert repr(point) == repr(model).replace("Model", "Point")
    assert [field.name for field in dataclasses.fields(point)] == ["x", "y"]
    assert dataclasses.is_dataclass(point)


@pytest.mark.parametrize(
    "given", [((), {}), ((1, 2, 3), {}), ((1,), {"x": 1}), ((1,), {"z": 1}), ((), {"y": 1})]
)
def test_what_makes_no_dataclass_makes_no_record(given: tuple[tuple[int, ...], dict[str, int]]) -> None:
    values, named = given
    makers: tuple[Any, Any] = (Model, Point)
    for make in makers:
        with pytest.raises(TypeError):
            make(*values, **named)


def test_equality_hash_and_copies_are_by_value() -> None:
    point = Point(1, 2)
    assert point == Point(1, 2)
    assert point != Point(1, 3)
    assert point != Model(1, 2)
    assert hash(point) == hash(Point(1, 2))
    for other in (copy.copy(point), copy.deepcopy(point), pickle.loads(pickle.dumps(point))):
        assert other == point
    assert dataclasses.replace(point, y=3) == Point(1, 3)


def test_nobody_changes_one() -> None:
    point: Any = Point(1)
    with pytest.raises(AttributeError):
        point.x = 2
    with pytest.raises(AttributeError):
        del point.x
    with pytest.raises(AttributeError):
        point.z = 2
    assert point == Point(1)


def test_a_report_reads_what_it_wrote() -> None:
    report = reports.SnapshotReport.from_json(
        '{"verb":"snapshot","volume":{"path":"/v","id":"1","lineage":"2","epoch":1,"role":"primary","provider":"pool",'
        '"filesystem":"xfs"},"snapshot":{"id":"3","name":"n","sequence":0,"parent":null,"created":'
        '"2026-01-01T00:00:00Z","provider":"pool","entries":1,"bytes":2},"notes":[],"seconds":0.5}'
    )
    assert report.snapshot.created == datetime(2026, 1, 1, tzinfo=UTC)
    assert reports.SnapshotReport.from_json(report.to_json()) == report
