"""Who takes a step's units, as it is planned: no accelerator is at hand, so none is computed on here."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from test_engine import HASH, _importable, _ledger

from curation.annotate import AnnotateWork
from curation.annotators.captions import CaptionsConfig
from curation.annotators.embeddings import EmbeddingsConfig
from curation.annotators.motion import MotionConfig
from curation.annotators.summaries import SummariesConfig
from curation.annotators.summary_server import ServerConfig
from curation.annotators.text_area import TextAreaConfig
from curation.engine.local import run_shards
from curation.engine.places import Places, RunsOn, free_memory_bytes, named_devices, visible_devices
from curation.engine.pool import Pool
from curation.engine.work import Outputs, Unit, in_batches, settled
from warehouse.ledger import Ledger
from warehouse.plan import Step

__all__ = ["_importable"]


def test_on_16_cores_models_lie_on_each_accelerator_once_unless_asked_otherwise() -> None:
    assert Places(16, ("0",)).most("devices") == 1
    assert Places(16, ("0", "1")).most("devices") == 2
    assert Places(16, ("0", "1"), per_device=3).most("devices") == 6
    assert Places(4, tuple("01234567")).most("devices") == 4
    assert [Places(16, devices).most("cores") for devices in ((), ("0", "1"))] == [16, 16]
    assert [Places(16, devices).most("elsewhere") for devices in ((), ("0", "1"))] == [1, 1]


def test_without_an_accelerator_as_many_have_models_as_the_memory_holds() -> None:
    assert Places(16).most("devices", 10**9) == 16
    bound = Places(16, memory_bytes=60 * 10**9)
    assert [bound.most("devices", n * 10**9) for n in (0, 2, 14, 70)] == [16, 16, 4, 1]
    assert Places(16, ("0",), memory_bytes=60 * 10**9).most("devices", 70 * 10**9) == 1


def test_the_lowest_workers_have_all_accelerators_between_them() -> None:
    places = Places(8, ("GPU-5c", "GPU-7e", "MIG-1"), per_device=2)
    told = [places.environment(number)["CUDA_VISIBLE_DEVICES"] for number in range(places.most("devices"))]
    assert told == ["GPU-5c", "GPU-7e", "MIG-1"] * 2
    assert Places(8).environment(0) == {}


@pytest.mark.parametrize(
    ("count", "visible", "names"),
    [
        (2, None, ("0", "1")),
        (2, "3,7", ("3", "7")),
        (1, "GPU-5c, -1", ("GPU-5c",)),
        (0, "", ()),
        (0, None, ()),
    ],
)
def test_devices_have_the_names_by_which_a_worker_can_be_shown_one(
    count: int, visible: str | None, names: tuple[str, ...]
) -> None:
    assert named_devices(count, visible) == names


@pytest.mark.skipif(torch.cuda.is_available(), reason="of machines without an accelerator")
def test_a_machine_without_an_accelerator_has_none_whatever_it_is_told() -> None:
    assert visible_devices({"CUDA_VISIBLE_DEVICES": "0,1"}) == ()


def test_free_memory_is_less_than_the_machine_has() -> None:
    has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 2**26 < free_memory_bytes() <= has * 0.9


def test_annotators_with_networks_run_where_their_models_lie(tmp_path: Path) -> None:
    assert AnnotateWork("captions", CaptionsConfig()).runs_on == "devices"
    assert AnnotateWork("embeddings", EmbeddingsConfig()).runs_on == "devices"
    assert AnnotateWork("motion", MotionConfig()).runs_on == "cores"
    assert AnnotateWork("text_area", TextAreaConfig()).runs_on == "cores"
    assert AnnotateWork("text_area", TextAreaConfig(engine="easyocr")).runs_on == "devices"
    assert AnnotateWork("summaries", SummariesConfig(ServerConfig())).runs_on == "elsewhere"
    assert AnnotateWork("captions", CaptionsConfig()).model_bytes == 0
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    (tmp_path / "open_clip_config.json").write_bytes(bytes(24))
    assert AnnotateWork("embeddings", EmbeddingsConfig(f"local-dir:{tmp_path}")).model_bytes == 2 * 1024


@dataclass(frozen=True)
class TellDevice:
    """Writes which accelerator its process is shown, and which process it is."""

    runs_on: RunsOn
    isolated: bool = False
    timeout_s: float = 30.0
    model_bytes: int = 0
    step: Step = HASH

    def split(self, ledger: Ledger, shard: str, ids: Sequence[tuple]) -> Iterable[Sequence[tuple]]:
        return in_batches(ids, 1)

    def run(self, ledger: Ledger, unit: Unit, outputs: Outputs) -> None:
        time.sleep(0.5)  # long enough for the others to begin
        told = f"{os.environ.get('CUDA_VISIBLE_DEVICES')} {os.getpid()}"
        for id_ in unit.ids:
            outputs.append("sources", [{"source_id": id_[0], "uri": told} | settled(1)])


@pytest.mark.parametrize(("runs_on", "workers"), [("devices", 2), ("cores", 3)])
def test_workers_are_shown_one_accelerator_each_and_no_more_than_these_have_models(
    tmp_path: Path, runs_on: RunsOn, workers: int
) -> None:
    ledger = _ledger(tmp_path / "w", ["a"] * 8)
    with Pool(Places(3, ("5", "GPU-7e")), ledger.store.scratch()) as pool:
        run_shards(TellDevice(runs_on), ledger, ["group"], pool, run_id="test")
    told = set(ledger.read("sources", "group")["uri"])
    assert len(told) == workers
    assert {said.split()[0] for said in told} == {"5", "GPU-7e"}
