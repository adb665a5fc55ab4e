"""Databases that are in use while their files are snapshot: what is restored starts, and is consistent.

The recipes are those of docs/databases.md.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from machine import Place, done, missing, need, sh, wait_until

SESSION = Path(__file__).parent.parent / "contrib/database-session"
ROWS, SUM = 200, 20_000


# --- SQLite -----------------------------------------------------------------------------------


def make_accounts(file: Path, mode: str) -> None:
    with sqlite3.connect(file) as database:
        database.execute(f"PRAGMA journal_mode = {mode}")
        database.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER, filler TEXT)")
        rows = [(i, SUM // ROWS, "x" * 2000) for i in range(ROWS)]
        database.executemany("INSERT INTO account VALUES (?, ?, ?)", rows)
    database.close()


@contextmanager
def transfers(file: Path) -> Iterator[list[int]]:
    """Money moves about for as long as this lasts: the sum of all accounts never changes."""
    stop, count = threading.Event(), [0]

    def work() -> None:
        database = sqlite3.connect(file, timeout=60, isolation_level=None)
        database.execute("PRAGMA wal_autocheckpoint = 20")
        while not stop.is_set():
            one, other = count[0] * 7 % ROWS, count[0] * 13 % ROWS
            database.execute("BEGIN IMMEDIATE")
            for account, by in ((one, -5), (other, 5)):
                changed = "UPDATE account SET balance = balance + ?, filler = ? WHERE id = ?"
                database.execute(changed, (by, str(count[0]) * 400, account))
            database.execute("COMMIT")
            count[0] += 1
            # SQLite lets others in by chance alone: without a pause they might never get in.
            time.sleep(0.005)
        database.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        wait_until(lambda: count[0] > 20)
        yield count
    finally:
        stop.set()
        thread.join()


def is_consistent(file: Path) -> bool:
    database = sqlite3.connect(file)
    try:
        check = database.execute("PRAGMA integrity_check").fetchone()[0]
        total = database.execute("SELECT sum(balance), count(*) FROM account").fetchone()
    except sqlite3.DatabaseError:
        return False
    finally:
        database.close()
    return bool(check == "ok" and total == (SUM, ROWS))


@pytest.mark.parametrize("kind", ["btrfs", "xfs", "ext4"])
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_an_sqlite_database_in_use_is_consistent_after_a_restore(
    place: Place, kind: str, mode: str, tmp_path: Path
) -> None:
    need("sqlite3", "setsid")
    source, target = place(kind), place.absent("btrfs")
    done("init", source, "--history=full")
    make_accounts(source / "bank.db", mode)
    state = tmp_path / "session"
    hooks = [
        f"--before-snapshot={SESSION} begin {state} sqlite {source}/bank.db",
        f"--after-snapshot={SESSION} end {state} sqlite",
    ]
    with transfers(source / "bank.db") as count:
        for name in ("one", "two", "three"):
            done("sync", source, target, "--name", name, *hooks)
            was = count[0]
            wait_until(lambda was=was: count[0] > was + 5)
    assert not state.exists()
    for name in ("one", "two", "three"):
        restored = place.absent(kind)
        done("restore", f"{target}@{name}", "--to", restored)
        assert is_consistent(restored / "bank.db")


def test_the_copy_that_a_hook_makes_of_an_sqlite_database_needs_no_lock(place: Place) -> None:
    source, target = place("xfs"), place.absent("btrfs")
    done("init", source, "--history=full")
    make_accounts(source / "bank.db", "wal")
    copy = source / "copy.db"
    with transfers(source / "bank.db"):
        hook = ["sqlite3", str(source / "bank.db"), f"VACUUM INTO '{copy}'"]
        done(
            "sync", source, target, f"--before-snapshot={shlex.join(hook)}", "--after-snapshot", f"rm {copy}"
        )
    assert is_consistent(target / "copy.db")
    assert not copy.exists()


# --- PostgreSQL -------------------------------------------------------------------------------


def programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not found:
        missing("a PostgreSQL server (postgresql)")
    if os.geteuid() != 0:
        missing("root, to run a server as another user")
    return found[-1].parent


class Server:
    """A PostgreSQL of the test's own, run by the user of Debian's package."""

    def __init__(self, data: Path) -> None:
        self.data, self.bin = data, programs()
        self.home = Path(tempfile.mkdtemp(prefix="pg-"))
        shutil.chown(self.home, "postgres", "postgres")

    def as_user(self, *words: object) -> list[str]:
        return ["runuser", "-u", "postgres", "--", "env", f"PGHOST={self.home}", *map(str, words)]

    def do(self, program: str, *words: object) -> str:
        ran = subprocess.run(
            self.as_user(self.bin / program, *words), capture_output=True, text=True, cwd="/", timeout=300
        )
        log = self.home / "log"
        assert ran.returncode == 0, (ran, log.read_text() if log.exists() else "")
        return ran.stdout

    def make(self, *settings: str) -> None:
        self.data.mkdir()
        shutil.chown(self.data, "postgres", "postgres")
        self.do("initdb", "-D", self.data, "--data-checksums", "-A", "trust")
        with (self.data / "postgresql.conf").open("a") as file:
            file.write("\n".join(settings) + "\n")

    def start(self) -> None:
        words = f"-c listen_addresses='' -c unix_socket_directories='{self.home}'"
        # pg_ctl leaves the server in the background, with what it was given.
        command = [
            "pg_ctl",
            "-D",
            self.data,
            "-l",
            self.home / "log",
            "-o",
            words,
            "-w",
            "-t",
            "120",
            "start",
        ]
        with (self.home / "start").open("w") as out:
            ran = subprocess.run(
                self.as_user(self.bin / command[0], *command[1:]),
                stdout=out,
                stderr=out,
                cwd="/",
                timeout=300,
            )
        log = (self.home / "log").read_text() if (self.home / "log").exists() else ""
        assert ran.returncode == 0, log[-3000:]

    def stop(self) -> None:
        if (self.data / "postmaster.pid").exists():
            self.do("pg_ctl", "-D", self.data, "-m", "fast", "-w", "stop")

    def ask(self, query: str) -> str:
        return self.do("psql", "-X", "-A", "-t", "-d", "postgres", "-c", query).strip()

    def make_bank(self) -> None:
        self.do("pgbench", "-i", "-q", "-s", 2, "postgres")

    @contextmanager
    def at_work(self) -> Iterator[None]:
        words = ["-c", "2", "-T", "600", "-n", "postgres"]
        bench = subprocess.Popen(
            self.as_user(self.bin / "pgbench", *words),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
        )
        try:
            wait_until(lambda: int(self.ask("SELECT count(*) FROM pgbench_history")) > 50)
            yield
            assert bench.poll() is None, "the benchmark ended before the snapshot did"
        finally:
            bench.terminate()
            bench.wait()

    def expect_consistent(self) -> None:
        """All that pgbench has ever done is there as a whole or not at all, and every page is right."""
        tables = {"accounts": "abalance", "tellers": "tbalance", "branches": "bbalance", "history": "delta"}
        sums = {self.ask(f"SELECT sum({column}) FROM pgbench_{name}") for name, column in tables.items()}
        assert len(sums) == 1, sums
        assert int(self.ask("SELECT count(*) FROM pgbench_history")) > 50
        self.ask("CREATE EXTENSION IF NOT EXISTS amcheck")
        self.do("pg_amcheck", "-d", "postgres", "--heapallindexed")
        self.stop()
        self.do("pg_checksums", "--check", "-D", self.data)


def reachable(path: Path) -> None:
    """Lets the server's user come to a directory of the test's."""
    for above in (path, *path.parents):
        if above.stat().st_mode & 0o005 != 0o005:
            above.chmod(0o755)


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    made: list[Server] = []
    yield made
    for server in made:
        server.stop()
        shutil.rmtree(server.home)


@pytest.mark.parametrize("hook", [True, False])
def test_a_postgresql_in_use_on_btrfs_starts_from_a_snapshot_as_after_a_crash(
    place: Place, servers: list[Server], hook: bool
) -> None:
    source, target = place("btrfs"), place.absent("btrfs")
    reachable(source)
    server = Server(source / "data")
    servers.append(server)
    server.make()
    server.start()
    server.make_bank()
    checkpoint = shlex.join(server.as_user("psql", "-X", "-q", "-c", "CHECKPOINT"))
    with server.at_work():
        for name in ("one", "two"):
            done(
                "sync", source, target, "--name", name, *([f"--before-snapshot={checkpoint}"] if hook else [])
            )
    restored = place.absent("btrfs")
    done("restore", f"{target}@two", "--to", restored)
    reachable(restored)
    again = Server(restored / "data")
    servers.append(again)
    (again.data / "postmaster.pid").unlink()
    again.start()
    again.expect_consistent()


def test_a_postgresql_in_use_on_xfs_is_restored_with_its_label_and_its_archive(
    place: Place, servers: list[Server]
) -> None:
    """A snapshot on XFS is not of one moment: the archive has what makes it one."""
    source, target = place("xfs"), place.absent("btrfs")
    reachable(source)
    done("init", source, "--history=full")
    server = Server(source / "data")
    servers.append(server)
    for name in ("archive", "labels"):
        (source / name).mkdir()
        shutil.chown(source / name, "postgres", "postgres")
    server.make("archive_mode = on", f"archive_command = 'cp %p {source}/archive/%f'")
    server.start()
    server.make_bank()
    state, session = server.home / "session", server.home / "database-session"
    shutil.copy(SESSION, session)
    session.chmod(0o755)
    begin = server.as_user(session, "begin", state, "postgresql")
    end = server.as_user(session, "end", state, "postgresql", source / "labels")
    hooks = [f"--before-snapshot={shlex.join(begin)}", f"--after-snapshot={shlex.join(end)}"]
    with server.at_work():
        done("sync", source, target, "--name", "one", *hooks)
        # What is written when the backup has ended is in the next snapshot.
        done("sync", source, target, "--name", "two", *hooks)
    restored = place.absent("xfs")
    done("restore", f"{target}@one", "--to", restored)
    reachable(target)
    reachable(restored)
    again = Server(restored / "data")
    servers.append(again)
    (again.data / "postmaster.pid").unlink()
    sh("install", "-o", "postgres", "-m", "600", target / "labels/one", again.data / "backup_label")
    with (again.data / "postgresql.conf").open("a") as file:
        file.write("archive_mode = off\nrecovery_target = 'immediate'\nrecovery_target_action = 'promote'\n")
        file.write(f"restore_command = 'cp {target}/archive/%f %p'\n")
    sh("install", "-o", "postgres", "-m", "600", "/dev/null", again.data / "recovery.signal")
    again.start()
    wait_until(lambda: again.ask("SELECT pg_is_in_recovery()") == "f")
    again.expect_consistent()
