"""Every format by its name on the command line."""

from __future__ import annotations

from curation.formats.base import Format
from curation.formats.huggingface import HUGGINGFACE
from curation.formats.latte import LATTE
from curation.formats.mindone import MINDONE
from curation.formats.mindone_cache import MINDONE_CACHE
from curation.formats.open_sora import OPEN_SORA, OPEN_SORA_1_0
from curation.formats.open_sora_plan import OPEN_SORA_PLAN
from curation.formats.pixart import PIXART
from curation.formats.webdataset import WEBDATASET
from warehouse.errors import SettingsError

_ALL = (
    OPEN_SORA_1_0,
    OPEN_SORA,
    OPEN_SORA_PLAN,
    LATTE,
    MINDONE,
    MINDONE_CACHE,
    PIXART,
    WEBDATASET,
    HUGGINGFACE,
)
FORMATS = {f.name: f for f in _ALL}


def find(name: str) -> Format:
    """A format by its name. Raises SettingsError."""
    if name not in FORMATS:
        raise SettingsError(f"there is no format {name!r}; there are {', '.join(FORMATS)}")
    return FORMATS[name]
