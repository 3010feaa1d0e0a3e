"""`make serve`, and the commands that a user then types, word for word."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import served

from curation.reel.sample_reel import make_reel
from flows.server import free_port

pytestmark = pytest.mark.long
READY_S, RUN_S = 240, 480
USUAL_PORT = 4200


class Served:
    """A running `deploy/serve.py`."""

    def __init__(self, home: Path, footage: Path, warehouse: Path) -> None:
        self.port = USUAL_PORT if _is_free(USUAL_PORT) else free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"
        sizes = {
            "num_samples": 16,
            "batch_size": 4,
            "warmup_samples": 4,
            "log_every_steps": 1,
            "evaluate_clips": 4,
        }
        self.env = served.clean_environment(
            home,
            CUTROOM_FOOTAGE=str(footage),
            CUTROOM_WAREHOUSE=str(warehouse),
            CUTROOM_WORKERS="2",
            CUTROOM_CLIPS__MIN_S="1.0",
            CUTROOM_RECIPES=json.dumps(dict.fromkeys(("images", "video"), sizes)),
        )
        command = [
            sys.executable,
            "deploy/serve.py",
            "--port",
            str(self.port),
            "--log",
            str(home / "serve.log"),
        ]
        self.log = home / "serve.log"
        self.process = subprocess.Popen(
            command, cwd=served.ROOT, env=self.env, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def wait_until_ready(self) -> str:
        said = ""
        for line in self.process.stdout:
            said += line
            if "train-stage-2" in line:
                return said
        raise AssertionError(said + self.log.read_text())

    def type(self, line: str) -> subprocess.CompletedProcess[str]:
        """Types a line in the project's folder, as the user of `make serve` does in another terminal."""
        shell = served.clean_environment(Path(self.env["PREFECT_HOME"]))
        if self.port != USUAL_PORT:
            shell["PREFECT_API_URL"] = self.api
        words = shlex.split(line)
        words[0] = str(Path(sys.executable).parent / words[0])
        return subprocess.run(words, cwd=served.ROOT, env=shell, capture_output=True, text=True, timeout=120)

    def newest_run(self, flow: str) -> dict:
        runs = served.ask(
            self.api, "flow_runs/filter", flows={"name": {"any_": [flow]}}, sort="EXPECTED_START_TIME_DESC"
        )
        return runs[0]

    def wait_for(self, flow: str, *states: str) -> dict:
        deadline = time.monotonic() + RUN_S
        while (run := self.newest_run(flow))["state_type"] not in states:
            assert run["state_type"] not in ("FAILED", "CRASHED"), (
                run["state"]["message"] + self.log.read_text()
            )
            assert time.monotonic() < deadline, (run["state_type"], self.log.read_text())
            time.sleep(0.5)
        return run


def _is_free(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture(scope="module")
def reel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reel")
    make_reel(folder, num_films=4, shots_per_film=5, seed=3, side_px=96, num_workers=2)
    return folder


@pytest.fixture(scope="module")
def serve(reel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("home")
    running = Served(home, reel, home / "warehouse")
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.process.kill()
        running.process.wait()
        running.process.stdout.close()


def test_the_commands_work_as_they_are_typed(serve: Served) -> None:
    done = serve.type("prefect deployment run curate-lvd")
    assert done.returncode == 0, done.stdout + done.stderr
    serve.wait_for("curate-lvd", "COMPLETED")
    done = serve.type("prefect deployment run train-stage-2")
    assert done.returncode == 0, done.stdout + done.stderr
    serve.wait_for("train-stage-2", "COMPLETED")
    runs = {p.name.split("-")[0] for p in Path(serve.env["CUTROOM_WAREHOUSE"]).glob("runs/*")}
    assert runs == {"images", "video"}


def test_wrong_names_and_values_are_refused_before_a_run_begins(serve: Served) -> None:
    done = serve.type("prefect deployment run nope")
    assert done.returncode != 0
    assert "nope/nope" in done.stdout + done.stderr
    done = serve.type("""prefect deployment run curate-lvd -p 'params={"workers": 0}'""")
    assert done.returncode != 0
    assert "less than the minimum of 1" in " ".join((done.stdout + done.stderr).split())


def test_parameters_are_forms(serve: Served) -> None:
    deployments = served.ask(serve.api, "deployments/filter")
    assert {d["name"] for d in deployments} == {
        "curate-lvd",
        "train-stage-1",
        "train-stage-2",
        "train-stage-3",
    }
    (curate,) = (d for d in deployments if d["name"] == "curate-lvd")
    fields = curate["parameter_openapi_schema"]["definitions"]["CurateParams"]["properties"]
    assert fields["profile"]["enum"] == ["embedded", "published"]
    assert curate["parameters"]["params"]["footage"] == [serve.env["CUTROOM_FOOTAGE"]]


def test_ends_with_all_that_it_started_and_no_run_stays_running(serve: Served, test_data: Path) -> None:
    params = {"footage": [str(test_data / "videos")], "warehouse": serve.env["CUTROOM_WAREHOUSE"] + "-2"}
    done = serve.type(f"prefect deployment run curate-lvd -p {shlex.quote('params=' + json.dumps(params))}")
    assert done.returncode == 0, done.stdout + done.stderr
    serve.wait_for("curate-lvd", "RUNNING")
    deadline = time.monotonic() + 60
    while not (group := set(descendants(serve.process.pid))) & set(
        served.processes_with("curation.engine.worker")
    ):
        assert time.monotonic() < deadline, "no worker came"
        time.sleep(0.2)
    assert len(group) >= 4
    serve.process.send_signal(signal.SIGTERM)
    assert serve.process.wait(timeout=90) == 0
    deadline = time.monotonic() + 10
    while left := [p for p in group if Path(f"/proc/{p}").exists()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
    assert state_in_database(Path(serve.env["PREFECT_HOME"]), "curate-lvd") == "CANCELLED"


def descendants(pid: int) -> list[int]:
    """Processes below one, whoever leads their groups."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    found, waiting = [], [pid]
    while waiting:
        children = [c for c, p in parents.items() if p == waiting[0]]
        found += children
        waiting = waiting[1:] + children
    return found


def state_in_database(home: Path, flow: str) -> str:
    """State of a flow's newest run, as the server that has ended wrote it down."""
    import sqlite3

    query = (
        "select r.state_type from flow_run r join flow f on r.flow_id = f.id where f.name = ? "
        "order by r.expected_start_time desc limit 1"
    )
    with sqlite3.connect(home / "prefect.db") as database:
        return database.execute(query, [flow]).fetchone()[0]


def test_says_why_it_cannot_start(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        env = served.clean_environment(tmp_path, CUTROOM_FOOTAGE=os.devnull)
        command = [
            sys.executable,
            "deploy/serve.py",
            "--port",
            str(taken.getsockname()[1]),
            "--log",
            str(tmp_path / "l"),
        ]
        done = subprocess.run(command, cwd=served.ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "did not start on port" in done.stderr
    assert "already in use" in (tmp_path / "l").read_text()
