"""What says what root does is root's: configurations, programs, identities, the state of jobs.

And what is told of names that somebody else chose stays what it is: a line, a metric, a unit.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from machine import Pair, Place, as_nobody, assert_told, command, done, missing, need, run
from oracle import assert_same
from prometheus_client.parser import text_string_to_metric_families
from remote import Server

from snapsync.cli import monitoring
from snapsync.cli.commands import service
from snapsync.errors import UsageError
from snapsync.jobs import config, own, prometheus, state
from snapsync.reports.values import Lag

SOMEBODY = 4711
JOB = '[job.web]\nsource = "/a"\ntarget = "/b"\nperiod = "15m"\n'


@pytest.fixture(autouse=True)
def _as_root() -> None:
    if os.geteuid() != 0:
        missing("root, to give files to others")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with a configuration that is root's, and a link that leads to it."""
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "deep/er/config.toml").write_text(JOB)
    (tmp_path / "link").symlink_to("deep")
    return tmp_path


Spoiling = Callable[[Path], tuple[Path, str]]
"""Makes something on the way to the configuration untrustworthy; returns it, and what to do about it."""


def given_away(name: str) -> Spoiling:
    def spoil(folder: Path) -> tuple[Path, str]:
        os.chown(folder / name, SOMEBODY, -1, follow_symlinks=False)
        return folder / name, f"belongs to user {SOMEBODY}"

    return spoil


def writable(name: str, mode: int) -> Spoiling:
    def spoil(folder: Path) -> tuple[Path, str]:
        (folder / name).chmod(mode)
        return folder / name, f"chmod go-w {folder / name}"

    return spoil


SPOILED = {
    "file-of-another": given_away("deep/er/config.toml"),
    "directory-of-another": given_away("deep"),
    "link-of-another": given_away("link"),
    "file-of-a-group": writable("deep/er/config.toml", 0o664),
    "file-of-all": writable("deep/er/config.toml", 0o646),
    "directory-of-all": writable("deep/er", 0o777),
    "directory-above": writable("deep", 0o775),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
@pytest.mark.parametrize("verb", ["run", "status", "service"])
def test_root_reads_no_configuration_that_others_can_write(folder: Path, spoil: Spoiling, verb: str) -> None:
    named = folder / "link/er/config.toml"
    words: tuple[object, ...] = {
        "run": ("run", "--config", named),
        "status": ("status", "--config", named),
        "service": ("service", "install", "--dry-run", "--config", named),
    }[verb]
    state = {"SNAPSYNC_STATE_DIR": folder / "state"}
    assert run(*words, env=state).code != 3
    culprit, what = spoil(folder)
    assert_told(run(*words, env=state), str(named), str(culprit), what, codes=(3,))


def test_a_directory_where_others_touch_only_what_is_theirs_is_no_harm(folder: Path) -> None:
    (folder / "deep").chmod(0o1777)
    assert list(config.load(folder / "link/er/config.toml").jobs) == ["web"]


def test_an_ordinary_user_reads_what_is_his_or_roots(folder: Path) -> None:
    nobody = as_nobody()
    file = folder / "deep/er/config.toml"
    for directory in (folder, *folder.parents):
        if directory.stat().st_mode & 0o777 == 0o700:
            directory.chmod(0o755)
    words = ("service", "install", "--user", "--dry-run", "--config", file)
    assert run(*words, wrap=nobody).code == 0
    os.chown(file, 65534, -1)
    assert run(*words, wrap=nobody).code == 0
    os.chown(file, SOMEBODY, -1)
    assert_told(run(*words, wrap=nobody), f"user {SOMEBODY}", "neither to you nor to root", codes=(3,))


# --- whose home -----------------------------------------------------------------------------------


def test_the_home_that_sudo_leaves_is_not_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    own_home, his = tmp_path / "root", tmp_path / "his"
    own_home.mkdir()
    his.mkdir()
    os.chown(his, SOMEBODY, -1)
    monkeypatch.setenv("HOME", str(own_home))
    assert (own.home(), own.config_home()) == (own_home, own_home / ".config")
    # As sudo leaves it where it is told to keep HOME.
    monkeypatch.setenv("HOME", str(his))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(his / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(his / "state"))
    of_root = Path("/root")
    assert (own.home(), own.config_home(), own.state_home()) == (
        of_root,
        of_root / ".config",
        of_root / ".local/state",
    )
    assert own.expand("~/x") == "/root/x"
    # A home of root's own that another user named.
    monkeypatch.setenv("HOME", str(own_home))
    monkeypatch.setenv("SUDO_USER", "somebody")
    assert own.home() == of_root


def test_root_under_sudo_does_not_run_the_jobs_of_who_called_it(tmp_path: Path) -> None:
    his = tmp_path / "his"
    (his / ".config/snapsync").mkdir(parents=True)
    (his / ".config/snapsync/config.toml").write_text(JOB.replace("web", "evil"))
    for path in (his, *his.rglob("*")):
        os.chown(path, SOMEBODY, -1)
    env = {"HOME": his, "SUDO_USER": "somebody", "SNAPSYNC_STATE_DIR": tmp_path / "state"}
    assert "evil" not in (ran := run("status", env=env)).out + ran.err


# --- the state of jobs ----------------------------------------------------------------------------


def test_the_state_is_private_and_nobody_elses_directory_takes_it(place: Place, tmp_path: Path) -> None:
    pair, state, file = Pair.make(place, ("xfs", "ext4")), tmp_path / "state", tmp_path / "config.toml"
    file.write_text(f'[job.web]\nsource = "{pair.source}"\ntarget = "{pair.target}"\nperiod = "1d"\n')
    words, env = ("run", "--now", "--config", file), {"SNAPSYNC_STATE_DIR": state}
    assert run(*words, env=env).code == 0
    assert state.stat().st_mode & 0o7777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in state.iterdir()} == {0o600}
    # A link that leads elsewhere is neither read nor written.
    precious = tmp_path / "precious"
    precious.write_text("as it was")
    for name in ("jobs.json", "lock"):
        (state / name).unlink()
        (state / name).symlink_to(precious)
    assert run(*words, env=env).code != 0
    assert precious.read_text() == "as it was"
    for mode in (0o777, 0o1777, 0o770):
        state.chmod(mode)
        assert_told(run(*words, env=env), str(state), "chmod", codes=(3,))
    state.chmod(0o700)
    os.chown(state, SOMEBODY, -1)
    assert_told(run(*words, env=env), f"belongs to user {SOMEBODY}", codes=(3,))


# --- the way to another machine -------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    from remote import sshd

    with sshd() as running:
        yield running


@pytest.mark.parametrize("what", ["program", "identity", "option", "configuration"])
def test_root_starts_no_program_and_takes_no_identity_that_others_can_write(
    server: Server, place: Place, tmp_path: Path, what: str
) -> None:
    pair, client = Pair.make(place, ("ext4", "xfs")), server.client()
    (pair.source / "file").write_text("content")
    program, file = tmp_path / "my-ssh", tmp_path / "named"
    program.write_text(f'#!/bin/sh\nexec ssh -F {client.config} "$@"\n')
    program.chmod(0o755)
    file.write_text("")
    rsh, more = {
        "program": (str(program), ()),
        "identity": (f"{program} -i{file}", ()),
        "option": (str(program), ("-o", f"CertificateFile={file}")),
        "configuration": (f"{program} -F {file}", ()),
    }[what]
    words = ("sync", pair.source, client.at(pair.target), *client.options, "--rsh", rsh, *more)
    culprit = program if what == "program" else file
    culprit.chmod(0o757)
    assert_told(run(*words, "-q"), str(culprit), "chmod go-w", codes=(3,))
    culprit.chmod(0o755)
    os.chown(culprit, SOMEBODY, -1)
    assert_told(run(*words, "-q"), f"{culprit} belongs to user {SOMEBODY}", codes=(3,))
    assert not pair.target.exists()
    os.chown(culprit, 0, -1)
    if what in ("program", "option"):
        done(*words)
        assert_same(pair.source, pair.target)


@pytest.fixture
def _found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is where programs are looked for."""
    monkeypatch.setenv("PATH", f"{Path(command()[0]).parent}:{os.environ['PATH']}")


# --- units ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_found")
@pytest.mark.parametrize("bad", ["a\nExecStart=/bin/evil", "a\x1b", "a\u202eb", "a\udcff", "a\u2028b"])
def test_nothing_ends_a_line_of_a_unit(bad: str) -> None:
    jobs = {"web": config.Job("web", f"/usr/{bad}", "/b", period=60)}
    found = config.Config(jobs, (Path("/etc/snapsync/config.toml"),))
    with pytest.raises(UsageError, match="cannot be written into a unit"):
        service.units(found, user=False, config=None)
    with pytest.raises(UsageError, match="cannot be written into a unit"):
        service.units(
            config.Config({"web": config.Job("web", "/a", "/b", 60)}, ()), user=True, config=Path(f"/{bad}")
        )


@pytest.mark.usefixtures("_found")
@pytest.mark.parametrize("name", ['a b"c', "100%n", "$HOME", r"b\x20\\c", "'q' ;", "-+", "é"])
def test_systemd_opens_the_places_that_jobs_name(name: str) -> None:
    need("systemd-analyze")
    jobs = {"web": config.Job("web", f"/usr/local/{name}", "/b", period=60)}
    text = service.units(config.Config(jobs, ()), user=False, config=None)["snapsync@web.service"]
    line = next(line for line in text.splitlines() if line.startswith("ReadWritePaths="))
    # systemd's own reader of words that may be quoted.
    assert read_as_systemd(line.removeprefix("ReadWritePaths=")) == [f"-/usr/local/{name}"]


def read_as_systemd(line: str) -> list[str]:
    """The words of a list of paths: quotes and backslashes are undone, then specifiers."""
    return [word.replace("%%", "%") for word in shlex.split(line)]


def test_a_job_has_a_short_name(folder: Path) -> None:
    file = folder / "config.toml"
    for name in ("x" * 65, '"a b"', '"a\\nb"', '"-x"', '"é"'):
        file.write_text(JOB.replace("web", name))
        assert_told(run("run", "--config", file), "cannot be the name of a job", codes=(2,))


def test_a_command_of_a_configuration_is_one_line(folder: Path) -> None:
    file = folder / "config.toml"
    for line in ('rsh = "ssh\\nx"', 'remote_path = "a\\u001bb"', 'ssh_options = ["A=b\\rC"]'):
        file.write_text(JOB + line)
        assert_told(run("run", "--config", file), line.split()[0], "control characters", codes=(2,))


# --- what monitoring is told ----------------------------------------------------------------------

ODD = ['q"uo\\te', "line\nend", "b\udcffad", "pi|pe=1;'x", "tab\t\x1b[2J", "é\u202e\u2028"]


@pytest.mark.parametrize("name", ODD)
def test_a_metric_holds_any_name(tmp_path: Path, name: str) -> None:
    file = tmp_path / "snapsync.prom"
    file.symlink_to(tmp_path / "elsewhere")
    prometheus.write(file, [Lag(name, name, f"/mnt/{name}", 3, 5.0)], [], state.now())
    assert file.stat().st_mode & 0o777 == 0o644
    assert not file.is_symlink()
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    families = {family.name: family for family in text_string_to_metric_families(file.read_text("utf-8"))}
    [sample] = families["snapsync_lag_snapshots"].samples
    shown = name.replace("\udcff", "\\xff")
    assert sample.labels == {"name": shown, "source": shown, "target": f"/mnt/{shown}"}


@pytest.mark.parametrize("name", ODD)
def test_a_plugins_answer_is_one_line_with_numbers_of_its_own(name: str) -> None:
    lag = Lag(name, name, name, 3, 5.0, problem=f"it | {name}")
    line = monitoring.plugin_line([lag], 60)
    assert line.isprintable()
    text, numbers = line.split("|")
    assert text.startswith("SNAPSYNC WARNING - ")
    assert shlex.split(numbers)[0].endswith("=5s;;60")
    assert numbers.count("=") == 1


def test_a_plugin_that_cannot_tell_says_so_in_one_line(tmp_path: Path) -> None:
    ran = run("status", tmp_path / "no | 'x'=1\nvolume", "--max-lag", "1m")
    assert ran.code == 3
    assert ran.out.startswith("SNAPSYNC UNKNOWN - ")
    assert ran.out.count("\n") == 1
    assert "|" not in ran.out
