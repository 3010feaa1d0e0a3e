"""Words to numbers and back, for the small vocabulary of the embedded CoCa."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch

SPECIALS = ("<pad>", "<start>", "<end>", "<unknown>")


class WordTokenizer:
    """One id a word, with the interface of open_clip's tokenizers; a word outside the vocabulary is `<unknown>`.

    Case and punctuation are dropped. Row 0..3 of the embedding are padding, start, end and the unknown word.
    """

    def __init__(self, words: Sequence[str], context_length: int) -> None:
        self.words = (*SPECIALS, *words)
        self.context_length = context_length
        self.pad_token_id, self.sot_token_id, self.eot_token_id, self.unknown_token_id = range(len(SPECIALS))
        self._ids = {word: number for number, word in enumerate(self.words)}

    @property
    def vocab_size(self) -> int:
        """Number of ids, the special ones included."""
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        """Ids of the words of `text`, without start and end."""
        return [self._ids.get(word, self.unknown_token_id) for word in re.findall(r"[a-z0-9]+", text.lower())]

    def decode(self, ids: Iterable[int]) -> str:
        """The words of `ids` up to the first end, joined by blanks; start and padding are dropped."""
        words = []
        for number in map(int, ids):
            if number == self.eot_token_id:
                break
            if number not in (self.pad_token_id, self.sot_token_id):
                words.append(self.words[number])
        return " ".join(words)

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> torch.Tensor:
        """Ids with start and end, padded or cut to `context_length`: int64 (len(texts), context_length)."""
        length = context_length or self.context_length
        texts = [texts] if isinstance(texts, str) else texts
        ids = torch.full((len(texts), length), self.pad_token_id, dtype=torch.long)
        for row, text in zip(ids, texts, strict=True):
            words = self.encode(text)[: length - 2]
            row[: len(words) + 2] = torch.tensor([self.sot_token_id, *words, self.eot_token_id])
        return ids
