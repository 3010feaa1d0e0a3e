"""MindONE's numpy cache and PixArt's feature files: what was encoded goes out, and is read by their loaders' rules."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path

import exchange
import numpy as np
import pytest

from curation.formats.kept import choose, describe
from warehouse.errors import FormatError, WarehouseError
from warehouse.ledger import Ledger
from warehouse.plan import Plan
from warehouse.store import Store


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    folder = tmp_path_factory.mktemp("exchange")
    return exchange.build(folder / "w", folder / "footage")


def test_mindones_cache_holds_what_was_encoded(ledger: Ledger, tmp_path: Path) -> None:
    done = exchange.out_of(ledger, "mindone-cache", tmp_path / "out")
    assert (done.clips, done.failed) == (3, ())
    cache = done.path / "cache"
    for clip in describe(choose(ledger.store, "default")):
        z, text, mask = exchange.arrays_of(clip.clip_id)
        # Its loader takes the frames in the order of the number after the last _.
        files = sorted(
            (cache / clip.clip_id).glob("*.npy"), key=lambda f: int(f.name.split(".")[0].split("_")[-1])
        )
        np.testing.assert_array_equal(np.stack([np.load(f) for f in files]), z)
        beside = np.load(cache / f"{clip.clip_id}.npz")
        np.testing.assert_array_equal(beside["text_emb"], text)
        np.testing.assert_array_equal(beside["text_mask"], mask)
        assert (str(beside["caption"]), str(beside["video"])) == (f"encoded {clip.clip_id}", clip.clip_id)
    _, imported = exchange.into(tmp_path / "w", "mindone-cache", cache)
    assert [r["captions"] for r in imported.rows] == [[f"encoded {r['place']}"] for r in imported.rows]
    assert [(r["state"], r["cause"]) for r in imported.rows] == [("skipped", "no_footage")] * 3
    assert json.loads(imported.rows[0]["columns"])["num_frames"] == 4
    before = {p: p.read_bytes() for p in done.path.rglob("*") if p.is_file()}
    exchange.out_of(ledger, "mindone-cache", tmp_path / "out")
    assert {p: p.read_bytes() for p in done.path.rglob("*") if p.is_file()} == before


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.mkdir, (self.marker,)


def test_arrays_that_mean_harm_cost_themselves_alone(tmp_path: Path) -> None:
    cache, marker = tmp_path / "cache", tmp_path / "pwned"
    (cache / "f cut").mkdir(parents=True)
    (cache / "g objects").mkdir()
    np.savez(cache / "a fine.npz", caption="fine", **{"class": 7}, video_latent=np.zeros((2, 4, 8, 8)))
    np.savez(cache / "b evil.npz", caption=np.array([Evil(marker)], dtype=object))
    (cache / "c none.npz").write_bytes(b"PK not at all")
    np.savez(cache / "d many.npz", caption=np.array(["one", "two"]))
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "<f8", "fortran_order": False, "shape": (1 << 44,)})
    with zipfile.ZipFile(cache / "e huge.npz", "w") as archive:
        archive.writestr("caption.npy", huge.getvalue())
    np.save(cache / "f cut" / "x_0.npy", np.zeros((4, 8, 8)))
    (cache / "f cut" / "x_0.npy").write_bytes((cache / "f cut" / "x_0.npy").read_bytes()[:-1])
    np.save(cache / "g objects" / "x_0.npy", np.array([Evil(marker)], dtype=object))
    np.savez(cache / "h large.npz", caption="x" * 400_000)
    _, imported = exchange.into(tmp_path / "w", "mindone-cache", cache)
    assert [(r["place"][0], r["cause"]) for r in imported.rows] == [
        ("a", "no_footage"),
        *((letter, "bad_array") for letter in "bcdefgh"),
    ]
    assert (imported.rows[0]["captions"], json.loads(imported.rows[0]["columns"])) == (["fine"], {"class": 7})
    assert not marker.exists()
    pickle.loads(pickle.dumps(Evil(marker)))
    assert marker.exists(), "it does harm where it is let"
    with pytest.raises(FormatError, match="is no folder"):
        exchange.into(tmp_path / "w", "mindone-cache", cache / "a fine.npz")


@pytest.mark.parametrize("kind", ["mindone-cache", "pixart"])
def test_what_was_not_encoded_cannot_be_exported(ledger: Ledger, tmp_path: Path, kind: str) -> None:
    import shutil

    store = Store(shutil.copytree(ledger.store.root, tmp_path / "w"))
    keys = {t: k for t, k in ledger.plan.keys.items() if t not in ("latents", "text_embeddings")}
    bare = Ledger(store, Plan(keys, ledger.plan.reads, ledger.plan.config))
    bare.plan.save(store)
    with pytest.raises(WarehouseError, match="run `cutroom encode` first"):
        exchange.out_of(bare, kind, tmp_path / "out")
    full = Ledger(store, ledger.plan)
    full.plan.save(store)
    (part,) = full.parts("latents")["0"]
    rows = full.read_all("latents").to_arrow().cast(store.read_table(part.path).schema)
    Path(store.path(part.path)).unlink()
    store.write_table(part.path, rows.schema, rows.slice(1).to_batches(), {})
    done = exchange.out_of(full, kind, tmp_path / "out")
    assert (done.clips, [f["cause"] for f in done.failed]) == (2, ["pending"])


def test_pixarts_features_are_the_posterior_and_the_text(ledger: Ledger, tmp_path: Path) -> None:
    import torch
    from PIL import Image

    from models.autoencoder import load_autoencoder

    out = exchange.out_of(ledger, "pixart", tmp_path / "out").path
    items = json.loads((out / "InternalData" / "partition" / "data_info.json").read_text())
    clips = describe(choose(ledger.store, "default"))
    assert [item["prompt"] for item in items] == [f"encoded {c.clip_id}" for c in clips]
    autoencoder = load_autoencoder("embedded")
    for item, clip, frames in zip(items, clips, exchange.KEPT, strict=True):
        picture = np.asarray(Image.open(out / "InternalImgs" / item["path"]))
        assert exchange.numbers([picture]) == [frames[len(frames) // 2]]
        # What PixArt's dataset does with the files of an item.
        name = "_".join(item["path"].rsplit("/", 1))
        text = np.load(out / "InternalData" / "caption_feature_wmask" / name.replace(".png", ".npz"))
        _, expected, mask = exchange.arrays_of(clip.clip_id)
        np.testing.assert_array_equal(torch.from_numpy(text["caption_feature"]).numpy()[0], expected)
        assert text["caption_feature"].dtype == np.float32
        np.testing.assert_array_equal(text["attention_mask"], mask[None])
        folder = out / "InternalData" / "img_vae_features_64resolution" / "noflip"
        mean, std = torch.from_numpy(np.load(folder / name.replace(".png", ".npy"))).chunk(2)
        x = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None, None].float() / 127.5 - 1
        scaled = (mean - autoencoder.shift) * autoencoder.scale_factor
        torch.testing.assert_close(scaled, autoencoder.encode(x)[0, 0], rtol=1e-4, atol=1e-4)
        drawn = autoencoder.encode(x, torch.Generator().manual_seed(0))[0, 0]
        noise = torch.randn(drawn[None].shape, generator=torch.Generator().manual_seed(0))[0]
        torch.testing.assert_close(
            scaled + std * noise * autoencoder.scale_factor, drawn, rtol=1e-4, atol=1e-4
        )


def test_pixarts_list_comes_back_and_its_pictures_are_footage(ledger: Ledger, tmp_path: Path) -> None:
    done = exchange.out_of(ledger, "pixart", tmp_path / "out")
    _, imported = exchange.into(tmp_path / "w", "pixart", done.path / "InternalData")
    clips = describe(choose(ledger.store, "default"))
    assert [(r["path"], *r["captions"]) for r in imported.rows] == [
        (f"{c.clip_id}.png", f"encoded {c.clip_id}") for c in clips
    ]
    assert [r["cause"] for r in imported.rows] == [None] * 3
    features = json.loads(imported.rows[0]["columns"])["features"]
    assert features == {"img_vae_features_64resolution": [8, 8, 8]}
    before = {p: p.read_bytes() for p in done.path.rglob("*") if p.is_file()}
    exchange.out_of(ledger, "pixart", tmp_path / "out")
    assert {p: p.read_bytes() for p in done.path.rglob("*") if p.is_file()} == before


def test_odd_lists_of_pictures(tmp_path: Path) -> None:
    data = tmp_path / "InternalData"
    (data / "partition").mkdir(parents=True)
    (noflip := data / "img_vae_features_256resolution" / "noflip").mkdir(parents=True)
    (noflip / "a_b.npy").write_bytes(b"\x93NUMPY torn")
    items = [
        "a.png",
        {"path": 7},
        {"path": "a/b.png"},
        {"path": "../../../etc/x.png"},
        {"path": "/etc/passwd"},
    ]
    (data / "partition" / "data_info.json").write_text(json.dumps(items))
    _, imported = exchange.into(tmp_path / "w", "pixart", data)
    causes = [r["cause"] for r in imported.rows]
    assert causes[:4] == ["bad_item", "bad_item", "bad_array", "outside_root"]
    for content in (b"{}", b"[", b"\xff"):
        (data / "partition" / "data_info.json").write_bytes(content)
        with pytest.raises(FormatError, match=r"data_info\.json"):
            exchange.into(tmp_path / "w", "pixart", data)
