"""What an administrator does on a first day works on bare machines, and its page shows what is printed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from machine import missing, need

ROOT = Path(__file__).parent.parent


def test_the_first_day_is_as_its_page_tells() -> None:
    if os.geteuid() != 0:
        missing("root, for containers")
    need("systemd-nspawn", "debootstrap", "mkfs.xfs", "mkfs.btrfs", "ip")
    packages = sorted((ROOT / "dist").glob("*.deb"))
    if not packages:
        missing("dist/*.deb, which `make dist` makes")
    script = [sys.executable, ROOT / "scripts/first-day", packages[-1], ROOT / "docs/first-day.md", "--check"]
    ran = subprocess.run(script, capture_output=True, text=True, timeout=900)
    assert ran.returncode == 0, ran.stdout + ran.stderr
