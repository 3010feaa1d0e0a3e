"""The startup hook that completes the names of deployments."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import served

from flows import prefect_plugin
from flows.server import free_port

SHOW = "import sys; sys.argv = {argv!r}; import prefect, os; print(sys.argv[1:], os.environ.get('PREFECT_API_URL'))"


def started(argv: list[str], home: Path, cwd: Path = served.ROOT, **more: str) -> str:
    """Arguments and server's address as Prefect sees them when it has started."""
    env = served.clean_environment(home, **more)
    done = subprocess.run(
        [sys.executable, "-c", SHOW.format(argv=["/bin/" + argv[0], *argv[1:]])],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


class Context:
    """What Prefect hands to a hook."""

    def __init__(self, api_url: str | None = None) -> None:
        self.api_url = api_url


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A port that nothing listens on, in the place of Prefect's usual one."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(prefect_plugin, "_USUAL", ("127.0.0.1", free_port()))
    return prefect_plugin._USUAL[1]


@pytest.mark.usefixtures("port")
@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("prefect deployment run curate-lvd -p x=1", "prefect deployment run curate-lvd/curate-lvd -p x=1"),
        ("prefect deployment run a/b", None),
        ("prefect deployment run --id 12", None),
        ("prefect deployment run", None),
        ("prefect deployment ls a", None),
        ("other deployment run a", None),
    ],
)
def test_completes_bare_names_and_nothing_else(
    typed: str, meant: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/bin/" + typed.split()[0], *typed.split()[1:]])
    assert prefect_plugin.setup_environment(ctx=Context()) is None
    assert sys.argv[1:] == (meant or typed).split()[1:]


def test_points_at_a_server_in_its_usual_place_unless_one_is_set(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["prefect", "deployment", "run", "a"])
    with socket.create_server(("127.0.0.1", port)):
        found = prefect_plugin.setup_environment(ctx=Context())
        assert found.env == {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
        assert prefect_plugin.setup_environment(ctx=Context("http://other/api")) is None


def test_prefect_calls_it_in_the_project_and_elsewhere_where_it_is_enabled(tmp_path: Path) -> None:
    run = ["prefect", "deployment", "run", "a"]
    api = {"PREFECT_API_URL": "http://other/api"}
    assert started(run, tmp_path, **api) == "['deployment', 'run', 'a/a'] http://other/api"
    assert started(run, tmp_path, cwd=tmp_path, **api).startswith("['deployment', 'run', 'a']")
    enabled = api | {"PREFECT_PLUGINS_ENABLED": "1"}
    assert started(run, tmp_path, cwd=tmp_path, **enabled).startswith("['deployment', 'run', 'a/a']")
