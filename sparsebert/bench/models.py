"""A whole encoder, dense against a plan: tokens per second, memory, and where the time goes.

Every step has the same number of tokens, in fewer and longer sequences, so that what differs between lengths
is attention. Attention's share of the dense step bounds what any plan can gain (Amdahl's law): were it free,
the step would still take the rest of its time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from time import perf_counter

import pandas as pd
import psutil
import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from sparsebert.bench import PLAN, measuring
from sparsebert.errors import InputError, check_names
from sparsebert.kernels.dropout import speed_up_dropout
from sparsebert.models.architectures import architecture_of
from sparsebert.models.encoders import check_encoder, extend_positions, load_classifier
from sparsebert.models.sparsified import Sparsified, sparsify
from sparsebert.patterns.plans import Plan, parse_plan
from sparsebert.reductions import Reduction, attach_reduction

MODES = ("training", "inference")
PARTS = ("attention", "projections", "feed_forward", "rest")
SIZES = ("bert-base",)  # sizes of random models that need no download


def model_rows(
    plan: str,
    lengths: Sequence[int],
    *,
    encoder: str = "minilm",
    reduce: str | None = None,
    modes: Sequence[str] | None = None,
    tokens: int | None = None,
    rounds: int = 3,
    dtype: str = "fp32",
    device: str | None = None,
    longest_dense: int | None = None,
    seed: int = 0,
    done: Set[tuple[str, int, str]] = frozenset(),
) -> Iterator[dict]:
    """A row for each mode, length and contender (`dense` and `plan`), as soon as a length is done.

    `encoder` is one that `load_classifier` takes, or `bert-base`, random weights of that size; its positions
    are extended. With `reduce` tokens leave under the plan (see `sparsebert.reductions`), and inference alone
    is measured: training with it takes passes of its own. `tokens` is how many a step has (by default the
    longest length); a length has as many sequences as make them up, at least one. Dense attention is left out
    beyond `longest_dense` tokens and where its scores would not fit into memory. `dtype` is that of autocast.
    A length is not measured if `done` has both contenders: each as its row's `mode`, `length` and
    `contender`. Progress goes to standard error.

    In a row: `encoder`; `mode`, training (a step with its backward pass and AdamW) or inference; `length`
    (tokens of a sequence) and `batch` (sequences of a step); `contender`, `plan`, `kernel` (those its layers
    took) and `density` (mean over layers); `seconds` of a step (median of rounds), `tokens_per_second`,
    `over_dense` (median of the rounds' own ratios of seconds), `spread` (interquartile range of seconds over
    their median); `memory`, peak bytes of tensors beyond weights and the optimizer's state; shares of the
    time, which add up to 1: `attention` (the core), `projections` (to queries, keys and values, and of the
    output), `feed_forward`, `rest`; `left_out`, the reason if it wasn't measured. What wasn't is NaN. Raises
    `InputError` for a plan that reads words or parses, and for an encoder that is not found.
    """
    device, kind = measuring.find_device(device), measuring.find_dtype(dtype)
    parsed = plan_without_parses(plan)
    modes = modes or (MODES if reduce is None else ("inference",))
    check_names("mode", modes, MODES)
    if "training" in modes and reduce:
        raise InputError("mode training is not measured with --reduce; write --mode inference")
    torch.manual_seed(seed)
    model = random_or_loaded(encoder, max(lengths)).to(device)
    speed_up_dropout(model)  # as in fine-tuning
    parsed.layers(architecture_of(model).layers)  # refuses what the model lacks before anything is measured
    reduction = attach_reduction(model, reduce) if reduce else None
    cast = nullcontext() if dtype == "fp32" else torch.autocast(device, kind)
    for mode in modes:
        for length in lengths:
            if done >= {(mode, length, name) for name in ("dense", "plan")}:
                continue
            batch = max(1, (tokens or max(lengths)) // length)
            generator = torch.Generator().manual_seed(seed)
            ids = torch.randint(5, model.config.vocab_size, (batch, length), generator=generator).to(device)
            trials = {
                name: _Trial(model, mode == "training", ids, text, way, cast, longest_dense)
                for name, text, way in (("dense", "dense", None), ("plan", str(parsed), reduction))
            }
            turns = [trial.take_turn for trial in trials.values()]
            measuring.take_turns(turns, rounds, f"{mode}, {batch} x {length:,} tokens")
            for name, trial in trials.items():
                row = {"encoder": encoder, "mode": mode, "length": length, "batch": batch, "contender": name}
                yield row | trial.row(trials["dense"])


def plan_without_parses(text: str) -> Plan:
    """A plan that can be timed on random tokens. Raises `InputError` if it reads parses or pairs of texts."""
    plan = parse_plan(text)
    if lacking := plan.needs - {"embeddings"}:
        read = "pairs of texts" if lacking == {"second"} else "parses"
        raise InputError(
            f"plan '{text}' reads {read}, which random tokens don't have; write one without, such as '{PLAN}'"
        )
    return plan


def random_or_loaded(encoder: str, length: int) -> PreTrainedModel:
    """A classifier of two classes that takes `length` tokens; `InputError` as from `load_classifier`."""
    if encoder in SIZES:
        return extend_positions(BertForSequenceClassification(BertConfig()), length)
    return load_classifier(check_encoder(encoder), ("no", "yes"), length)


@dataclass
class _Trial:
    """A model under a plan on one batch: what each of its rounds took."""

    model: PreTrainedModel
    training: bool
    ids: Int[Tensor, "batch length"]
    plan: str
    reduction: Reduction | None
    cast: AbstractContextManager
    longest_dense: int | None

    def __post_init__(self) -> None:
        self.device = self.ids.device.type
        self.seconds: list[float] = []
        self.shares: list[dict[str, float]] = []
        self.memory, self.density, self.kernels = math.nan, math.nan, ""
        self.labels = torch.zeros_like(self.ids[:, 0]) if self.training else None
        # Fused AdamW, and a rate of 0, so that all contenders keep the same weights.
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0, fused=True)
        self.left_out = self._too_long() if self.plan == "dense" else ""
        try:
            if not self.left_out:
                self._warm_up()
        except torch.OutOfMemoryError:
            self.left_out = "it doesn't fit into the GPU's memory"

    def _too_long(self) -> str:
        """Why dense attention should not even be tried: on a processor, running out of memory ends it all."""
        batch, length = self.ids.shape
        if self.longest_dense and length > self.longest_dense:
            return f"dense attention is not run beyond {self.longest_dense:,} tokens"
        architecture = architecture_of(self.model)
        if self.device == "cpu" and self.training and architecture.dropout:
            # Dropout takes the unfused kernel, and each layer keeps its attention weights, before and after.
            scores = architecture.layers * batch * architecture.heads * length**2
            wanted, free = 3 * 4 * scores, psutil.virtual_memory().available
            if wanted > 0.8 * free:
                return f"its scores would take {wanted / 1e9:.0f} GB, and {free / 1e9:.0f} GB are free"
        return ""

    def _under_plan(self) -> Sparsified:
        return sparsify(self.model.train(self.training), self.plan, reduction=self.reduction)

    def _step(self) -> None:
        with torch.set_grad_enabled(self.training), self.cast:
            made = self.model(self.ids, attention_mask=torch.ones_like(self.ids), labels=self.labels)
        if self.training:
            made.loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def _warm_up(self) -> None:
        with self._under_plan() as sparse:
            with sparse.measure() as meter:
                self._step()
            self.density, self.kernels = fmean(meter.over_real), ", ".join(dict.fromkeys(sparse.kernels))
        with self._under_plan():  # anew, so that masks are built and counted
            self.memory = measuring.peak_tensor_bytes(self._step, self.device)

    def take_turn(self) -> None:
        """One step as it is, for its time, and one that is watched, for its parts' shares."""
        if self.left_out:
            return
        with self._under_plan():
            self._step()  # so that masks are built, and no contender begins in the other's wake
            self.seconds.append(measuring.seconds(self._step, 1, self.device))
            self.shares.append(shares(self.model, self._step, self.device))

    def row(self, dense: _Trial) -> dict:
        taken = measuring.median(self.seconds)
        return {
            "plan": f"{self.plan}, {self.reduction}" if self.reduction else self.plan,
            "kernel": self.kernels,
            "density": self.density,
            "seconds": taken,
            "tokens_per_second": self.ids.numel() / taken,
            "over_dense": measuring.paired_ratio(self.seconds, dense.seconds),
            "spread": measuring.spread(self.seconds),
            "memory": self.memory,
            **{part: measuring.median([one[part] for one in self.shares]) for part in PARTS},
            "left_out": self.left_out,
        }


def shares(model: PreTrainedModel, step: Callable[[], object], device: str = "cpu") -> dict[str, float]:
    """Shares of a step's time by part, forward and backward passes together; they add up to 1.

    Hooks on modules switch a stopwatch from part to part; what is in none of them, such as embeddings, norms,
    dropout, masks and the optimizer, is `rest`.
    """
    taken, running, last = dict.fromkeys(PARTS, 0.0), ["rest"], perf_counter()

    def lap() -> None:
        nonlocal last
        measuring.wait_for(device)
        now = perf_counter()
        taken[running[-1]] += now - last
        last = now

    def enter(part: str, *_: object) -> None:
        lap()
        running.append(part)

    def leave(part: str, *_: object) -> None:
        lap()
        assert running.pop() == part

    handles = []
    for module, part in parts_of(model):
        for register in (module.register_forward_pre_hook, module.register_full_backward_pre_hook):
            handles.append(register(partial(enter, part)))
        for register in (module.register_forward_hook, module.register_full_backward_hook):
            handles.append(register(partial(leave, part)))
    try:
        lap()
        taken.update(dict.fromkeys(PARTS, 0.0))
        step()
        lap()
    finally:
        for handle in handles:
            handle.remove()
    assert running == ["rest"], f"parts were entered and not left: {running}"
    total = sum(taken.values())
    return {part: own / total for part, own in taken.items()}


def parts_of(model: PreTrainedModel) -> Iterator[tuple[nn.Module, str]]:
    """The modules of an encoder's layers that are timed, and the part of the time that each belongs to.

    An attention module is the core, without the projections inside it.
    """
    cores = architecture_of(model).modules
    for name, module in model.base_model.named_modules():
        within_layers = any(piece.isdecimal() for piece in name.split("."))
        if module in cores:
            yield module, "attention"
        elif within_layers and not any(module.children()):
            if isinstance(module, nn.Linear) and ("attention" in name or ".attn" in name):
                yield module, "projections"
            elif "attention" not in name and not isinstance(module, nn.LayerNorm | nn.Dropout | nn.Identity):
                yield module, "feed_forward"


def as_text(frame: pd.DataFrame) -> str:
    """Tables for a terminal: tokens per second, gigabytes and percent, a table per mode."""
    blocks = []
    for (encoder, mode), own in frame.groupby(["encoder", "mode"], sort=False):
        numbers = {
            "density": own["density"].map("{:.3f}".format),
            "tokens/s": own["tokens_per_second"].map("{:,.0f}".format),
            "of dense's time": own["over_dense"].map("{:.2f}".format),
            "GB": (own["memory"] / 1e9).map("{:.3f}".format),
        }
        numbers |= {part.replace("_", "-") + " %": own[part].mul(100).map("{:.0f}".format) for part in PARTS}
        names = own[["length", "batch", "contender", "kernel"]].rename(columns={"contender": ""})
        table = names.join(pd.DataFrame(numbers)).replace("nan", "-")
        left = [
            f"{row.contender} at {row.length:,}: {row.left_out}" for row in own.itertuples() if row.left_out
        ]
        blocks.append(measuring.as_block(f"{encoder}, {mode}", table, left))
    plans = frame.loc[frame["contender"] == "plan", "plan"].unique()
    return "\n\n".join([*blocks, f"plan: {', '.join(plans)}"])
