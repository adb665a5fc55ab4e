"""What is done on a first day, and what is said about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """Something said, or a command that has to end with `code` on a machine."""

    prose: str = ""
    machine: str = ""
    command: str = ""
    code: int = 0
    is_hidden: bool = False
    until: bool = False
    power: bool | None = None
    copied: tuple[str, str] | None = None
    as_file: str = ""


def say(prose: str) -> Step:
    return Step(prose=prose.strip())


def files(command: str, code: int = 0) -> Step:
    return Step(machine="files", command=command.strip(), code=code)


def backup(command: str, code: int = 0) -> Step:
    return Step(machine="backup", command=command.strip(), code=code)


def quietly(step: Step) -> Step:
    """The same, and nothing of it is shown."""
    return Step(machine=step.machine, command=step.command, code=step.code, is_hidden=True)


def until(step: Step) -> Step:
    """Waits for it to succeed."""
    return Step(machine=step.machine, command=step.command, until=True)


def shown(machine: str, path: str, text: str) -> Step:
    """A file with this text, which is written and shown."""
    write = f"mkdir -p $(dirname {path}); cat > {path} <<'THE_END'\n{text.strip()}\nTHE_END\ncat {path}"
    return Step(machine=machine, command=write, as_file=path)


def copied(path: str, to: str) -> Step:
    """A file of `files` that somebody takes to `backup`."""
    return Step(machine="files", copied=(path, to))


def power(machine: str, *, is_on: bool) -> Step:
    return Step(machine=machine, power=is_on)


def steps() -> Iterator[Step]:
    for part in (_install, _pair, _jobs, _schedule, _hook, _full, _wiped, _lost, _failover):
        yield from part()


def _install() -> Iterator[Step]:
    yield say("""
# A first day

Two clean Debian machines, `files` and `backup`, with nothing of snapsync but its package. `files` has a Btrfs at `/srv` and a USB disk with ext4 at `/mnt/usb`; `backup` has a small XFS at `/standby`. All that is
shown here was printed when `scripts/first-day` did it; it does so again with each change of the program. The commands are root's.

## Install
""")
    for name in (files, backup):
        yield quietly(name("apt-get install -y --no-install-recommends ./snapsync.deb"))
    yield say("`apt install ./snapsync_0.1.0_amd64.deb` on both. Then `man snapsync` tells the rest.")
    yield files("snapsync --version && man -w snapsync snapsync.toml")
    yield say(
        "What is there to lose: a web server's files and the papers of an office, each in a subvolume of its own."
    )
    yield quietly(
        files(
            "btrfs -q subvolume create /srv/web; btrfs -q subvolume create /srv/office; "
            "mkdir -p /srv/web/html /srv/office/plans /srv/office/letters; "
            "for n in $(seq 300); do echo page $n > /srv/web/html/$n.html; done; "
            "for n in $(seq 400); do head -c 20000 /dev/urandom > /srv/office/letters/$n.odt; done; "
            "head -c 300000 /dev/urandom > /srv/office/plans/floor-plan.odt"
        )
    )
    yield files("ls /srv /srv/office && du -sh /srv/web /srv/office")


def _pair() -> Iterator[Step]:
    yield say("""
## A key that can do one thing

The office has its standby on `backup`. The key of `files` starts `snapsync serve` there and nothing else: it sends to `/standby`, and may let old snapshots go.
""")
    yield files("ssh-keygen -q -t ed25519 -N '' -C files -f /root/.ssh/id_ed25519")
    yield quietly(until_it_answers())
    yield copied("/root/.ssh/id_ed25519.pub", "/root/files.pub")
    line = 'command="snapsync serve --restrict-to /standby --receive-only --allow-prune",restrict'
    yield backup(f"install -d -m 700 /root/.ssh\necho '{line}' $(cat files.pub) > /root/.ssh/authorized_keys")


def until_it_answers() -> Step:
    return files(
        "for n in $(seq 60); do ssh-keyscan backup 2>/dev/null > /root/.ssh/known_hosts; "
        "[ -s /root/.ssh/known_hosts ] && break; sleep 1; done"
    )


CONFIG = """
[defaults]
keep = { last = 5, daily = 14 }
notify = { command = ["/usr/local/bin/tell"] }
guard = { deleted = "25%" }

[job.office]
source = "/srv/office"
target = "root@backup:/standby/office"
period = "15m"

[job.web]
source = "/srv/web"
target = "/mnt/usb/web"
when = "daily 03:00"
"""


TELL = """
#!/bin/sh
echo "$SNAPSYNC_EVENT of $SNAPSYNC_JOB: $SNAPSYNC_ERROR" >> /var/log/told
"""


def _jobs() -> Iterator[Step]:
    yield say("""
## Two jobs

The web server's files go to the disk in the same machine once a night, those of the office over ssh every quarter of an hour. Whoever is to hear of trouble gets a line in a file here; `mail = "root@example.org"` is as easy.
""")
    yield shown("files", "/etc/snapsync/config.toml", CONFIG)
    yield shown("files", "/usr/local/bin/tell", TELL)
    yield quietly(files("chmod 755 /usr/local/bin/tell"))
    yield files("snapsync run --dry-run")
    yield files("snapsync run")
    yield files("snapsync run --dry-run")
    yield backup("ls /standby/office && ls /standby/office/letters | wc -l")
    yield files("snapsync verify /srv/web /mnt/usb/web")


def _schedule() -> Iterator[Step]:
    yield say("""
## By themselves

`service install` writes units for each job, and says what to do next.
""")
    yield files("snapsync service install")
    yield files("systemctl daemon-reload && systemctl enable --now snapsync@office.timer snapsync@web.timer")
    yield quietly(files("systemctl start snapsync@office.service"))
    yield files("systemctl list-unit-files 'snapsync@*' --no-legend --no-pager")
    yield files("snapsync status")
    yield quietly(files("systemctl stop snapsync@office.timer snapsync@web.timer"))


def _hook() -> Iterator[Step]:
    yield say("""
## A hook that fails

The web server's files must not be copied while somebody puts a new version there. A hook says whether that is so.
""")
    yield shown(
        "files",
        "/usr/local/bin/nobody-deploys",
        """
#!/bin/sh
[ ! -e /srv/web/.deploying ] || { echo "a new version is being put there"; exit 1; }
""",
    )
    yield files(
        "chmod 755 /usr/local/bin/nobody-deploys\n"
        "printf '[job.web.hooks]\\nbefore = [\"/usr/local/bin/nobody-deploys\"]\\n' >> /etc/snapsync/config.toml\n"
        "touch /srv/web/.deploying\n"
        "snapsync run web",
        code=1,
    )
    yield files("cat /var/log/told")
    yield files("rm /srv/web/.deploying; snapsync run web")


def _full() -> Iterator[Step]:
    yield say("""
## A full standby

Somebody keeps films on `backup`, and there is no room any more. The round is refused before anything is written; the standby stays what it was.
""")
    yield quietly(backup("fallocate -l $(($(stat -f -c '%a * %S' /standby) - 3000000)) /standby/films"))
    yield quietly(files("head -c 20000000 /dev/urandom > /srv/office/scans.tif"))
    yield files("snapsync run office", code=3)
    yield backup("rm /standby/films\nsnapsync list /standby/office")
    yield files("snapsync run office")


def _wiped() -> Iterator[Step]:
    yield say("""
## A mass deletion

A script with a wrong variable removes the letters. The guard of the job stops at the first machine: nothing is deleted on `backup`.
""")
    yield files("rm -rf /srv/office/letters\nsnapsync run office", code=3)
    yield backup("ls /standby/office/letters | wc -l")
    yield say(
        "They are brought back from the snapshot before, which is here on Btrfs, and the next round is an ordinary one."
    )
    yield files("snapsync restore /srv/office@latest letters")
    yield files("snapsync run office")
    yield files("cat /var/log/told")


def _lost() -> Iterator[Step]:
    yield say("""
## A lost file

"The floor plan is gone, since when I do not know. And somebody has renamed the directory."
""")
    yield quietly(
        files(
            "mv /srv/office/plans /srv/office/drawings; rm /srv/office/drawings/floor-plan.odt; touch /srv/office/drawings/new"
        )
    )
    yield quietly(files("snapsync run office"))
    yield files("snapsync find /srv/office '*plan*' --deleted")
    yield files("snapsync log /srv/office plans/floor-plan.odt")
    yield files(
        "snapsync restore /srv/office@-1 plans/floor-plan.odt --to /root/found && ls -l /root/found/plans"
    )


def _failover() -> Iterator[Step]:
    yield say("""
## Losing the machine

`files` dies. `backup` has what its last round brought, takes over, and people work there.
""")
    yield power("files", is_on=False)
    yield backup("snapsync status /standby/office")
    yield backup("snapsync promote /standby/office\necho 'written on backup' > /standby/office/note.txt")
    yield say("""
`files` is repaired and comes back. It does not know yet that it was replaced; `backup` makes it its standby, and keeps what only the old primary had. For this `backup` needs a key of its own on `files`.
""")
    yield power("files", is_on=True)
    yield quietly(backup("ssh-keygen -q -t ed25519 -N '' -C backup -f /root/.ssh/id_ed25519"))
    yield Step(machine="backup", copied=("/root/.ssh/id_ed25519.pub", "/root/.ssh/authorized_keys"))
    yield quietly(
        backup(
            "for n in $(seq 60); do ssh-keyscan files 2>/dev/null > /root/.ssh/known_hosts; "
            "[ -s /root/.ssh/known_hosts ] && break; sleep 1; done"
        )
    )
    yield backup("snapsync rejoin root@files:/srv/office /standby/office")
    yield files("cat /srv/office/note.txt && snapsync status /srv/office")
    yield say("""
Another day they change back as planned: `snapsync switch` on `backup`, and no change is lost ([failover.md](failover.md)).
""")
    yield backup("snapsync switch /standby/office root@files:/srv/office")
    yield files("snapsync run office")
