"""What users install."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import httpx

PROJECT = Path(__file__).resolve().parents[1]

USE = """
import asyncio, importlib.metadata, importlib.resources
from notify_client import AsyncClient, Client
assert (importlib.resources.files("notify_client") / "py.typed").is_file()
assert importlib.metadata.version("notify-client")
with Client("http://127.0.0.1:9", token="x"):
    pass
"""


def test_the_wheel_can_be_installed_and_has_what_it_needs_and_nothing_else(tmp_path: Path) -> None:
    # Built with what the tests' environment has, and installed beside httpx from there: neither asks an index.
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=PROJECT, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    assert wheel.name == "notify_client-0.1.0-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"notify_client", "notify_client-0.1.0.dist-info"}
    assert "notify_client/py.typed" in names
    assert {name.rsplit("/", 1)[-1] for name in names} >= {"LICENSE-APACHE", "LICENSE-MIT"}

    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    beside = str(Path(httpx.__file__).parents[1])
    subprocess.run([str(python), "-W", "error", "-c", f"import sys; sys.path.append({beside!r})\n{USE}"], check=True)


def test_the_oldest_python_that_is_promised_can_read_it() -> None:
    promised = re.search(r'requires-python = ">=3\.(\d+)"', (PROJECT / "pyproject.toml").read_text())
    assert promised
    for file in (PROJECT / "src").rglob("*.py"):
        ast.parse(file.read_text(), feature_version=(3, int(promised[1])))
