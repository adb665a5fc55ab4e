"""A configuration of jobs of a test's own."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from machine import Ran, run


class Jobs:
    """A configuration of local jobs, and where their state is."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "config.toml"
        self.env = {"SNAPSYNC_STATE_DIR": folder / "state"}
        self.text = ""

    def add(self, name: str, source: Path, target: Path, more: str = 'period = "15m"') -> None:
        places = f"source = {json.dumps(str(source))}\ntarget = {json.dumps(str(target))}"
        self.text += f"[job.{name}]\n{places}\n{more}\n"
        self.write(self.text)

    def write(self, text: str) -> None:
        """At once: who reads the file meanwhile sees the old one or the new one."""
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.replace(self.file)

    def run(self, *args: object) -> Ran:
        return run("run", "--config", self.file, *args, env=self.env)

    def outcomes(self, *args: object, code: int = 0) -> dict[str, dict[str, Any]]:
        ran = self.run("--json", *args)
        assert ran.code == code, ran
        return {job["job"]: job for job in ran.json["jobs"]}

    @property
    def state(self) -> dict[str, dict[str, Any]]:
        return dict(json.loads((self.env["SNAPSYNC_STATE_DIR"] / "jobs.json").read_text())["jobs"])

    def age(self, name: str, seconds: float) -> None:
        """Lets a job's last good run be so long ago."""
        file = self.env["SNAPSYNC_STATE_DIR"] / "jobs.json"
        content = json.loads(file.read_text())
        good = datetime.fromisoformat(content["jobs"][name]["good"]) - timedelta(seconds=seconds)
        content["jobs"][name]["good"] = good.isoformat()
        file.write_text(json.dumps(content))
