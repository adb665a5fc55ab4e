"""What `make dist` made installs on a Debian that has nothing else, and works there.

The roots are made by debootstrap from the mirror that this machine's apt names. The bare one is kept in the
user's cache: it is made once a machine.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from machine import missing, need, sh

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
import machines  # noqa: E402

DIST = ROOT / "dist"
CACHE = Path.home() / ".cache/snapsync-tests"
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
MACHINE = os.uname().machine
TREE = "srv/data"


def made(pattern: str) -> Path:
    """The one file of `make dist` that is meant."""
    found = list(DIST.glob(pattern))
    if not found:
        missing(f"dist/{pattern}, which `make dist` makes")
    assert len(found) == 1, found
    return found[0]


def the_deb() -> Path:
    return made(f"snapsync_*_{MACHINES[MACHINE]}.deb")


def the_wheel() -> Path:
    return made(f"snapsync-*-abi3-manylinux_*_{MACHINE}.whl")


@pytest.fixture(scope="session")
def base() -> Path:
    """The archive of a bare Debian."""
    if os.geteuid() != 0:
        missing("root, to make a root directory of Debian")
    need("apt-get", "debootstrap", "unshare", "chroot")
    return machines.debian(CACHE)


@pytest.fixture
def debian(base: Path, tmp_path: Path) -> Iterator[Path]:
    """The root directory of a bare Debian, on which apt works."""
    root = tmp_path / "root"
    machines.unpacked(base, root)
    for place in machines.mirror():  # it may be another one than when the archive was made
        (root / "etc/apt/sources.list").write_text(f"deb {place} {machines.SUITE} main\n")
    (root / "etc/resolv.conf").write_bytes(Path("/etc/resolv.conf").read_bytes())
    (root / "etc/hosts").write_bytes(Path("/etc/hosts").read_bytes())
    inside(root, "apt-get", "update", "--quiet=2")
    yield root
    sh("rm", "-rf", "--one-file-system", root)


def inside(root: Path, *words: object, code: int = 0) -> str:
    """Runs a command in a root directory, with nothing of this machine's environment; what it printed."""
    # The mounts end with the command.
    mount = 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" "$@"'
    clean = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8")
    command = ("unshare", "--mount", "--pid", "--fork", "sh", "-c", mount, root, *clean, *words)
    ran = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert ran.returncode == code, f"{words}: {ran.stdout}{ran.stderr}"
    return ran.stdout + ran.stderr


def apt(root: Path, *packages: str) -> None:
    options = ("--yes", "--quiet=2", "--no-install-recommends")
    inside(root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", *options, *packages)


def works(root: Path, snapsync: str) -> None:
    """What an operator does on the first day."""
    assert inside(root, snapsync, "--version").startswith("snapsync ")
    assert "Bring TARGET in step with SOURCE" in inside(root, snapsync, "sync", "--help")
    assert "All sides are equal" in inside(root, snapsync, "demo")
    data = root / TREE
    data.mkdir(parents=True)
    (data / "file").write_text("one")
    inside(root, snapsync, "sync", f"/{TREE}", "/srv/standby", "--name", "first")
    (data / "file").write_text("two")
    inside(root, "mkdir", "-p", "/etc/snapsync")
    config = f'[job.data]\nsource = "/{TREE}"\ntarget = "/srv/standby"\nperiod = "1h"\n'
    (root / "etc/snapsync/config.toml").write_text(config)
    inside(root, snapsync, "run")
    assert (root / "srv/standby/file").read_text() == "two"
    assert "data" in inside(root, snapsync, "status")
    inside(root, snapsync, "restore", "/srv/standby@first", "--to", "/srv/first")
    assert (root / "srv/first/file").read_text() == "one"
    assert "equal" in inside(root, snapsync, "verify", f"/{TREE}", "/srv/standby")
    said = inside(root, snapsync, "diff", "/srv/first", "/srv/standby", code=2)
    assert "this takes the Python library pyarrow" in said


def test_the_debian_package_works_on_a_bare_debian(debian: Path) -> None:
    package = the_deb()
    (debian / "root" / package.name).write_bytes(package.read_bytes())
    apt(debian, f"/root/{package.name}")
    works(debian, "/usr/bin/snapsync")
    assert "snapsync.sync" in inside(
        debian, "python3", "-c", "import snapsync; print('snapsync.sync', snapsync.sync)"
    )
    units = inside(debian, "snapsync", "service", "install", "--dry-run")
    assert "ExecStart=/usr/bin/snapsync run" in units
    apt(debian, "--purge", "snapsync-")
    left = inside(debian, "find", "/usr", "-xdev", "-name", "*snapsync*")
    assert left == ""


def test_the_wheel_works_on_a_bare_debian(debian: Path) -> None:
    wheel = the_wheel()
    packages = debian / "root/packages"
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check")
    old = ("--only-binary", ":all:", "--python-version", "3.11", "--platform", f"manylinux_2_28_{MACHINE}")
    sh(*pip, *old, "--platform", f"manylinux_2_17_{MACHINE}", "--dest", packages, wheel)
    apt(debian, "python3-venv")
    inside(debian, "python3", "-m", "venv", "/opt/snapsync")
    inside(
        debian, "/opt/snapsync/bin/pip", "install", "--no-index", "--find-links", "/root/packages", "snapsync"
    )
    works(debian, "/opt/snapsync/bin/snapsync")


def test_lintian_finds_no_error_in_the_debian_package() -> None:
    need("lintian")
    ran = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error", the_deb()], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_debian_package_has_pages_completions_and_units_for_its_own_command(tmp_path: Path) -> None:
    need("dpkg-deb")
    sh("dpkg-deb", "--extract", the_deb(), tmp_path)
    if (ROOT / "scripts/man").exists():
        assert (tmp_path / "usr/share/man/man1/snapsync.1.gz").stat().st_size > 1000
        assert (tmp_path / "usr/share/bash-completion/completions/snapsync").stat().st_size
    units = list((tmp_path / "usr/share/doc/snapsync/examples/systemd").iterdir())
    assert any("ExecStart=/usr/bin/snapsync run" in unit.read_text() for unit in units), units
    assert not any("as it was written" in unit.read_text() for unit in units), "a digest of another text"
    shipped = {file.name for file in (ROOT / "contrib/monitoring").iterdir()}
    assert {file.name for file in (units[0].parents[1] / "monitoring").iterdir()} == shipped


def test_the_sdist_holds_all_that_a_build_takes(tmp_path: Path) -> None:
    need("cargo")
    with tarfile.open(made("snapsync-*.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    maturin = Path(sys.executable).with_name("maturin")
    # Libraries are those that the tests have built, and our crates need no optimization: it is the sources
    # that are tested.
    env = os.environ | {"CARGO_TARGET_DIR": str(ROOT / "target"), "CARGO_PROFILE_TESTED_OPT_LEVEL": "0"}
    words = [maturin, "build", "--profile", "tested", "--out", tmp_path / "wheels"]
    ran = subprocess.run(words, cwd=unpacked, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    sh(sys.executable, "-m", "venv", "--system-site-packages", tmp_path / "venv")
    pip = (tmp_path / "venv/bin/python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    sh(*pip, "--no-index", "--no-deps", wheel)
    assert sh(tmp_path / "venv/bin/snapsync", "--version").startswith("snapsync ")


def test_the_release_calls_nothing_that_is_not_there() -> None:
    """The goals of make, scripts and tests of the workflow are there; it makes every wheel there is."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    assert workflow["jobs"]["publish"]["needs"] == "packages"
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    told = "\n".join(step.get("run", "") for step in steps)
    goals = re.findall(r"^\s*make (\w+)", told, re.M)
    assert {"dist", "build"} <= set(goals)
    for goal in goals:
        sh("make", "--dry-run", "--directory", ROOT, goal)
    for file in re.findall(r"\b(?:scripts|tests)/[\w.]+", told):
        assert (ROOT / file).exists(), file
    known = set(re.findall(r"^    \[([\w-]+)\]=", (ROOT / "scripts/dist").read_text(), re.M))
    machines = [row["machine"] for row in workflow["jobs"]["packages"]["strategy"]["matrix"]["include"]]
    wanted = re.findall(r"\$\{\{ matrix.machine \}\}(-unknown-[\w-]+)", told)
    assert {machine + rest for machine in machines for rest in wanted} == known
