"""The errors a user may meet.

CutroomError                what, got, expected, and how to mend it
├── SettingsError           a setting is unknown or out of range
├── MediaError              a video cannot be used; `.cause` is one of a fixed set of words
├── WarehouseError          a table, plan or claim is not as it must be
├── FormatError             a list of footage is not in the format that it was said to be in
├── DatasetError            a packed dataset is missing, cut short or of another shape
├── WeightsError            a checkpoint is missing or does not fit its network
└── InputError              a network is given what it cannot take
"""

from __future__ import annotations


class CutroomError(Exception):
    """Base of every error that Cutroom raises on purpose."""


class SettingsError(CutroomError):
    """A setting is unknown, missing or out of range."""


class MediaError(CutroomError):
    """A video cannot be used.

    `cause` is a short stable word (``no_video_stream``, ``invalid_data``, ``too_large``, ...) that tables count by;
    the message holds the detail.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(f"{cause}: {message}")
        self.cause = cause
        self.detail = message

    @classmethod
    def of(cls, error: Exception) -> MediaError:
        """`error` itself; any other, such as an OSError, as one of cause ``io_error``, which may pass."""
        return error if isinstance(error, MediaError) else cls("io_error", str(error))

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, str]]:
        return type(self), (self.cause, self.detail)


class WarehouseError(CutroomError):
    """A table, plan or claim is not as it must be."""


class FormatError(CutroomError):
    """A list of footage is not in the format that it was said to be in."""


class DatasetError(CutroomError):
    """A packed dataset is missing, cut short or of another shape than asked for."""


class WeightsError(CutroomError):
    """A checkpoint is missing or does not fit its network."""


class InputError(CutroomError):
    """A network is given what it cannot take: another shape than it was built for, or conditioning that is missing."""
