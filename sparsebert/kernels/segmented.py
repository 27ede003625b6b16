"""Attention where the kinds of tokens decide beside a band: `segments`, in blocks like those of `banded`.

Each sequence is taken by itself, and its queries kind by kind. Most queries of a text meet the band inside
their text and, in parts apart, all keys of the kinds that they see. [CLS] and the few queries whose band
reaches over the end of their text meet all keys under a mask.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn.functional import pad

from sparsebert.kernels.banded import _SCORE, _SCORES, _START, Banded, Pairs, Part, block_size
from sparsebert.kernels.kernel import Context, Kernel
from sparsebert.patterns.layouts import Layout, spans_of_kinds
from sparsebert.registry import register

_FEWEST = 64  # queries of a part that meets many keys
_PARTS = 6  # of a sequence, about


@register
class Segmented(Banded):
    """A band, and texts that see all of one another, [CLS] or themselves."""

    name = "segmented"

    @classmethod
    def supports(cls, layout: Layout | None, context: Context) -> str | None:
        if context.window is not None:
            return "the encoder has a window of its own here"
        if layout is None or not layout.by_kind:
            return f"'{context.pattern}' is not made of segments and one band that is the same for all heads"
        if context.device.type != "cpu":
            return "it is for processors"
        return None if context.batch.gapless else "a row has padding between its tokens"

    @classmethod
    def cost(cls, layout: Layout, context: Context) -> float:
        means = (context.batch.real.sum(-1).float().mean(), context.batch.second.float().mean())
        spans = spans_of_kinds(*(int(mean.round()) for mean in means))
        sizes = {kind: stop - start for kind, (start, stop) in spans.items()}
        scores = sum(sizes[query] * sizes[key] for query, key in layout.seen)
        scores += context.length * (block_size(layout.width) + 6 * layout.width + 1)
        each = _SCORE["dropout" if context.dropout else "fused"]
        return scores * each + _PARTS * _START * torch.get_num_threads()

    def __init__(self, layout: Layout, context: Context):
        Kernel.__init__(self, layout, context)
        real, self._calls = context.batch.real, []
        self.padded = not bool(real.all())
        each = real.int().argmax(-1).tolist(), real.sum(-1).tolist(), context.batch.second.tolist()
        for row, (start, count, second) in enumerate(zip(*each, strict=True)):
            if count:
                pairs = SegmentPairs(layout, count, second, context.heads, real.device)
                self._calls.append((slice(row, row + 1), slice(start, start + count), pairs))

    def calls(self) -> Iterator[tuple[slice, slice, Pairs]]:
        return iter(self._calls)


class SegmentPairs(Pairs):
    """The pairs of a layout in a sequence whose second text begins at `second`."""

    def __init__(self, layout: Layout, length: int, second: int, heads: int, device: torch.device):
        self.spans = spans_of_kinds(length, second)
        super().__init__(layout, length, heads, device)

    def _parts(self) -> Iterator[Part]:
        for kind, (start, stop) in self.spans.items():
            first, last = self._inner(kind)
            yield from self._masked(kind, start, first)
            if first < last:
                own = (kind, kind) in self.layout.seen
                if not own:
                    yield from self._band(first, last, start, stop)
                for number, keys in enumerate(self._seen_by(kind)):
                    yield from self._whole(first, last, *keys, merged=bool(number) or not own)
            yield from self._masked(kind, last, stop)

    def _inner(self, kind: str) -> tuple[int, int]:
        """The queries of a kind whose band does not reach over the end of their text."""
        start, stop = first, last = self.spans[kind]
        for key, (low, high) in self.spans.items():
            if key != kind and low < high and (kind, key) not in self.layout.seen | self.layout.barred:
                first = max(first, high + self.layout.width) if high <= start else first
                last = min(last, low - self.layout.width) if low >= stop else last
        by_hand = kind == "cls" or (kind, kind) in self.layout.barred or first >= last
        return (stop, stop) if by_hand else (first, last)

    def _seen_by(self, kind: str) -> list[tuple[int, int]]:
        """From where to where keys stand that are seen whatever their distance."""
        runs: list[tuple[int, int]] = []
        for key, (low, high) in self.spans.items():
            if low < high and (kind, key) in self.layout.seen:
                joined = runs and runs[-1][1] == low
                runs.append((runs.pop()[0] if joined else low, high))
        return runs

    def _whole(self, first: int, last: int, low: int, high: int, merged: bool) -> Iterator[Part]:
        for start, stop in self._chunks(first, last, high - low):
            part = Part(slice(0, self.heads), start, stop - start, 1, low, high - low, merged=merged)
            self._masks[part] = None
            yield part

    def _masked(self, kind: str, first: int, last: int) -> Iterator[Part]:
        for start, stop in self._chunks(first, last, self.length):
            exist = self._exist(kind, start, stop)
            low, high = exist.any(0).nonzero()[[0, -1], 0].tolist()
            exist = exist[:, low : high + 1]
            part = Part(slice(0, self.heads), start, stop - start, 1, low, exist.shape[1])
            added = torch.where(exist, 0.0, -torch.inf)[None, None].to(self.device)
            self._masks[part] = None if exist.all() else added
            yield part

    def _chunks(self, first: int, last: int, keys: int) -> Iterator[tuple[int, int]]:
        some = max(_FEWEST, _SCORES["cpu"] // (self.heads * keys))
        return ((start, min(start + some, last)) for start in range(first, last, some))

    def _exist(self, kind: str, first: int, last: int) -> Bool[Tensor, "query key"]:
        """The pairs of some queries of a kind with all keys."""
        offsets = (torch.arange(self.length) - torch.arange(first, last)[:, None]).abs()
        exist = pad(self.layout.kept[0] > 0, (0, 1))[offsets.clamp(max=self.layout.width + 1)]
        for key, (low, high) in self.spans.items():
            if (kind, key) in self.layout.seen | self.layout.barred:
                exist[:, low:high] = (kind, key) in self.layout.seen
        return exist | (offsets == 0)
