"""Text detectors behind one small interface: rapidocr, whose package holds its models, and easyocr's CRAFT."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from curation.annotators.base import operational
from warehouse.errors import WeightsError
from warehouse.ranges import check_ranges


@dataclass(frozen=True)
class TextBox:
    """One line of text in a picture."""

    corners: np.ndarray
    """float (4, 2): x, y in pixels, in order around the box."""
    text: str | None
    """What it says; None where it was not read."""


class TextEngine(Protocol):
    """Finds the text in a picture, and reads it if asked to when it was made."""

    name: str
    """What table text_area says found it."""

    def find(self, rgb_HW3: np.ndarray) -> list[TextBox]:
        """Boxes of the text in a uint8 picture, in no particular order."""


@dataclass(frozen=True)
class RapidConfig:
    """PP-OCRv6 small through onnxruntime, with settings under which a box lies close around its letters.

    Of 82 burnt-in lines of known place in 50 frames of real footage it finds 98.8 % at an overlap of at least half; the
    area of a frame's text is off by 0.5 % of the frame on average and 1.1 % at worst. It reads all 38 lines of 13
    pictures, scene words and pages, English and Chinese, and finds no text in a black one.
    """

    long_side_px: int = 384
    """Larger pictures are scaled down to this longer side before detection; time goes with its square."""
    box_threshold: float = 0.5
    """Least mean text probability inside a box."""
    unclip_ratio: float = 1.0
    """How far the detector's shrunken kernels grow back to boxes; its own default of 1.6 serves reading, and
    covers about twice the area of small text."""
    text_threshold: float = 0.5
    """A box that is read with less confidence is no text; without reading nothing is dropped."""
    num_threads: int = operational(1)
    """Threads of onnxruntime."""

    def __post_init__(self) -> None:
        check_ranges(
            "annotators.text_area.rapidocr",
            self,
            long_side_px=(32, 8192),
            box_threshold=(0, 1),
            text_threshold=(0, 1),
            num_threads=(1, 1024),
        )


@dataclass(frozen=True)
class CraftConfig:
    """easyocr's CRAFT detector and recognisers (Baek et al. 2019), which SVD used. Thresholds are easyocr's.

    Weights other than the published ones load too, trained or random; the table then says so in its column `engine`.
    """

    folder: str = "~/.EasyOCR/model"
    """Where `craft_mlt_25k.pth` and the recognisers' weights lie."""
    download: bool = operational(False)
    """Fetch weights that are missing from easyocr's own release page."""
    languages: tuple[str, ...] = ("en",)
    """What to read, in easyocr's codes."""
    canvas_px: int = 1280
    """Larger pictures are scaled down to this longer side before detection."""
    text_threshold: float = 0.7
    """Least probability of a letter's centre."""
    link_threshold: float = 0.4
    """Least probability that two letters belong to one word."""
    low_text: float = 0.4
    """Least probability of a pixel that a box may grow over."""


class RapidEngine:
    """rapidocr: detection, and recognition only where a box was found."""

    name = "rapidocr"

    def __init__(self, config: RapidConfig, *, read_text: bool) -> None:
        from rapidocr import RapidOCR

        self._read_text = read_text
        self._ocr = RapidOCR(
            params={
                "Global.log_level": "critical",  # it warns of every picture without text
                "Global.use_cls": False,
                "Global.text_score": config.text_threshold,
                "EngineConfig.onnxruntime.intra_op_num_threads": config.num_threads,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
                "Det.limit_type": "max",
                "Det.limit_side_len": config.long_side_px,
                "Det.box_thresh": config.box_threshold,
                "Det.unclip_ratio": config.unclip_ratio,
                "Det.use_dilation": False,  # grows boxes by a pixel of the small picture
                # The last is the least width: wider lines widen it, narrow ones stay cheap.
                "Rec.rec_img_shape": [3, 48, 48],
            }
        )

    def find(self, rgb_HW3: np.ndarray) -> list[TextBox]:
        """See TextEngine."""
        found = self._ocr(np.ascontiguousarray(rgb_HW3[..., ::-1]), use_rec=self._read_text)
        if found.boxes is None:
            return []
        texts = found.txts if self._read_text else [None] * len(found.boxes)
        return [
            TextBox(np.asarray(box, np.float64), text) for box, text in zip(found.boxes, texts, strict=True)
        ]


class CraftEngine:
    """easyocr's CRAFT, and its recognisers when text is to be read."""

    def __init__(self, config: CraftConfig, *, read_text: bool) -> None:
        self._config = config
        folder = Path(config.folder).expanduser()
        path = _weights_file(folder, config.download)
        self.name = "easyocr-craft" if _is_published(path) else "easyocr-craft with weights of its own"
        self._detector, self._device = _craft(path)
        self._reader = _reader(config, folder) if read_text else None

    def find(self, rgb_HW3: np.ndarray) -> list[TextBox]:
        """See TextEngine."""
        quads = self._detect(rgb_HW3)
        if self._reader is None or not quads:
            return [TextBox(quad.reshape(4, 2).astype(np.float64), None) for quad in quads]
        from easyocr.utils import group_text_box

        level, tilted = group_text_box(quads, width_ths=0.5, add_margin=0.0)
        read = self._reader.recognize(
            cv2.cvtColor(rgb_HW3, cv2.COLOR_RGB2GRAY), level, tilted, reformat=False
        )
        return [TextBox(np.asarray(corners, np.float64), text) for corners, text, _ in read]

    def _detect(self, rgb_HW3: np.ndarray) -> list[np.ndarray]:
        """Words as eight numbers each: x, y of the four corners."""
        from easyocr.detection import get_textbox

        config = self._config
        (quads,) = get_textbox(
            self._detector,
            rgb_HW3,
            canvas_size=config.canvas_px,
            mag_ratio=1.0,
            text_threshold=config.text_threshold,
            link_threshold=config.link_threshold,
            low_text=config.low_text,
            poly=False,
            device=self._device,
        )
        return quads


def _craft(path: Path) -> tuple[Any, str]:
    """CRAFT in evaluation mode and its device; its checkpoint is read as tensors alone, unlike easyocr does."""
    import torch
    from easyocr.craft import CRAFT

    from models.devices import best_device
    from models.tensor_files import load_tensors

    try:
        state = load_tensors(path)
        with torch.device("meta"):  # its constructor draws 138 million random numbers
            network = CRAFT()
        network.load_state_dict(
            {key.removeprefix("module."): value for key, value in state.items()}, assign=True
        )
    except Exception as error:
        raise WeightsError(
            f"{path} does not hold CRAFT's weights ({error}); delete it and fetch it again"
        ) from error
    device = best_device()
    return network.to(device).eval(), device


def _is_published(path: Path) -> bool:
    """Whether a file of CRAFT's weights is the one that easyocr was released with."""
    from easyocr.config import detection_models
    from easyocr.utils import calculate_md5

    return calculate_md5(path) == detection_models["craft"]["md5sum"]


def _weights_file(folder: Path, download: bool) -> Path:
    """CRAFT's weights in a folder, fetched if they are missing and may be. Raises WeightsError."""
    from easyocr.config import detection_models

    model = detection_models["craft"]
    path = folder / model["filename"]
    if path.is_file():
        return path
    if not download:
        raise WeightsError(
            f"easyocr's weights {path} are missing; unpack {model['url']} there, set "
            "annotators.text_area.craft.download to let it be fetched, or use the engine 'rapidocr', whose models "
            "come with its package"
        )
    from easyocr.utils import download_and_unzip

    folder.mkdir(parents=True, exist_ok=True)
    try:
        download_and_unzip(model["url"], model["filename"], str(folder), verbose=False)
    except OSError as error:
        raise WeightsError(
            f"{model['url']} cannot be fetched ({error}); unpack it as {path} by hand"
        ) from error
    if not _is_published(path):
        path.unlink()
        raise WeightsError(f"{model['url']} is not the file that easyocr was released with; fetch it by hand")
    return path


def _reader(config: CraftConfig, folder: Path) -> Any:
    """easyocr's recognisers, which it checks by hash before it unpickles them."""
    import easyocr
    import torch

    try:
        return easyocr.Reader(
            list(config.languages),
            gpu=torch.cuda.is_available(),
            model_storage_directory=str(folder),
            user_network_directory=str(folder),
            download_enabled=config.download,
            detector=False,
            verbose=False,
        )
    except OSError as error:
        raise WeightsError(
            f"easyocr's recogniser for {', '.join(config.languages)} is not in {folder} ({error}); put it there, set "
            "annotators.text_area.craft.download, or set annotators.text_area.read_text to false, which measures "
            "areas without reading"
        ) from error
