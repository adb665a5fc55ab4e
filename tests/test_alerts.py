"""The alerts and the dashboard that are shipped ask for what is really exported, and Prometheus takes it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from configured import Jobs
from machine import Pair, Place, need, run
from prometheus_client.parser import text_string_to_metric_families as families
from worlds import fill

ROOT = Path(__file__).parents[1]
ALERTS = ROOT / "contrib/monitoring/snapsync-alerts.yml"
DASHBOARD = json.loads((ROOT / "contrib/monitoring/snapsync-dashboard.json").read_text())
NAME = re.compile(r"\bsnapsync_\w+")


def promtool(*args: object, given: str = "") -> str:
    need("promtool")
    words = ["promtool", *map(str, args)]
    ran = subprocess.run(words, input=given, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


@pytest.fixture
def exported(jobs: Jobs, place: Place, tmp_path: Path) -> str:
    """What `status --prometheus` writes of a job with losses, one that never ran, and a wildcard."""
    pair = Pair.make(place, ("xfs", "ext4"))
    fill(pair.source / "file", 0, 10_000, 1)
    os.setxattr(pair.source / "file", "user.large", b"x" * 60_000)
    jobs.add("one", pair.source, pair.target)
    jobs.add("never", Path("/not/there"), Path('/nor "there"\\n'), "")
    jobs.outcomes("one")
    jobs.outcomes("one")
    file = tmp_path / "snapsync.prom"
    assert run("status", "--config", jobs.file, "--prometheus", file, env=jobs.env).code == 0
    return file.read_text()


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def queries() -> list[str]:
    """All that the dashboard asks for."""
    asked = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return asked + [each["definition"] for each in DASHBOARD["templating"]["list"] if "definition" in each]


def test_the_alerts_are_rules_that_prometheus_takes_and_fire_when_they_should() -> None:
    promtool("check", "rules", ALERTS)
    promtool("test", "rules", ROOT / "tests/alerts.yml")


def test_each_alert_is_played() -> None:
    played = (ROOT / "tests/alerts.yml").read_text()
    assert [rule["alert"] for rule in rules() if rule["alert"] not in played] == []


def test_what_is_exported_is_what_alerts_and_dashboard_ask_for(exported: str) -> None:
    names = {sample.name for family in families(exported) for sample in family.samples}
    values = {
        (sample.name, sample.labels.get("name")): sample.value
        for family in families(exported)
        for sample in family.samples
    }
    assert values["snapsync_job_losses", "one"] == 1
    assert values["snapsync_job_last_good_timestamp_seconds", "never"] == 0
    asked = {
        name for query in [*queries(), *(rule["expr"] for rule in rules())] for name in NAME.findall(query)
    }
    assert asked
    assert asked - names == set()


def test_promtool_has_nothing_to_say_against_the_metrics(exported: str) -> None:
    assert promtool("check", "metrics", given=exported) == ""


def test_prometheus_understands_every_query_of_the_dashboard(tmp_path: Path) -> None:
    shown = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    exprs = [
        {"record": "snapsync:query", "expr": query, "labels": {"n": str(n)}} for n, query in enumerate(shown)
    ]
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": exprs}]}))
    assert f"{len(shown)} rules found" in promtool("check", "rules", file)


def test_the_dashboard_takes_any_data_source_and_its_panels_are_apart() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    sources = [*sources_of(panels), *sources_of(list(variables.values()))]
    assert sources
    assert all(each == {"type": "prometheus", "uid": "${datasource}"} for each in sources)
    used = {name for query in queries() for name in re.findall(r"\$(\w+)", query)}
    assert used <= variables.keys()
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not taken & cells, panel["title"]
        taken |= cells


def sources_of(value: Any) -> Iterator[Any]:
    """Every data source that a part of the dashboard names."""
    if isinstance(value, list):
        for each in value:
            yield from sources_of(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key == "datasource":
                yield each
            else:
                yield from sources_of(each)
