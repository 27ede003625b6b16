"""Attention over a band, global tokens and drawn keys, in plain torch, without any [length, length] tensor.

Each sequence is taken by itself, without its padding. Its global tokens come first and attend to all. The
other queries are taken in blocks: a block of B queries meets the B + 2w keys of its window, so that what is
computed grows with the length times the width. The keys that all queries have (global) or that each query
drew for itself are columns apart; the softmax over both is put together from their normalisers, as
FlashAttention does for blocks of keys (Dao et al., 2022). Scores are computed anew in the backward pass, and
no more than the inputs, the output and one number per query is kept for it.

The windows are computed by torch's fused attention for processors where it can be used, and else written
out: on GPUs, with dropout, and where weights are learned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparsebert.kernels.dropout import kept
from sparsebert.patterns import drawn_keys
from sparsebert.patterns.batches import Batch
from sparsebert.patterns.hard_degrees import quantiles
from sparsebert.patterns.layouts import Layout

_BLOCKS = (32, 64, 128)
_WHOLE = 2**20  # scores of a part that is not cut into blocks
_SCORES = {"cpu": 2**20, "cuda": 2**26}  # that are worked on at a time, so that a call needs little memory

Flat = Float[Tensor, "row head query width"]
Tiles = Float[Tensor, "tile head query width"]


def block_size(width: int) -> int:
    """Queries of a block: many are quick to multiply, few have few keys in excess of the 2w + 1 wanted."""
    return next((size for size in _BLOCKS if size >= width / 2), _BLOCKS[-1])


def head_groups(layout: Layout, heads: int) -> list[tuple[slice, int]]:
    """Adjacent heads whose widths need about as many keys, and the largest of these widths.

    They are computed together: calls of their own would take longer than the keys in excess.
    """
    if layout.kept is None:
        return [(slice(0, heads), layout.width)]
    widths = [int(row.nonzero().max()) for row in layout.kept.expand(heads, -1)]
    steps = [max(1, -(-width // _BLOCKS[0])) for width in widths]
    starts = [h for h in range(heads) if not h or steps[h] != steps[h - 1]]
    return [(slice(a, b), max(widths[a:b])) for a, b in zip(starts, [*starts[1:], heads], strict=True)]


@dataclass(frozen=True, eq=False)
class Part:
    """Queries in blocks of some adjacent heads, and the windows of their keys.

    Block b has the queries from `query + b * block` on and the keys from `key + b * block` on. All pairs
    exist in a `wide` part, that of the global queries, else those of the band.
    """

    heads: slice
    query: int
    block: int
    blocks: int
    key: int
    window: int
    wide: bool = False

    def places(self, first: int, count: int) -> slice:
        """Where the queries of some blocks stand."""
        return slice(self.query + first * self.block, self.query + (first + count) * self.block)

    def tiles(self, x: Flat, first: int, count: int) -> Tiles:
        """The queries of some blocks, one tile for each block."""
        x = x[:, self.heads, self.places(first, count)]
        return x.unflatten(2, (count, self.block)).transpose(1, 2).flatten(0, 1)

    def windows(self, x: Flat, first: int, count: int) -> Tiles:
        """Keys or values of some blocks, which overlap; on a processor without copying them."""
        x = x[:, self.heads]
        row, head, place, one = x.stride()
        shape = (x.shape[0], count, x.shape[1], self.window, x.shape[3])
        offset = x.storage_offset() + (self.key + first * self.block) * place
        return x.as_strided(shape, (row, self.block * place, head, place, one), offset).flatten(0, 1)

    def add_windows(self, into: Flat, windows: Tiles, first: int, count: int) -> None:
        """Add what belongs to the keys of some blocks; keys of several blocks get the sum."""
        into = into[:, self.heads]
        windows = windows.unflatten(0, (-1, count)).transpose(1, 2)
        for start in range(0, self.window, self.block):
            stop = min(start + self.block, self.window) if count > 1 else self.window
            place = self.key + first * self.block + start
            room = into[:, :, place : place + (count - 1) * self.block + stop - start]
            row, head, step, one = room.stride()
            room.as_strided(
                (*room.shape[:2], count, stop - start, room.shape[3]),
                (row, head, self.block * step, step, one),
            ).add_(windows[..., start:stop, :])
            if count == 1:
                return

    @property
    def distances(self) -> Int[Tensor, "query key"]:
        """How far apart the pairs are; the same in each block."""
        query = self.query + torch.arange(self.block)
        return (query[:, None] - self.key - torch.arange(self.window)).abs()


def flat(tiles: Tensor, rows: int) -> Tensor:
    """[tile, head, query, ...] -> [row, head, query, ...]."""
    return tiles.unflatten(0, (rows, -1)).transpose(1, 2).flatten(2, 3)


class Band:
    """The pairs of a layout in one batch, whose rows hold their real tokens without gaps."""

    def __init__(self, layout: Layout, batch: Batch, heads: int):
        self.layout, self.heads, self.device = layout, heads, batch.real.device
        counts, starts = batch.real.sum(-1).tolist(), batch.real.int().argmax(-1).tolist()
        self.padded = min(counts) < batch.real.shape[1]
        spans = list(zip(starts, counts, strict=True))
        if self.device.type != "cpu" and len(set(spans)) == 1:
            self.sequences = [(slice(0, len(spans)), *spans[0])]
        else:
            self.sequences = [(slice(row, row + 1), *span) for row, span in enumerate(spans) if span[1]]
        self._pairs = {count: Pairs(layout, count, heads, self.device) for count in set(counts) if count}

    def calls(self) -> Iterator[tuple[slice, slice, Pairs]]:
        """Rows of the batch, the places of their tokens, and their pairs."""
        for rows, start, count in self.sequences:
            yield rows, slice(start, start + count), self._pairs[count]

    def pairs(self) -> float:
        """Allowed pairs of real tokens, averaged over the heads."""
        return sum((rows.stop - rows.start) * pairs.count for rows, _, pairs in self.calls())


class Pairs:
    """The pairs of a layout in a sequence of `length` tokens: parts, and the columns beside them."""

    def __init__(self, layout: Layout, length: int, heads: int, device: torch.device):
        self.layout, self.length, self.heads, self.device = layout, length, heads, device
        self.globals = min(layout.tokens, length)
        self.drawn_total = sum(min(k, max(length - 1, 0)) for k, _ in layout.random)
        self.columns = self.globals + self.drawn_total
        self.parts = list(self._parts())
        self._masks: dict[Part, Tensor | None] = {}
        self.added: dict[tuple, Tensor | None] = {}  # to scores, where it is the same in each call

    def _parts(self) -> Iterator[Part]:
        if self.globals:
            yield Part(slice(0, self.heads), 0, self.globals, 1, 0, self.length, wide=True)
        if self.globals == self.length:
            return
        for heads, width in head_groups(self.layout, self.heads):
            width = min(width, self.length - 1)
            block = block_size(width)
            first, last = self.globals, self.length
            edge = -(-width // block) * block  # queries whose windows would begin before the first key
            blocks = (last - first - edge - width) // block
            if blocks < 1:  # each query meets all keys, or nearly so
                some = max(block, _WHOLE // (last - first))
                for start in range(first, last, some):
                    yield Part(heads, start, min(some, last - start), 1, first, last - first)
                continue
            inner = first + edge
            if edge:
                yield Part(heads, first, edge, 1, first, edge + width)
            yield Part(heads, inner, block, blocks, inner - width, block + 2 * width)
            end = inner + blocks * block
            if end < last:
                yield Part(heads, end, last - end, 1, end - width, last - end + width)

    def chunks(self, part: Part, scores: int, width: int) -> Iterator[tuple[int, int]]:
        """Some blocks at a time, first and count, so that a row has no more than so many scores in work."""
        heads = part.heads.stop - part.heads.start
        drawn = 0 if part.wide else self.drawn_total * width
        each = heads * part.block * (part.window + drawn)
        some = max(1, scores // each)
        for first in range(0, part.blocks, some):
            yield first, min(some, part.blocks - first)

    # which pairs exist

    def mask(self, part: Part, first: int, count: int) -> Float[Tensor, "#tile #head query key"] | None:
        """0 for the pairs that exist and minus infinity for others; None if all exist."""
        limits = None if part.wide else self._limits(part)
        if limits is not None and self.fractional(part):
            return torch.where(self._quantiles(part, first, count) < limits, 0.0, -torch.inf)
        if part not in self._masks:
            if limits is None:
                exist = torch.tensor(True) if part.wide else part.distances <= self.layout.width
            else:
                exist = limits > 0
            some = None if exist.all() else torch.where(exist, 0.0, -torch.inf).to(self.device)
            self._masks[part] = some if some is None else some.view(1, -1, *some.shape[-2:])
        return self._masks[part]

    def _limits(self, part: Part) -> Float[Tensor, "head query key"] | None:
        """Shares of queries that keep a pair."""
        kept = self.layout.kept
        if kept is None:
            return None
        shares = kept.expand(self.heads, -1)[part.heads].to(self.device)
        beyond = torch.nn.functional.pad(shares, (0, 1))
        return beyond[:, part.distances.clamp(max=shares.shape[1])]

    def fractional(self, part: Part) -> bool:
        """Whether some queries keep what others don't, so that no two blocks are alike."""
        if self.layout.kept is None:
            return False
        kept = self.layout.kept.expand(self.heads, -1)[part.heads]
        return not ((kept == 0) | (kept == 1)).all()

    @cached_property
    def _all_quantiles(self) -> Float[Tensor, "head length"]:
        return quantiles(torch.arange(self.length, device=self.device)[None], self.layout.layer, self.heads)[
            0
        ]

    def _quantiles(self, part: Part, first: int, count: int) -> Float[Tensor, "tile head query 1"]:
        return part.tiles(self._all_quantiles[None, :, :, None], first, count)

    @cached_property
    def drawn(self) -> tuple[Int[Tensor, "length drawn"], Bool[Tensor, "length drawn"]]:
        """The keys that each query drew, and which of them are neither global nor drawn before."""
        drawn = [drawn_keys(k, seed, self.length) for k, seed in self.layout.random if self.length > 1]
        keys = torch.cat([torch.zeros(self.length, 0, dtype=torch.long), *drawn], 1)
        new = keys >= self.globals
        if len(drawn) > 1:  # one draw alone has no key twice
            new &= ~(keys[:, :, None] == keys[:, None]).tril(-1).any(-1)
        return keys.to(self.device), new.to(self.device)

    def drawn_apart(self, part: Part, first: int, count: int) -> Bool[Tensor, "#head query drawn"]:
        """Which drawn keys of some blocks are in no other part."""
        span = part.places(first, count)
        keys, exist = (x[span] for x in self.drawn)
        distances = (torch.arange(span.start, span.stop, device=self.device)[:, None] - keys).abs()
        if self.layout.kept is None:
            return (exist & (distances > self.layout.width))[None]
        shares = torch.nn.functional.pad(self.layout.kept.expand(self.heads, -1)[part.heads], (0, 1))
        limits = shares.to(self.device)[:, distances.clamp(max=shares.shape[1] - 1)]
        return exist & (self._all_quantiles[part.heads, span, None] >= limits)

    @cached_property
    def count(self) -> float:
        """How many pairs there are, averaged over the heads."""
        total = 0.0
        for part in self.parts:
            heads = part.heads.stop - part.heads.start
            for first, count in self.chunks(part, _SCORES["cpu"], 1):
                queries = count * part.block
                mask = self.mask(part, first, count)
                if mask is None:
                    found = heads * queries * part.window
                else:
                    found = (mask == 0).sum().item() * (count / len(mask)) * (heads / mask.shape[1])
                if not part.wide:
                    found += heads * queries * self.globals
                    if self.drawn_total:
                        drawn = self.drawn_apart(part, first, count)
                        found += drawn.sum().item() * (heads / len(drawn))
                total += found
        return total / self.heads


def banded(
    query: Float[Tensor, "batch head length width"],
    key: Float[Tensor, "batch head length width"],
    value: Float[Tensor, "batch head length width"],
    band: Band,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Float[Tensor, "batch head length width"]:
    """Attention over the pairs of a band; padding queries get 0. `dropout` falls on attention weights."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    weights = band.layout.weights
    weights = weights if weights is None else weights.to(query.device)
    return _Banded.apply(query, key, value, weights, band, dropout, scale)


class _Banded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, weights, band, dropout, scale):
        seed = int(torch.randint(2**62, ())) if dropout else 0
        call = _Call(weights, dropout, seed, scale, query)
        output = _room(query, zero=band.padded)
        normaliser = query.new_empty(query.shape[:3], dtype=_exact(query.dtype))
        for rows, places, pairs in band.calls():
            call.forward(pairs, *(x[rows, :, places] for x in (query, key, value, output, normaliser)))
        ctx.save_for_backward(query, key, value, weights, output, normaliser)
        ctx.call = (band, dropout, seed, scale)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        query, key, value, weights, output, normaliser = ctx.saved_tensors
        band, dropout, seed, scale = ctx.call
        call = _Call(weights, dropout, seed, scale, query)
        of_query, of_key, of_value = _room(query, band.padded), _room(key), _room(value)
        known = (query, key, value, output, normaliser, grad, of_query, of_key, of_value)
        for rows, places, pairs in band.calls():
            call.backward(pairs, *(x[rows, :, places] for x in known))
        return of_query, of_key, of_value, call.of_weights, None, None, None


class _Call:
    """Forward and backward of one call, sequence by sequence, part by part, a few blocks at a time."""

    def __init__(self, weights, dropout, seed, scale, like):
        self.scale, self.dropout, self.seed, self.weights = scale, dropout, seed, weights
        learned = weights is not None and weights.requires_grad
        self.of_weights = torch.zeros_like(weights) if learned else None
        self.fused = like.device.type == "cpu" and not dropout and not learned and _FUSED is not None
        self.scores = _SCORES.get(like.device.type, _SCORES["cuda"])
        self.generator = torch.Generator(like.device) if dropout else None
        self.number = 0

    def forward(self, pairs: Pairs, query: Flat, key: Flat, value: Flat, output: Flat, normaliser) -> None:
        for part in pairs.parts:
            # Scores that the fused kernel never holds need no memory.
            scores = self.scores * (4 if self.fused else 1) // len(query)
            for chunk in pairs.chunks(part, scores, query.shape[3]):
                tiles = part.tiles(query, *chunk)
                windows = part.windows(key, *chunk), part.windows(value, *chunk)
                added = self.added(pairs, part, chunk, len(query), query.dtype)
                if self.fused:
                    mixed, total = _FUSED(tiles, *windows, 0.0, False, attn_mask=added, scale=self.scale)
                else:
                    scores = self.window_scores(tiles, windows[0], added)
                    total = scores.logsumexp(-1)
                    weights = self.dropped(scores.sub_(total[..., None]).exp_())
                    mixed = weights.to(value.dtype) @ windows[1]
                mixed, total = flat(mixed, len(query)), flat(total, len(query))
                places = part.places(*chunk)
                if pairs.columns and not part.wide:
                    columns = _Columns(self, pairs, part, chunk, query, key)
                    both = torch.logaddexp(total, columns.scores.logsumexp(-1))
                    weights = self.dropped((columns.scores - both[..., None]).exp()).to(value.dtype)
                    mixed.mul_((total - both).exp()[..., None])
                    columns.mix_into(mixed, weights, value)
                    total = both
                output[:, part.heads, places] = mixed
                normaliser[:, part.heads, places] = total

    def backward(
        self, pairs, query, key, value, output, normaliser, grad, of_query, of_key, of_value
    ) -> None:
        for part in pairs.parts:
            for chunk in pairs.chunks(part, self.scores // len(query), query.shape[3]):
                tiles, grads, outputs = (part.tiles(x, *chunk) for x in (query, grad, output))
                windows = part.windows(key, *chunk), part.windows(value, *chunk)
                total = part.tiles(normaliser[..., None], *chunk)
                added = self.added(pairs, part, chunk, len(query), query.dtype)
                if self.fused:
                    dq, dk, dv = _FUSED_BACKWARD(
                        grads, tiles, *windows, outputs, total[..., 0].contiguous(), 0.0, False,
                        attn_mask=added, scale=self.scale,
                    )  # fmt: skip
                else:
                    weights = self.window_scores(tiles, windows[0], added).sub_(total).exp_()
                    share = (grads * outputs).sum(-1, keepdim=True, dtype=weights.dtype)
                    left = self.dropped(torch.ones_like(weights)) if self.dropout else 1.0
                    dv = (weights * left).to(grads.dtype).transpose(-1, -2) @ grads
                    of_scores = weights * ((grads @ windows[1].transpose(-1, -2)) * left - share)
                    self.add_weights(pairs, part, of_scores)
                    of_scores = (of_scores * self.scale).to(query.dtype)
                    dq, dk = of_scores @ windows[0], of_scores.transpose(-1, -2) @ tiles
                places = part.places(*chunk)
                dq = flat(dq, len(query))
                if pairs.columns and not part.wide:
                    columns = _Columns(self, pairs, part, chunk, query, key)
                    columns.backward(value, output, normaliser, grad, dq, of_key, of_value)
                of_query[:, part.heads, places] = dq
                part.add_windows(of_key, dk, *chunk)
                part.add_windows(of_value, dv, *chunk)

    def window_scores(self, tiles: Tiles, keys: Tiles, added: Tensor | None) -> Tensor:
        scores = ((tiles * self.scale) @ keys.transpose(-1, -2)).to(_exact(tiles.dtype))
        return scores if added is None else scores + added

    def added(
        self, pairs: Pairs, part: Part, chunk: tuple[int, int], rows: int, dtype: torch.dtype
    ) -> Float[Tensor, "#tile #head query key"] | None:
        """What is added to the scores of windows: minus infinity where there is no pair, and the weights."""
        kind = dtype if self.fused else _exact(dtype)
        key = (part, kind)
        if key in pairs.added:
            return pairs.added[key]
        added = pairs.mask(part, *chunk)
        of_each_block = not part.wide and pairs.fractional(part)
        if of_each_block:
            added = added.repeat(rows, 1, 1, 1)
        if self.weights is not None and (not part.wide or pairs.layout.weigh_all):
            bias = self.bias(part, part.distances.to(self.weights.device))[None]
            added = bias if added is None else added + bias
        added = added if added is None else added.to(kind)
        if self.of_weights is None and not of_each_block:
            pairs.added[key] = added
        return added

    def bias(self, part: Part, distances: Int[Tensor, "..."]) -> Float[Tensor, "#head ..."]:
        table = self.weights[part.heads] if len(self.weights) > 1 else self.weights
        return table[:, distances.clamp(max=table.shape[1] - 1)]

    def add_weights(self, pairs: Pairs, part: Part, of_scores: Float[Tensor, "tile head query key"]) -> None:
        if self.of_weights is not None and (not part.wide or pairs.layout.weigh_all):
            self.add_bias(part, part.distances.to(of_scores.device), of_scores.sum(0))

    def add_bias(self, part: Part, distances: Tensor, of_scores: Float[Tensor, "head ..."]) -> None:
        into = self.of_weights[part.heads] if len(self.of_weights) > 1 else self.of_weights
        if len(into) == 1:
            of_scores = of_scores.sum(0, keepdim=True)
        where = distances.clamp(max=into.shape[1] - 1).flatten()
        into.index_add_(1, where, of_scores.flatten(1).to(into.dtype))

    def dropped(self, weights: Tensor) -> Tensor:
        """Dropout, which falls the same way when the backward pass comes to the same blocks."""
        if not self.dropout:
            return weights
        self.number += 1
        self.generator.manual_seed((self.seed + self.number) % 2**63)
        return weights * kept(weights.shape, self.dropout, weights.dtype, weights.device, self.generator)


class _Columns:
    """Global keys, which all queries of some blocks have, and the keys that each of them drew."""

    def __init__(self, call: _Call, pairs: Pairs, part: Part, chunk: tuple[int, int], query: Flat, key: Flat):
        self.call, self.pairs, self.part = call, pairs, part
        self.places = part.places(*chunk)
        self.query, self.key = query[:, part.heads, self.places], key[:, part.heads]
        scores = []
        if pairs.globals:
            scores.append(self.query @ self.key[:, :, : pairs.globals].transpose(-1, -2))
        if pairs.drawn_total:
            self.drawn = pairs.drawn[0][self.places]
            self.exist = pairs.drawn_apart(part, *chunk)
            scores.append((self.query[..., None, :] * self.of_drawn(self.key)).sum(-1))
            scores[-1] = scores[-1].masked_fill(~self.exist, -torch.inf)
        self.scores = torch.cat(scores, -1).to(_exact(query.dtype)) * call.scale
        if pairs.layout.weigh_all:
            self.scores = self.scores + call.bias(part, self.distances)

    @property
    def distances(self) -> Int[Tensor, "query column"]:
        device = self.query.device
        places = torch.arange(self.places.start, self.places.stop, device=device)[:, None]
        columns = [torch.arange(self.pairs.globals, device=device).expand(len(places), -1)]
        return (places - torch.cat([*columns, self.drawn] if self.pairs.drawn_total else columns, 1)).abs()

    def of_drawn(self, x: Flat) -> Float[Tensor, "row head query drawn width"]:
        return x.index_select(2, self.drawn.flatten()).unflatten(2, self.drawn.shape)

    def mix_into(self, mixed: Flat, weights: Float[Tensor, "row head query column"], value: Flat) -> None:
        value, split = value[:, self.part.heads], self.pairs.globals
        _add_product(mixed, weights[..., :split], value[:, :, :split])
        if self.pairs.drawn_total:
            mixed += (weights[..., split:, None] * self.of_drawn(value)).sum(-2)

    def backward(self, value, output, normaliser, grad, of_query, of_key, of_value) -> None:
        """Add the gradients of queries (of these blocks), keys, values (of all tokens) and weights."""
        call, split = self.call, self.pairs.globals
        value, of_key, of_value = (x[:, self.part.heads] for x in (value, of_key, of_value))
        output, normaliser, grad = (x[:, self.part.heads, self.places] for x in (output, normaliser, grad))
        weights = (self.scores - normaliser[..., None]).exp()
        left = call.dropped(torch.ones_like(weights))
        of_weights = [grad @ value[:, :, :split].transpose(-1, -2)]
        if self.pairs.drawn_total:
            of_weights.append((grad[..., None, :] * self.of_drawn(value)).sum(-1))
        share = (grad * output).sum(-1, keepdim=True, dtype=weights.dtype)
        of_scores = weights * (torch.cat(of_weights, -1) * left - share)
        if call.of_weights is not None and self.pairs.layout.weigh_all:
            call.add_bias(self.part, self.distances, of_scores.sum(0))
        weights, of_scores = (weights * left).to(grad.dtype), (of_scores * call.scale).to(grad.dtype)
        _add_product(of_query, of_scores[..., :split], self.key[:, :, :split])
        of_key[:, :, :split] += of_scores[..., :split].transpose(-1, -2) @ self.query
        of_value[:, :, :split] += weights[..., :split].transpose(-1, -2) @ grad
        if self.pairs.drawn_total:
            places = self.drawn.flatten()
            of_query += (of_scores[..., split:, None] * self.of_drawn(self.key)).sum(-2)
            to_keys = of_scores[..., split:, None] * self.query[..., None, :]
            of_key.index_add_(2, places, to_keys.flatten(2, 3))
            of_value.index_add_(2, places, (weights[..., split:, None] * grad[..., None, :]).flatten(2, 3))


_FUSED = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_FUSED_BACKWARD = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)


def _add_product(into: Flat, left: Float[Tensor, "row head query column"], right: Flat) -> None:
    for row, (a, b) in enumerate(zip(left, right, strict=True)):
        into[row].baddbmm_(a, b)


def _room(like: Flat, zero: bool = True) -> Flat:
    """Memory in which a token's heads lie side by side, as the layers around attention want it."""
    shape = (like.shape[0], like.shape[2], like.shape[1], like.shape[3])
    return (like.new_zeros if zero else like.new_empty)(shape).transpose(1, 2)


def _exact(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32
