"""Arrows between the packages point down, and Prefect stays upstairs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command as run; run()",
        "--no-cache",
    ]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)


def test_layers_hold() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout
    assert "2 kept, 0 broken" in done.stdout


def test_an_arrow_that_points_up_is_seen(tmp_path: Path) -> None:
    packages = ("flows", "tasks", "screen", "curation", "training", "models", "warehouse")
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    for name in packages:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    assert lint(tmp_path).returncode == 0
    (tmp_path / "warehouse" / "bad.py").write_text("import training\n")
    assert "1 broken" in lint(tmp_path).stdout
    (tmp_path / "warehouse" / "bad.py").write_text("import prefect\n")
    assert "1 broken" in lint(tmp_path).stdout
