"""`snapsync service`: units with which systemd runs the jobs."""

import os
import pwd
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path

import snapsync
from snapsync import _native, render
from snapsync.cli.arguments import ConfigFile, path
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import verb
from snapsync.declare import Annotated, Argument, Option
from snapsync.errors import ExitCode, UsageError, told
from snapsync.jobs.reports import ServiceReport, Unit
from snapsync.jobs.unit_files import MARK, are_as_written, is_own, signed, written

TYPE_CHECKING = False
if TYPE_CHECKING:
    from snapsync.jobs.config import Config, Job

_SERVICE = "snapsync.service"
# Of each job, and of all together, as --watch has it and older versions had it.
_OWN = ("snapsync@*.service", "snapsync@*.timer", _SERVICE, "snapsync.timer")


class ServiceAction(StrEnum):
    """What to do with the service."""

    INSTALL = "install"
    UNINSTALL = "uninstall"


@verb(
    place=260,
    examples=[
        "snapsync service install",
        "snapsync service install --user --config ~/jobs.toml --dry-run",
        "snapsync service uninstall",
    ],
)
def service(
    output: Output,
    action: Annotated[ServiceAction, Argument(help="Write the units, or remove them.")],
    user: Annotated[bool, Option("--user", help="For your own service manager, not the machine's.")] = False,
    run_as: Annotated[
        str | None,
        Option(
            "--run-as", metavar="USER", help="Run as this user, who may read every file, and not as root."
        ),
    ] = None,
    config: ConfigFile = None,
    watch: Annotated[
        bool, Option("--watch", help="One service that stays, for rounds every few seconds; no timer.")
    ] = False,
    directory: Annotated[
        "Path | None",
        Option("--dir", read=path, metavar="DIR", help="Where units are kept, if not in the usual place."),
    ] = None,
    force: Annotated[
        bool, Option("--force", help="Also replace or remove units that were changed by hand.")
    ] = False,
    dry_run: Annotated[bool, Option("--dry-run", "-n", help="Only show what would be written.")] = False,
) -> int:
    """Let systemd run the jobs of the configuration.

    Writes for each job that has a period or a calendar snapsync@JOB.service, which runs it if it is due, and
    snapsync@JOB.timer, which starts that every minute, or as often as its period says: so a slow job holds up
    no other. A service waits for the mounts of its job, and starts the unit that the key on_failure names
    where a round fails. With --watch one snapsync.service does `snapsync run --watch` instead, without a
    timer. Nothing is enabled: the commands that do so are shown. Units of jobs that are gone are removed.

    With --run-as the service has CAP_DAC_READ_SEARCH and no other right of root's. That is enough to send a
    tree of others, on any file system but Btrfs, once root has made it a volume and given its store to that
    user; a standby on this machine has to be the user's own, and goes without owners, devices and what else
    only root can set.

    A job with a log in an object store needs credentials: its key environment names a file of them. What is
    changed with `systemctl edit` stays as it is. A unit whose own file was changed by hand is neither
    replaced nor removed, but with --force.
    """
    from snapsync.jobs.config import load

    if run_as is not None:
        _is_user(run_as, user=user)
    home = _home(user) if directory is None else directory.absolute()
    if action is ServiceAction.INSTALL:
        texts = units(load(config), user=user, run_as=run_as, config=config, watch=watch)
        report = _install(home, texts, user=user, force=force, dry_run=dry_run)
    else:
        report = _uninstall(home, user=user, force=force, dry_run=dry_run)
    output.summary(report, _lines(report))
    return ExitCode.DONE


def units(
    found: "Config", *, user: bool, config: Path | None, run_as: str | None = None, watch: bool = False
) -> dict[str, str]:
    """The text of each unit by its name. Those that end in `.timer` are to be enabled, or the only one."""
    jobs = [job for job in found.lasting() if job.is_scheduled]
    if not jobs:
        message = f"no job in {' and '.join(map(str, found.files))} has a period, or a time in `when`"
        raise told(UsageError(message), message, 'say how often it is to run, as in period = "15m"')
    program = _program()
    if not user:
        _is_safe(program)
    writer = _Writer(program, config, user=user, run_as=run_as)
    if watch:
        return {_SERVICE: signed(writer.resident(jobs))}
    texts = {}
    for job in jobs:
        texts[f"snapsync@{job.name}.timer"] = signed(writer.timer(job))
        texts[f"snapsync@{job.name}.service"] = signed(writer.service(job))
    return texts


class _Writer:
    """Writes the texts of units."""

    def __init__(self, program: str, config: Path | None, *, user: bool, run_as: str | None) -> None:
        self._program, self._config = program, config
        self._user, self._run_as = user, run_as

    def resident(self, jobs: "Sequence[Job]") -> str:
        """The service that stays, and runs all jobs."""
        about = ["Description=Keep standby copies of file systems in step with their primaries"]
        install = ["", "[Install]", f"WantedBy={'default' if self._user else 'multi-user'}.target"]
        return self._text(about, [*_RESIDENT, *self._work(jobs, "--watch", [])], install)

    def service(self, job: "Job") -> str:
        """The service that runs one job if it is due."""
        mounts = " ".join(_quoted(place) for place in sorted(_directories([job])))
        about = [
            f"Description=Keep {_plain(job.target)} in step with {_plain(job.source)}",
            *([f"RequiresMountsFor={mounts}"] if mounts else []),
            *([f"OnFailure={job.on_failure}"] if job.on_failure else []),
        ]
        return self._text(about, ["Type=oneshot", *self._work([job], "--due", ["--", job.name])], [])

    def timer(self, job: "Job") -> str:
        """The timer that starts it. The service itself knows whether it is due."""
        return _TIMER_TEXT.format(mark=MARK, name=job.name, seconds=min(60, job.period or 60))

    def _text(self, about: Sequence[str], service: Sequence[str], install: Sequence[str]) -> str:
        network = (
            []
            if self._user
            else ["Wants=network-online.target", "After=network-online.target local-fs.target"]
        )
        unit = [MARK, "[Unit]", *about, "StartLimitIntervalSec=0", *network]
        return "\n".join([*unit, "", "[Service]", *service, *install, ""])

    def _work(self, jobs: "Sequence[Job]", how: str, named: Sequence[str]) -> Iterator[str]:
        """The settings of a service that runs jobs."""
        configured = ["--config", str(self._config.absolute())] if self._config else []
        line = [_quoted(self._program), *map(_argument, ["run", how, *configured, *named])]
        yield from _STOPPING
        yield f"ExecStart={' '.join(line)}"
        yield from _CONFINED_USER
        if not self._user:
            yield from _CONFINED
            run_as = self._run_as
            yield from _RIGHTS if run_as is None else _RIGHTS_OF_USER.format(user=run_as).splitlines()
            yield from _openings(jobs)


def _plain(text: str) -> str:
    """A place as systemd shows it, with nothing in it that it would replace."""
    return render.name(text).replace("%", "%%").rstrip("\\")


def _directories(jobs: "Iterable[Job]") -> set[str]:
    """What jobs read and write on this machine."""
    from snapsync.jobs.config import directory_of

    named = {directory_of(place) for job in jobs for place in (job.source, job.target)}
    return {directory for directory in named if directory is not None}


# 5 is its exit code where it was told to stop.
_RESIDENT = """Type=exec
Restart=always
RestartSec=10s
SuccessExitStatus=5""".splitlines()

_STOPPING = """# Only `snapsync run` is told to stop: it stops the rounds, and the connections outlive them.
KillMode=mixed
TimeoutStopSec=2min""".splitlines()

_CONFINED_USER = """NoNewPrivileges=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictRealtime=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0077""".splitlines()

# ProtectHome is not here: it keeps volumes from being written.
_CONFINED = """StateDirectory=snapsync
StateDirectoryMode=0700
ProtectSystem=full
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes""".splitlines()

# PrivateDevices and RestrictSUIDSGID are not here: they keep devices and setuid bits from being made.
_RIGHTS = """SystemCallFilter=@mount
CapabilityBoundingSet=CAP_SYS_ADMIN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_CHOWN CAP_FOWNER CAP_FSETID
CapabilityBoundingSet=CAP_MKNOD CAP_SETFCAP CAP_LINUX_IMMUTABLE CAP_MAC_ADMIN CAP_LEASE""".splitlines()

# Enough to read any tree: what is written is the user's own.
_RIGHTS_OF_USER = """User={user}
Environment=SNAPSYNC_STATE_DIR=%S/snapsync
PrivateDevices=yes
RemoveIPC=yes
RestrictSUIDSGID=yes
AmbientCapabilities=CAP_DAC_READ_SEARCH
CapabilityBoundingSet=CAP_DAC_READ_SEARCH"""

_TIMER_TEXT = """{mark}
[Unit]
Description=Look whether {name} is due

[Timer]
OnStartupSec=1min
OnUnitInactiveSec={seconds}s
AccuracySec=1s

[Install]
WantedBy=timers.target
"""


def _openings(jobs: "Iterable[Job]") -> Iterator[str]:
    """The settings that open, of the places that the sandbox closes, those that jobs need."""
    places = [Path(directory) for directory in _directories(jobs)]
    closed = [Path(path) for path in ("/usr", "/boot", "/efi", "/etc")]
    for place in sorted({place for place in places if any(top in place.parents for top in closed)}):
        # A target that does not exist yet is made in the directory above it.
        for opened in (place, place.parent):
            yield f"ReadWritePaths={_quoted(f'-{opened}')}"
    shared = [Path("/tmp"), Path("/var/tmp")]
    if not any(top in place.parents for top in shared for place in places):
        yield "PrivateTmp=yes"


def _quoted(word: str) -> str:
    """A word in the syntax of systemd. A word that would end the line, or is no text, is refused."""
    if not word.isprintable():
        message = (
            f"{word!r} cannot be written into a unit: it has characters that are not seen, or is no UTF-8"
        )
        raise told(
            UsageError(message), message, "choose a path of letters, digits and signs that can be seen"
        )
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    plain = escaped and not any(c.isspace() or c in "\\\"';" for c in escaped)
    return escaped if plain else f'"{escaped}"'


def _argument(word: str) -> str:
    """A word of a command line after the first: only in these systemd replaces variables."""
    return _quoted(word.replace("$", "$$"))


def _program() -> str:
    """The path of the command snapsync."""
    own = Path(sys.argv[0]).absolute()
    program = str(own) if own.name == "snapsync" and os.access(own, os.X_OK) else shutil.which("snapsync")
    if program is None:
        message = "the command snapsync is not found"
        raise told(UsageError(message), message, "start this as snapsync, from where it is installed")
    return program


def _is_user(name: str, *, user: bool) -> None:
    if user:
        message = "your own service manager runs everything as you"
        raise told(UsageError(message), message, "leave out --user or --run-as")
    try:
        pwd.getpwnam(name)
    except KeyError:
        message = f"there is no user {name!r}"
        advice = f"`useradd --system {name}` makes one" if name.isalnum() else "name one that there is"
        raise told(UsageError(message), message, advice) from None


def _is_safe(program: str) -> None:
    """Refuse a service of root's whose command, Python or package another user can change."""
    for part in (program, sys.executable, str(Path(str(snapsync.__file__)).parent)):
        os.close(_native.trusted("the program", part))


def _home(user: bool) -> Path:
    if not user:
        return Path("/etc/systemd/system")
    from snapsync.jobs import own

    his = own.config_home()
    if his is None:
        message = "this user has no home for units"
        raise told(UsageError(message), message, "name a directory with --dir")
    return his / "systemd/user"


def _install(home: Path, texts: dict[str, str], *, user: bool, force: bool, dry_run: bool) -> ServiceReport:
    from snapsync.jobs.state import write

    for name in (*texts, _SERVICE, "snapsync.timer"):
        is_own(home / name)
    there = written(home, _OWN)
    if not force:
        are_as_written(there, _manager(user))
    superfluous = [file.name for file in there if file.name not in texts]
    if not dry_run:
        home.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write(home / name, text)
        for name in superfluous:
            (home / name).unlink()
    manager = _manager(user)
    enabled = [name for name in texts if name.endswith(".timer")] or list(texts)
    commands = (
        *([f"{manager} disable --now {' '.join(superfluous)}"] if superfluous else []),
        f"{manager} daemon-reload",
        f"{manager} enable --now {' '.join(enabled)}",
    )
    made = [Unit(str(home / name), text) for name, text in texts.items()]
    gone = [Unit(str(home / name), None) for name in superfluous]
    return ServiceReport("install", (*made, *gone), commands, dry_run)


def _uninstall(home: Path, *, user: bool, force: bool, dry_run: bool) -> ServiceReport:
    there = written(home, _OWN)
    if not there:
        for name in (_SERVICE, "snapsync.timer"):
            is_own(home / name)
        message = f"there are no units of snapsync in {home}"
        raise told(UsageError(message), message, "name their directory with --dir, or use --user")
    if not force:
        are_as_written(there, _manager(user))
    if not dry_run:
        for file in there:
            file.unlink()
    manager = _manager(user)
    commands = (f"{manager} stop {' '.join(file.name for file in there)}", f"{manager} daemon-reload")
    return ServiceReport("uninstall", tuple(Unit(str(file), None) for file in there), commands, dry_run)


def _manager(user: bool) -> str:
    return "systemctl --user" if user else "systemctl"


def _lines(report: ServiceReport) -> Iterator[str]:
    for unit in report.units:
        did = "removed" if unit.text is None else "wrote"
        if report.dry_run and unit.text is not None:
            yield f"--- {unit.path}"
            yield unit.text
        else:
            yield f"{'would have ' if report.dry_run else ''}{did} {unit.path}"
    yield "next:"
    for command in report.commands:
        yield f"  {command}"
