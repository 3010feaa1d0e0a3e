"""`make serve`: Prefect's server and pages, a worker and the deployments, on this machine's loopback, until Ctrl-C.

Footage and warehouse of the curation come from CUTROOM_FOOTAGE and CUTROOM_WAREHOUSE; where no footage is named, a
small sample reel is made, so that `prefect deployment run curate-lvd` has something to work on.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import httpx

from flows.server import ROOT, ServerError, start, start_server, stop
from flows.settings import CurateParams
from warehouse.errors import CutroomError

POOL = "cutroom"
CANCEL_S = 30.0


def main() -> None:
    """Brings everything up, says so, and waits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4200, help="of the server and its pages")
    parser.add_argument("--log", type=Path, default=ROOT / "cutroom-demo" / "serve.log")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    try:
        serve(options.port, options.log)
    except CutroomError as error:
        sys.exit(f"serve: {error}")
    except KeyboardInterrupt:
        print("serve: ended")


def serve(port: int, log: Path) -> None:
    """Runs until it is interrupted; whatever it started ends with it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    api = f"http://127.0.0.1:{port}/api"
    environment = {"PREFECT_API_URL": api, **_footage()}
    with ExitStack() as children:
        print("starting Prefect's server ...", flush=True)
        children.callback(stop, start_server(port, log))
        _prefect(log, environment, "work-pool", "create", POOL, "--type", "process", "--overwrite")
        _prefect(log, environment, "deploy", "--all", "--prefect-file", str(ROOT / "deploy" / "prefect.yaml"))
        worker = start(["prefect", "worker", "start", "--pool", POOL], log, **environment)
        children.callback(stop, worker)
        children.callback(_cancel_runs, api)
        _wait_for_worker(api, worker, log)
        print(f"ready: {api.removesuffix('/api')} (log: {log})")
        if port != 4200:
            print(f"  export PREFECT_API_URL={api}")
        print("  prefect deployment run curate-lvd\n  prefect deployment run train-stage-2", flush=True)
        code = worker.wait()
        raise ServerError(f"the worker ended with exit code {code}; {log} says why")


def _footage() -> dict[str, str]:
    """Variables that name footage and warehouse; a sample reel is made where no footage is named."""
    defaults = CurateParams()
    warehouse = os.environ.get("CUTROOM_WAREHOUSE", str(ROOT / defaults.warehouse))
    footage = os.environ.get("CUTROOM_FOOTAGE")
    if footage is None:
        from curation.reel.sample_reel import make_reel

        reel = ROOT / defaults.footage[0]
        if not (reel / "truth.json").exists():
            print(f"making a sample reel in {reel} ...", flush=True)
            make_reel(reel)
        footage = str(reel)
    return {"CUTROOM_FOOTAGE": footage, "CUTROOM_WAREHOUSE": warehouse}


def _prefect(log: Path, environment: dict[str, str], *arguments: str) -> None:
    """Runs one of Prefect's own commands to its end."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, stdin=subprocess.DEVNULL, capture_output=True
    )
    with log.open("ab") as file:
        file.write(done.stdout + done.stderr)
    if done.returncode:
        raise ServerError(f"`prefect {' '.join(arguments)}` failed; {log} says why")


def _wait_for_worker(api: str, worker: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server has heard of the worker."""
    deadline = time.monotonic() + 120
    while not httpx.post(f"{api}/work_pools/{POOL}/workers/filter", json={}).json():
        if worker.poll() is not None or time.monotonic() > deadline:
            raise ServerError(f"the worker did not start; {log} says why")
        time.sleep(0.3)


def _cancel_runs(api: str) -> None:
    """Cancels what still runs and waits for its end; a run whose worker just dies would stay `Running` for ever."""
    going = {"flow_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}}}
    deadline = time.monotonic() + CANCEL_S
    while (runs := httpx.post(f"{api}/flow_runs/filter", json=going).json()) and time.monotonic() < deadline:
        for run in runs:
            if run["state_type"] != "CANCELLING":
                state = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
                httpx.post(f"{api}/flow_runs/{run['id']}/set_state", json=state)
        time.sleep(0.5)


def _end(number: int, frame: FrameType | None) -> None:
    """One signal ends it in order; further ones do not disturb that."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
