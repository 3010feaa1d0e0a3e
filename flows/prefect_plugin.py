"""Lets ``prefect deployment run curate-lvd`` find the deployment ``curate-lvd/curate-lvd``.

Prefect wants ``flow/deployment``; here both have one name. This is its startup hook (enabled by prefect.toml in the
project's folder, elsewhere by PREFECT_PLUGINS_ENABLED=1), so it does as little as it can: it completes the name, and
where no server is configured but one listens at Prefect's usual place on this machine, it points the command there.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from prefect.plugins import HookContext, SetupResult, register_hook

PREFECT_PLUGIN_API_REQUIRES = ">=0.1,<1"
_USUAL = ("127.0.0.1", 4200)


@register_hook
def setup_environment(*, ctx: HookContext) -> SetupResult | None:
    """Completes the name of a deployment to run; leaves every other command alone."""
    if Path(sys.argv[0]).name != "prefect" or sys.argv[1:3] != ["deployment", "run"] or len(sys.argv) < 4:
        return None
    name = sys.argv[3]
    if "/" not in name and not name.startswith("-"):
        sys.argv[3] = f"{name}/{name}"
    if ctx.api_url or os.environ.get("PREFECT_API_URL") or not _listens(_USUAL):
        return None
    return SetupResult(env={"PREFECT_API_URL": f"http://{_USUAL[0]}:{_USUAL[1]}/api"})


def _listens(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=0.5).close()
    except OSError:
        return False
    return True
