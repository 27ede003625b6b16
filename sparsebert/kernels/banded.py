"""Attention over a band, global tokens and random keys, in plain torch, without any [length, length] tensor.

Each sequence is taken by itself, without its padding. Its global tokens come first; a block of them meets all
keys. A block of B other queries meets the B + 2w keys of its window, so that what is computed grows with the
length times the width. The keys that all queries have (global) or that are each
query's own (random) are columns apart; the softmax over both is put together from their normalisers, as
FlashAttention does for blocks of keys (Dao et al., 2022). Scores are computed anew in the backward pass, and
no more than the inputs, the output and one number per query is kept for it.

The windows are computed by torch's fused attention for processors where it can be used, and else written
out: on GPUs, with dropout, and in the backward pass where weights are learned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag, pad

from sparsebert.kernels.dropout import kept
from sparsebert.kernels.kernel import Context, Heads, Kernel, needs_layout
from sparsebert.patterns.hard_degrees import quantiles
from sparsebert.patterns.layouts import Layout
from sparsebert.registry import register

_GROUPED = 32  # widths that differ by less are computed together
_SCORES = {"cpu": 2**20, "cuda": 2**26}  # that are worked on at a time, so that a call needs little memory
_SHORTEST_ON_GPU = 1024

# What it costs on a processor, in scores of dense attention: each of its own scores, the keys of
# windows that take as long as a query's columns, and what every sequence takes for each group of heads and,
# since it is done by one thread alone, for each thread. With dropout neither has a fused kernel. Fitted to
# `sparsebert bench attention`, on the careful side.
_SCORE = {"fused": 1.3, "dropout": 1.8}
_GLOBAL_COLUMNS, _RANDOM_COLUMN = 20, 40
_START, _START_OF_COLUMNS = 20_000, 30_000
_QUERIES = {False: 2**21, True: 3 * 2**17}  # numbers of queries at a time, where no scores are held; backward

Flat = Float[Tensor, "row head query width"]
Tiles = Float[Tensor, "tile head query width"]
Table = Float[Tensor, "#head offset"]  # added to scores, by place of the key less place of the query


@register
class Banded(Kernel):
    """Blocks of queries and the windows of their keys."""

    name = "banded"

    @classmethod
    def supports(cls, layout: Layout | None, context: Context) -> str | None:
        return needs_layout(layout, context)

    @classmethod
    def cost(cls, layout: Layout, context: Context) -> float:
        groups = head_groups(layout, context.heads)
        windows = [(heads, min(block_size(width) + 2 * width, context.length)) for heads, width in groups]
        keys = sum((heads.stop - heads.start) * window for heads, window in windows) / context.heads
        keys += layout.tokens and _GLOBAL_COLUMNS + 2 * layout.tokens
        keys += _RANDOM_COLUMN * sum(k for k, _ in layout.random)
        if context.device.type != "cpu":
            return 4 * keys * context.length if context.length >= _SHORTEST_ON_GPU else torch.inf
        start = _START + (_START_OF_COLUMNS if layout.tokens or layout.random else 0)
        each = _SCORE["dropout" if context.dropout else "fused"]
        return context.length * keys * each + start * len(groups) * torch.get_num_threads()

    def __init__(self, layout: Layout, context: Context):
        super().__init__(layout, context)
        real = context.batch.real
        counts, starts = real.sum(-1).tolist(), real.int().argmax(-1).tolist()
        self.padded = min(counts) < context.length
        spans = list(zip(starts, counts, strict=True))
        if real.device.type != "cpu" and len(set(spans)) == 1 and counts[0]:
            self.sequences = [(slice(0, len(spans)), *spans[0])]
        else:
            self.sequences = [(slice(row, row + 1), *span) for row, span in enumerate(spans) if span[1]]
        self._pairs = {n: Pairs(layout, n, context.heads, real.device) for n in set(counts) if n}

    def __call__(self, query, key, value, dropout=0.0, scale=None, by_offset=None) -> Heads:
        """Padding queries get 0."""
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        near = far = by_offset
        if self.layout.weights is not None:
            weights = self.layout.weights.to(query.device)
            near = _sum(torch.cat([weights.flip(1)[:, :-1], weights], 1), by_offset)
            far = near if self.layout.weigh_all else far
        return _Banded.apply(query, key, value, near, far, self, dropout, scale)

    def calls(self) -> Iterator[tuple[slice, slice, Pairs]]:
        """Rows of the batch, the places of their tokens, and their pairs."""
        for rows, start, count in self.sequences:
            yield rows, slice(start, start + count), self._pairs[count]


def _sum(one: Table, other: Table | None) -> Table:
    """The sum of two tables; beyond the end of the shorter one its last entries count."""
    if other is None:
        return one
    longer = max(one.shape[1], other.shape[1])
    one, other = (
        pad(x[None], [(longer - x.shape[1]) // 2] * 2, mode="replicate")[0] if x.shape[1] < longer else x
        for x in (one, other)
    )
    return one + other


# ---- which pairs there are, by parts -------------------------------------------------------------


def block_size(width: int) -> int:
    """Queries of a block: many are quick to multiply, few have few keys in excess of the 2w + 1 wanted."""
    return 16 if width <= 16 else 32 if width <= 128 else 64


def head_groups(layout: Layout, heads: int) -> list[tuple[slice, int]]:
    """Adjacent heads whose widths need about as many keys, and the largest of these widths.

    They are computed together: calls of their own would take longer than the keys in excess.
    """
    if layout.plain:
        return [(slice(0, heads), layout.width)]
    widths = [int(row.nonzero().max()) for row in layout.kept.expand(heads, -1)]
    steps = [max(1, -(-width // _GROUPED)) for width in widths]
    starts = [h for h in range(heads) if not h or steps[h] != steps[h - 1]]
    return [(slice(a, b), max(widths[a:b])) for a, b in zip(starts, [*starts[1:], heads], strict=True)]


@dataclass(frozen=True, eq=False)
class Part:
    """Queries in blocks of some adjacent heads, and the windows of their keys.

    Block b has the queries from `query + b * block` on and the keys from `key + b * block` on. Its pairs are
    those of the band, or those of global queries. A `merged` part has further keys of queries that have been
    in a part before.
    """

    heads: slice
    query: int
    block: int
    blocks: int
    key: int
    window: int
    of_globals: bool = False
    merged: bool = False

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
        for start in range(0, self.window, self.block if count > 1 else self.window):
            stop = min(start + self.block, self.window) if count > 1 else self.window
            place = self.key + first * self.block + start
            keys = into[:, :, place : place + (count - 1) * self.block + stop - start]
            row, head, step, one = keys.stride()
            keys.as_strided(
                (*keys.shape[:2], count, stop - start, keys.shape[3]),
                (row, head, self.block * step, step, one),
            ).add_(windows[..., start:stop, :])

    @property
    def offsets(self) -> Int[Tensor, "query key"]:
        """Place of the key less place of the query; the same in each block."""
        query = self.query + torch.arange(self.block)
        return self.key + torch.arange(self.window) - query[:, None]


def flat(tiles: Tensor, rows: int) -> Tensor:
    """[tile, head, query, ...] -> [row, head, query, ...]."""
    return tiles.unflatten(0, (rows, -1)).transpose(1, 2).flatten(2, 3)


class Pairs:
    """The pairs of a layout in a sequence of `length` tokens: parts of the band, and what is beside it."""

    def __init__(self, layout: Layout, length: int, heads: int, device: torch.device):
        self.layout, self.length, self.heads, self.device = layout, length, heads, device
        self.globals = min(layout.tokens, length)
        self._masks: dict[Part, Tensor | None] = {}
        self.parts = list(self._parts())
        self.random: RandomKeys | None = None
        if layout.random and self.globals < length > 1:
            keys, exist = layout.random_keys(length, heads, device)
            self.random = RandomKeys(keys[self.globals :], exist[:, self.globals :], heads, length)
        self.columns = self.globals < length and bool(self.globals or self.random)

    def _parts(self) -> Iterator[Part]:
        first, last = self.globals, self.length
        if first < last:
            yield from self._band(first, last, first, last)
        some = max(1, _SCORES["cpu"] // (self.heads * last))
        for start in range(0, first, some):
            yield Part(slice(0, self.heads), start, min(some, first - start), 1, 0, last, of_globals=True)

    def _band(self, first: int, last: int, low: int, high: int) -> Iterator[Part]:
        """Queries from `first` to `last` and their windows of the keys from `low` to `high`."""
        for heads, width in head_groups(self.layout, self.heads):
            width = min(width, self.length - 1)
            block = block_size(width)
            before, behind = max(width - first + low, 0), max(width - high + last, 0)
            edge = -(-before // block) * block  # queries whose windows would begin before the first key
            blocks = (last - first - edge - behind) // block
            if blocks < 1:  # each query meets all keys, or nearly so
                key = max(low, first - width)
                window = min(high, last + width) - key
                some = max(block, _SCORES["cpu"] // window)
                for start in range(first, last, some):
                    yield Part(heads, start, min(some, last - start), 1, key, window)
                continue
            inner = first + edge
            if edge:
                key = max(low, first - width)
                yield Part(heads, first, edge, 1, key, inner + width - key)
            yield Part(heads, inner, block, blocks, inner - width, block + 2 * width)
            end = inner + blocks * block
            if end < last:
                yield Part(heads, end, last - end, 1, end - width, min(high, last + width) - end + width)

    def mask(self, part: Part, first: int, count: int) -> Float[Tensor, "#tile #head query key"] | None:
        """0 for the pairs that exist and minus infinity for others; None if all exist."""
        if self.layout.irregular and not part.of_globals:
            own = part.tiles(self._quantiles[..., None], first, count)
            return torch.where(own < self._shares(part), 0.0, -torch.inf)
        if part not in self._masks:
            exist = self._seen(part.offsets)[None] if part.of_globals else self._shares(part) > 0
            self._masks[part] = None if exist.all() else torch.where(exist, 0.0, -torch.inf)[None]
        return self._masks[part]

    def _shares(self, part: Part) -> Float[Tensor, "#head query key"]:
        """Shares of queries that keep a pair."""
        shares = self.layout.kept[part.heads] if len(self.layout.kept) > 1 else self.layout.kept
        return pad(shares, (0, 1))[:, part.offsets.abs().clamp(max=shares.shape[1])].to(self.device)

    @cached_property
    def _quantiles(self) -> Float[Tensor, "1 head length"]:
        return quantiles(torch.arange(self.length, device=self.device)[None], self.layout.layer, self.heads)

    def _seen(self, offsets: Int[Tensor, "query key"]) -> Bool[Tensor, "query key"]:
        """The pairs that the encoder's own window shows."""
        window = self.length if self.layout.window is None else self.layout.window
        return (offsets.abs() <= window).to(self.device)

    # The columns that all but the global queries have beside the band: global keys first, then random ones.

    @property
    def column_offsets(self) -> Int[Tensor, "query column"]:
        """Place of the key less place of the query."""
        place = torch.arange(self.length, device=self.device)
        keys = place[: self.globals].expand(self.length - self.globals, -1)
        keys = keys if self.random is None else torch.cat([keys, self.random.keys], 1)
        return keys - place[self.globals :, None]

    @cached_property
    def missing(self) -> Bool[Tensor, "#head query column"] | None:
        """The columns that do not exist; None if all do."""
        missing = ~self._seen(self.column_offsets)[None]
        if self.random is not None:
            exist = self.random.exist
            missing = missing.expand(len(exist), -1, -1).clone()
            missing[..., self.globals :] = ~exist
        return missing if missing.any() else None

    def column_products(self, query: Flat, key: Flat) -> Float[Tensor, "row head query column"]:
        """Products of vectors of each query with those of its columns."""
        query = query[:, :, self.globals :]
        products = []
        if self.globals:
            keys = key[:, :, : self.globals].transpose(-1, -2)
            products.append(query.to(_exact(query.dtype)) @ keys.to(_exact(key.dtype)))
        if self.random:
            products.append(self.random.products(query, key))
        return torch.cat(products, -1) if len(products) > 1 else products[0]

    def mix_columns(self, into: Flat, weights: Float[Tensor, "row head query column"], value: Flat) -> None:
        """Add to each query the weighted sum over its columns."""
        if self.globals:
            _add_product(into, weights[..., : self.globals], value[:, :, : self.globals])
        if self.random:
            into.add_(self.random.mix(weights[..., self.globals :], value))

    def mix_queries(self, into: Flat, weights: Float[Tensor, "row head query column"], query: Flat) -> None:
        """Add to each key the weighted sum over the queries that have it as a column."""
        query = query[:, :, self.globals :]
        if self.globals:
            _add_product(into[:, :, : self.globals], weights[..., : self.globals].transpose(-1, -2), query)
        if self.random:
            into.add_(self.random.mix_back(weights[..., self.globals :], query))


class RandomKeys:
    """Some keys of each query's own. Heads of tokens are rows of a table, token by token.

    torch's embedding bags gather, weigh and add such rows in one pass over memory.
    """

    def __init__(
        self, keys: Int[Tensor, "query own"], exist: Bool[Tensor, "#head query own"], heads: int, length: int
    ):
        self.keys, self.exist, self.heads = keys, exist, heads
        count, head = keys.shape[1], torch.arange(heads, device=keys.device)[:, None]
        self._to = (keys[:, None] * heads + head).flatten(0, 1)  # rows of each query's keys
        self._first = torch.arange(0, self._to.numel(), count, device=keys.device)
        self._queries = torch.arange(len(self._to), device=keys.device).repeat_interleave(count)
        # The same the other way round: for each head and key the queries that have it.
        self._order = keys.flatten().argsort(stable=True)
        self._from = ((self._order // count) * heads + head).flatten()
        having = keys.flatten().bincount(minlength=length)
        self._first_from = (head * keys.numel() + having.cumsum(0) - having).flatten()

    def products(self, query: Flat, key: Flat) -> Float[Tensor, "row head query own"]:
        """Products of each query with its keys."""
        pairs = zip(_rows(query), _rows(key), strict=True)
        each = [_PRODUCTS(a, b, self._to.flatten(), self._first, self._queries, 0) for a, b in pairs]
        return torch.stack(each).unflatten(1, (-1, self.heads, self.keys.shape[1])).transpose(1, 2)

    def mix(self, weights: Float[Tensor, "row head query own"], value: Flat) -> Flat:
        """The weighted sum of each query's values."""
        mixed = self._bags(weights.transpose(1, 2), value, self._to)
        return mixed.unflatten(1, (-1, self.heads)).transpose(1, 2)

    def mix_back(self, weights: Float[Tensor, "row head query own"], query: Flat) -> Flat:
        """The weighted sum for each key over the queries that have it."""
        mixed = self._bags(weights.flatten(2)[:, :, self._order], query, self._from, self._first_from)
        return mixed.unflatten(1, (self.heads, -1))

    def _bags(self, weights: Tensor, x: Flat, places: Tensor, first: Tensor | None = None) -> Tensor:
        weights = weights.reshape(-1, *places.shape)
        return torch.stack(
            [
                embedding_bag(places, rows, first, mode="sum", per_sample_weights=each)
                for each, rows in zip(weights, _rows(x), strict=True)
            ]
        )


def _rows(x: Flat) -> Float[Tensor, "row token_and_head width"]:
    return x.transpose(1, 2).flatten(1, 2).to(_exact(x.dtype))


# ---- forward and backward ------------------------------------------------------------------------


class _Banded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, near, far, kernel, dropout, scale):
        query, key, value = map(_in_rows, (query, key, value))
        seed = int(torch.randint(2**62, ())) if dropout else 0
        call = _Call(near, far, dropout, seed, scale)
        output = _buffer(query, query.dtype, zero=kernel.padded)
        normaliser = query.new_empty(query.shape[:3], dtype=_exact(query.dtype))
        with torch.autocast(query.device.type, enabled=False):
            for rows, places, pairs in kernel.calls():
                call.forward(pairs, *(x[rows, :, places] for x in (query, key, value, output, normaliser)))
        ctx.save_for_backward(query, key, value, near, far, output, normaliser)
        ctx.call = (kernel, dropout, seed, scale)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        query, key, value, near, far, output, normaliser = ctx.saved_tensors
        kernel, dropout, seed, scale = ctx.call
        call = _Call(near, far, dropout, seed, scale)
        call.of_near, call.of_far = (
            torch.zeros_like(table) if wanted else None
            for table, wanted in zip((near, far), ctx.needs_input_grad[3:5], strict=True)
        )
        exact = _exact(query.dtype)
        gradients = _buffer(query, exact, kernel.padded), _buffer(key, exact), _buffer(value, exact)
        known = (query, key, value, output, normaliser, _in_rows(grad), *gradients)
        with torch.autocast(query.device.type, enabled=False):
            for rows, places, pairs in kernel.calls():
                call.backward(pairs, *(x[rows, :, places] for x in known))
        return *(x.to(query.dtype) for x in gradients), call.of_near, call.of_far, None, None, None


class _Call:
    """Forward and backward of one call, sequence by sequence: parts, then columns."""

    def __init__(self, near: Table | None, far: Table | None, dropout: float, seed: int, scale: float):
        self.near, self.far, self.dropout, self.seed, self.scale = near, far, dropout, seed, scale
        self.of_near = self.of_far = None  # gradients of the tables, where they are wanted
        self.number = 0

    def forward(self, pairs: Pairs, query: Flat, key: Flat, value: Flat, output: Flat, normaliser) -> None:
        for part, chunk in self.chunks(pairs, query):
            tiles = part.tiles(query, *chunk)
            windows = part.windows(key, *chunk), part.windows(value, *chunk)
            added = self.added(pairs, part, chunk, len(query))
            if self.fused(part, query):
                added = added if added is None else added.to(query.dtype)
                mixed, total = _FUSED(tiles, *windows, 0.0, False, attn_mask=added, scale=self.scale)
            else:
                scores = self.scores(tiles, windows[0], added)
                total = scores.logsumexp(-1)
                mixed = self.dropped(scores.sub_(total[..., None]).exp_()).to(value.dtype) @ windows[1]
            mixed, total = flat(mixed, len(query)), flat(total, len(query))
            places = part.heads, part.places(*chunk)
            if part.merged:
                known, before = output[:, *places].to(total.dtype), normaliser[:, *places]
                mixed = known.lerp(mixed.to(total.dtype), (total - before).sigmoid_()[..., None])
                total = torch.logaddexp(before, total)
            output[:, *places], normaliser[:, *places] = mixed, total
        if pairs.columns:
            rest = slice(pairs.globals, None)
            scores, total = self.column_scores(pairs, query, key), normaliser[:, :, rest]
            both = torch.logaddexp(total, scores.logsumexp(-1))
            weights = self.dropped(scores.sub_(both[..., None]).exp_())
            mixed = output[:, :, rest].to(weights.dtype)
            mixed.mul_((total - both).exp_()[..., None])
            pairs.mix_columns(mixed, weights, value)
            if mixed.dtype != output.dtype:
                output[:, :, rest] = mixed
            total.copy_(both)

    def backward(
        self, pairs, query, key, value, output, normaliser, grad, of_query, of_key, of_value
    ) -> None:
        for part, chunk in self.chunks(pairs, query, backward=True):
            tiles, grads, outputs = (part.tiles(x, *chunk) for x in (query, grad, output))
            windows = part.windows(key, *chunk), part.windows(value, *chunk)
            total = part.tiles(normaliser[..., None], *chunk)
            added = self.added(pairs, part, chunk, len(query))
            if self.fused(part, query) and not part.of_globals:
                added = added if added is None else added.to(query.dtype)
                dq, dk, dv = _FUSED_BACKWARD(
                    grads, tiles, *windows, outputs, total[..., 0].contiguous(), 0.0, False,
                    attn_mask=added, scale=self.scale,
                )  # fmt: skip
                part.add_windows(of_key, dk, *chunk)
                part.add_windows(of_value, dv, *chunk)
            else:
                weights = self.scores(tiles, windows[0], added).sub_(total).exp_()
                of_weights = _exact_product(grads, windows[1].transpose(-1, -2))
                weights, of_scores = self.of_scores(weights, of_weights, grads, outputs)
                if (table := self.table(part, gradient=True)) is not None:
                    _add_to_table(table, part.heads, part.offsets, of_scores)
                of_scores = of_scores.mul_(self.scale)
                dq = of_scores.to(query.dtype) @ windows[0]
                for into, left, right in ((of_key, of_scores, tiles), (of_value, weights, grads)):
                    left = left.transpose(-1, -2)
                    if part.of_globals:
                        _add_product(into, left, right)
                    else:
                        part.add_windows(into, left.to(right.dtype) @ right, *chunk)
            into, dq = of_query[:, part.heads, part.places(*chunk)], flat(dq, len(query))
            if part.merged:
                into.add_(dq)
            else:
                into.copy_(dq)
        if pairs.columns:
            rest = slice(pairs.globals, None)
            weights = self.column_scores(pairs, query, key).sub_(normaliser[:, :, rest, None]).exp_()
            of_weights = pairs.column_products(grad, value)
            weights, of_scores = self.of_scores(weights, of_weights, grad[:, :, rest], output[:, :, rest])
            if self.of_far is not None:
                _add_to_table(self.of_far, slice(0, pairs.heads), pairs.column_offsets, of_scores)
            of_scores.mul_(self.scale)
            pairs.mix_columns(of_query[:, :, rest], of_scores, key)
            pairs.mix_queries(of_key, of_scores, query)
            pairs.mix_queries(of_value, weights, grad)

    def fused(self, part: Part, query: Flat) -> bool:
        on_cpu = query.device.type == "cpu" and _FUSED is not None
        return on_cpu and not self.dropout and self.table(part, gradient=True) is None

    def table(self, part: Part, gradient: bool = False) -> Table | None:
        """What is added to the scores of a part, or where its gradient is summed."""
        near, far = (self.of_near, self.of_far) if gradient else (self.near, self.far)
        return far if part.of_globals else near

    def chunks(self, pairs: Pairs, query: Flat, backward=False) -> Iterator[tuple[Part, tuple[int, int]]]:
        """The parts of the band, some blocks at a time: first and count."""
        for part in pairs.parts:
            heads = part.heads.stop - part.heads.start
            scores = _SCORES.get(query.device.type, _SCORES["cuda"])
            queries = scores // (len(query) * heads * part.window)
            if self.fused(part, query):  # which holds no scores
                queries = _QUERIES[backward] // (heads * query.shape[3])
            some = max(1, queries // part.block)
            for first in range(0, part.blocks, some):
                yield part, (first, min(some, part.blocks - first))

    # Scores are exact, whatever the inputs' precision, so that they are rounded once at most.

    def scores(self, query: Tiles, key: Tiles, added: Tensor | None) -> Tensor:
        scores = _exact_product(query, key.transpose(-1, -2)).mul_(self.scale)
        return scores if added is None else scores.add_(added)

    def column_scores(self, pairs: Pairs, query: Flat, key: Flat) -> Tensor:
        scores = pairs.column_products(query, key).mul_(self.scale)
        if self.far is not None:
            scores.add_(_at(self.far, pairs.column_offsets))
        return scores if pairs.missing is None else scores.masked_fill_(pairs.missing, -torch.inf)

    def added(
        self, pairs: Pairs, part: Part, chunk: tuple[int, int], rows: int
    ) -> Float[Tensor, "#tile #head query key"] | None:
        """What is added to the scores of windows: minus infinity where there is no pair, and the table."""
        added = pairs.mask(part, *chunk)
        if added is not None and len(added) > 1:
            added = added.repeat(rows, 1, 1, 1)
        table = self.table(part)
        if table is None:
            return added
        table = table[part.heads] if len(table) > 1 else table
        bias = _at(table, part.offsets.to(table.device))[None]
        return bias if added is None else added + bias

    def of_scores(self, weights, of_weights, grad, output) -> tuple[Tensor, Tensor]:
        """Weights after dropout, and the gradient of scores."""
        share = (grad.to(weights.dtype) * output).sum(-1, keepdim=True)
        if not self.dropout:
            return weights, of_weights.sub_(share).mul_(weights)
        left = self.dropped(torch.ones_like(weights))
        return weights * left, of_weights.mul_(left).sub_(share).mul_(weights)

    def dropped(self, weights: Tensor) -> Tensor:
        """Dropout, which falls the same way when the backward pass comes to the same weights."""
        if not self.dropout:
            return weights
        self.number += 1
        generator = torch.Generator(weights.device).manual_seed((self.seed + self.number) % 2**63)
        return weights * kept(weights.shape, self.dropout, weights.dtype, weights.device, generator)


_FUSED = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_FUSED_BACKWARD = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)
_PRODUCTS = torch.ops.aten._embedding_bag_per_sample_weights_backward


def _at(table: Table, offsets: Int[Tensor, "query key"]) -> Float[Tensor, "#head query key"]:
    reach = table.shape[1] // 2
    return table[:, offsets.clamp(-reach, reach) + reach]


def _add_to_table(table: Table, heads: slice, offsets: Int[Tensor, "query key"], of_scores: Tiles) -> None:
    of_scores = of_scores.sum(0)
    into = table[heads] if len(table) > 1 else table
    if len(into) == 1:
        of_scores = of_scores.sum(0, keepdim=True)
    reach = table.shape[1] // 2
    places = (offsets.clamp(-reach, reach) + reach).to(table.device).flatten()
    into.index_add_(1, places, of_scores.flatten(1).to(table.dtype))


def _exact_product(left: Tensor, right: Tensor) -> Tensor:
    exact = _exact(left.dtype)
    if left.is_cuda and left.dtype != exact:  # tensor cores add up in float32 and need not round
        heads = left.shape[:2]
        right = right.expand(*heads, -1, -1)
        product = torch.bmm(left.flatten(0, 1), right.flatten(0, 1), out_dtype=exact)
        return product.unflatten(0, heads)
    return left.to(exact) @ right.to(exact)


def _add_product(into: Flat, left: Float[Tensor, "row head query column"], right: Flat) -> None:
    right = right.to(left.dtype)
    if left.shape[-1] == 1:  # one global token, for which a product of matrices takes twice as long
        into.addcmul_(left, right)
        return
    for row, (a, b) in enumerate(zip(left, right, strict=True)):
        into[row].baddbmm_(a, b)


def _in_rows(x: Heads) -> Heads:
    """The same numbers with those of a row side by side, as the fused attention reads them."""
    if x.stride(3) == 1 and x.stride(2) >= x.shape[3]:
        return x
    return x.transpose(1, 2).clone(memory_format=torch.contiguous_format).transpose(1, 2)


def _buffer(like: Flat, dtype: torch.dtype, zero: bool = True) -> Flat:
    """Memory in which a token's heads lie side by side, as the layers around attention want it."""
    shape = (like.shape[0], like.shape[2], like.shape[1], like.shape[3])
    return (like.new_zeros if zero else like.new_empty)(shape, dtype=dtype).transpose(1, 2)


def _exact(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32
