"""One table of the configuration may stand for several jobs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from configured import Jobs
from machine import Place, done, need, run, snapshots, start, wait_until
from oracle import assert_same

from snapsync.errors import UsageError
from snapsync.jobs import config


def load(place: Path, text: str) -> config.Config:
    file = place / "config.toml"
    file.write_text(text)
    file.chmod(0o600)
    return config.load(file)


def test_each_target_is_a_job_and_their_table_names_all(tmp_path: Path) -> None:
    found = load(tmp_path, '[job.web]\nsource = "/srv/web"\ntargets = ["/a", "backup:/b"]\nperiod = "1h"\n')
    assert [(job.name, job.target) for job in found.named(["web"])] == [
        ("web.1", "/a"),
        ("web.2", "backup:/b"),
    ]


def test_a_name_that_is_wrong_brings_up_the_table_and_no_other_home(tmp_path: Path) -> None:
    for name in ("anna", "carl m", "carla"):
        (tmp_path / "home" / name).mkdir(parents=True)
    text = (
        '[job.web]\nsource = "/srv/web"\ntargets = ["/a", "/b"]\n[job.mail]\nsource = "/m"\ntarget = "/n"\n'
    )
    text += f'[job.homes]\nsource = "{tmp_path}/home/*"\ntarget = "/mnt/{{name}}"\n'
    found = load(tmp_path, text)
    of_carl = next(name for name, job in found.jobs.items() if job.source.endswith("/carl m"))
    for name, advice in (
        ("webs", "did you mean web?"),
        ("mails", "did you mean mail?"),
        ("web.3", "`snapsync run web --dry-run` lists its jobs"),
        ("homes.ana", "did you mean homes.anna?"),
        ("homes.bob", "`snapsync run homes --dry-run` lists its jobs"),
        ("homes.carl m", f"the job of {tmp_path}/home/carl m is {of_carl}"),
        ("zzz", "the jobs are web, homes, mail"),
    ):
        with pytest.raises(UsageError) as raised:
            found.named([name])
        assert raised.value.advice == advice, name


def test_directories_that_come_are_jobs_and_those_that_go_are_told(tmp_path: Path) -> None:
    srv = tmp_path / "srv"
    text = f'[job.all]\nsource = "{srv}/*"\ntarget = "/standby/{{name}}"\nperiod = "1h"\n'
    assert load(tmp_path, text + 'part = "mail"\n').lasting()[0].source == str(srv)
    assert load(tmp_path, text).named(["all"]) == []
    for name in ("shop", "a b", ".hidden"):
        (srv / name).mkdir(parents=True)
    (srv / "link").symlink_to("shop")
    found = load(tmp_path, text)
    targets = {job.source: job.target for job in found.jobs.values()}
    assert targets == {f"{srv}/shop": "/standby/shop", f"{srv}/a b": "/standby/a b"}
    known = {job.name: job.source for job in found.jobs.values()}
    (srv / "shop").rmdir()
    assert load(tmp_path, text).gone(known) == {"all.shop": f"{srv}/shop"}
    assert [(job.name, job.source) for job in found.lasting()] == [("all", str(srv))]


@pytest.mark.parametrize(
    "keys",
    [
        'source = "/srv/x"\ntarget = "/a"\ntargets = ["/b"]',
        'source = "/srv/x"\ntargets = ["/b", "/b"]',
        'source = "/srv/x"\ntarget = "/a/{name}"',
        'source = "/*/x"\ntarget = "/a/{name}"',
        'source = "/srv/*"\ntarget = "/srv/{name}"',
    ],
)
def test_a_table_that_contradicts_itself_is_refused(keys: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        load(tmp_path, f"[job.x]\n{keys}\n")


def test_a_target_that_fails_stops_no_other(place: Place) -> None:
    home = place("ext4")
    jobs, source = Jobs(home), home / "primary"
    source.mkdir()
    (source / "file").write_text("content")
    (home / "file").write_text("no directory")
    good, bad = home / "good", home / "file/below"
    jobs.write(f'[job.web]\nsource = "{source}"\ntargets = ["{bad}", "{good}"]\nperiod = "1h"\n')
    ran = jobs.run("--json", "web")
    assert ran.code != 0
    assert {job["job"]: job["outcome"] for job in ran.json["jobs"]} == {"web.1": "failed", "web.2": "done"}
    assert_same(source, good)
    assert jobs.outcomes("web.2")["web.2"]["outcome"] == "done"


@pytest.mark.parametrize(
    "kinds", [("btrfs", "xfs", "ext4"), ("xfs", "btrfs", "xfs"), ("ext4", "xfs", "ext4")]
)
def test_a_standby_can_follow_the_promoted_standby_of_the_same_table(
    place: Place, kinds: tuple[str, str, str]
) -> None:
    source, first, second = place(kinds[0]), place.absent(kinds[1]), place.absent(kinds[2])
    jobs = Jobs(place("ext4"))
    jobs.write(f'[job.web]\nsource = "{source}"\ntargets = ["{first}", "{second}"]\nperiod = "1h"\n')
    for number in range(3):
        (source / f"file-{number}").write_text(f"{number}")
        outcomes = jobs.outcomes("web") if number else jobs.outcomes("--due")
        assert {job["outcome"] for job in outcomes.values()} == {"done"}
    # Whoever comes later, as the timer of the other target has it, brings what the first one took.
    for job in ("web.1", "web.2"):
        jobs.age(job, 4_000)
    (source / "late").write_text("late")
    for job in ("web.2", "web.1"):
        assert jobs.outcomes("--due", job)[job]["outcome"] == "done"
    assert jobs.state["web.1"]["good"] == jobs.state["web.2"]["good"]
    ids = [[snap["id"] for snap in snapshots(standby)] for standby in (first, second)]
    assert ids[0] == ids[1]
    assert len(ids[0]) == len(snapshots(source)) == 4
    done("promote", first)
    (first / "after").write_text("after")
    done("sync", first, second)
    assert_same(first, second)


def test_a_snapshot_that_cannot_be_shared_any_more_is_not(place: Place) -> None:
    """A light primary has the bytes of a snapshot only until they change."""
    source, standbys = place("ext4"), [place.absent("xfs"), place.absent("ext4")]
    jobs = Jobs(place("ext4"))
    jobs.write(
        f'[job.web]\nsource = "{source}"\ntargets = ["{standbys[0]}", "{standbys[1]}"]\nperiod = "1h"\n'
        f'[job.web.hooks]\nbefore = ["sh", "-c", "date +%N > {source}/changes"]\n'
    )
    for _ in range(2):
        assert {job["outcome"] for job in jobs.outcomes("web").values()} == {"done"}
    for standby in standbys:
        assert (standby / "changes").read_text()
    assert_same(
        source, standbys[0] if jobs.state["web.1"]["good"] > jobs.state["web.2"]["good"] else standbys[1]
    )


def test_what_a_round_by_hand_brings_is_never_older_than_it_was_asked_for(place: Place) -> None:
    source, standbys = place("btrfs"), [place.absent("xfs"), place.absent("xfs")]
    jobs = Jobs(place("ext4"))
    jobs.write(
        f'[job.web]\nsource = "{source}"\ntargets = ["{standbys[0]}", "{standbys[1]}"]\nperiod = "1h"\n'
    )
    jobs.outcomes("web.1")
    (source / "new").write_text("new")
    jobs.outcomes("web.2")
    assert_same(source, standbys[1])


def test_a_wildcard_follows_what_comes_and_goes(place: Place) -> None:
    home = place("ext4")
    jobs, srv, standby = Jobs(home), home / "srv", home / "standby"
    standby.mkdir()
    (srv / "one").mkdir(parents=True)
    (srv / "one/file").write_text("1")
    jobs.write(f'[job.all]\nsource = "{srv}/*"\ntarget = "{standby}/{{name}}"\nperiod = "1h"\n')
    assert jobs.outcomes()["all.one"]["outcome"] == "done"
    (srv / "two").mkdir()
    (srv / "two/file").write_text("2")
    outcomes = {name: job["outcome"] for name, job in jobs.outcomes("--due", "all").items()}
    assert outcomes == {"all.one": "waiting", "all.two": "done"}
    assert_same(srv / "two", standby / "two")
    srv.rename(home / "elsewhere")
    srv.mkdir()
    (srv / "two").mkdir()
    for verb in ("status", "run"):
        told = run(verb, "--config", jobs.file, *(["-n"] if verb == "run" else []), env=jobs.env)
        assert f"all.one: {srv}/one is not there any more" in told.err, told
    assert (standby / "one/file").read_text() == "1"
    refused = jobs.outcomes("all", code=3)["all.two"]
    assert "was a volume in the last good round" in refused["error"]
    assert (standby / "two/file").read_text() == "2"


def test_all_directories_have_one_unit_and_each_target_its_own(tmp_path: Path) -> None:
    need("systemd-analyze")
    file, srv, units = tmp_path / "config.toml", tmp_path / "srv", tmp_path / "units"
    (srv / "a").mkdir(parents=True)
    every = 'period = "1h"\n'
    file.write_text(
        f'[job.all]\nsource = "{srv}/*"\ntarget = "/mnt/x/{{name}}"\n{every}'
        f'[job.web]\nsource = "{srv}/a"\ntargets = ["/mnt/a", "/mnt/b"]\n{every}'
    )
    ran = run("service", "install", "--config", file, "--dir", units)
    assert ran.code == 0, ran
    services = {unit.name: unit for unit in units.glob("*.service")}
    assert set(services) == {f"snapsync@{name}.service" for name in ("all", "web.1", "web.2")}
    assert f"RequiresMountsFor=/mnt/x {srv}\n" in services["snapsync@all.service"].read_text()
    checked = subprocess.run(
        ["systemd-analyze", "verify", *services.values()], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_watch_picks_up_a_directory_that_comes(place: Place) -> None:
    home = place("ext4")
    jobs, srv, standby = Jobs(home), home / "srv", home / "standby"
    standby.mkdir()
    srv.mkdir()
    jobs.write(f'[job.all]\nsource = "{srv}/*"\ntarget = "{standby}/{{name}}"\nperiod = "1h"\n')
    watching = start("run", "--watch", "--config", jobs.file, env=jobs.env)
    try:
        (srv / "new").mkdir()
        wait_until(lambda: (standby / "new/.snapsync").exists())
        assert watching.poll() is None
    finally:
        watching.terminate()
        assert watching.wait(60) == 5
