"""A node that trains has torch, lightning, numpy, pyarrow, einops and safetensors, and nothing else for
sure.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCKED = """
prefect polars av diffusers open_clip transformers pydantic PIL cv2 torchvision scenedetect typer rich easyocr
rapidocr onnxruntime ffmpeg jinja2 fastapi imageio_ffmpeg ray
"""

MODULES = """
models.autoencoder models.blocks models.conditioning models.edm models.guidance models.layouts models.networks
models.samplers models.text_encoder models.unet_modules models.video_unet
training.__main__ training.callbacks training.checkpoints training.data training.draws training.ema
training.evaluate training.job training.launch training.module training.recipe training.recipes
training.sample training.sample_settings training.schedule training.stage training.stop training.tether
warehouse.manifest warehouse.order warehouse.pack warehouse.reader warehouse.run_folder
"""

SCRIPT = """
import importlib, importlib.abc, importlib.metadata, importlib.util, sys

blocked, modules = (argument.split() for argument in sys.argv[1:])
real = importlib.util.find_spec


class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked by a test)", name=name)


def find_spec(name, package=None):
    return None if name.split(".")[0] in blocked else real(name, package)


def from_name(name):  # libraries also ask for installed packages by name
    if name.replace("-", "_").lower() in (*blocked, "pillow", "opencv_python", "open_clip_torch"):
        raise importlib.metadata.PackageNotFoundError(name)
    return installed(name)


installed = importlib.metadata.Distribution.from_name
importlib.metadata.Distribution.from_name = from_name
sys.meta_path.insert(0, Absent())
importlib.util.find_spec = find_spec
for module in modules:
    importlib.import_module(module)
"""


@pytest.mark.parametrize("extra", [None, "av"], ids=["training path", "the check itself"])
def test_the_training_path_imports_on_a_bare_node(extra):
    command = [sys.executable, "-c", SCRIPT, BLOCKED, MODULES if extra is None else extra]
    ended = subprocess.run(command, capture_output=True, text=True)
    if extra is None:
        assert ended.returncode == 0, ended.stderr
    else:
        assert f"No module named '{extra}' (blocked by a test)" in ended.stderr
