"""What is asked (`Request`), the plans that may answer it (`Candidate`), and the log of a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sparsebert.advise.data_findings import DataFinding
from sparsebert.errors import InputError, first_mistake, shown
from sparsebert.paths import write_whole
from sparsebert.reading import read_model
from sparsebert.training.runs import RunConfig

LOG = "search.json"
MOST_STEPS = 4_000  # rows from which on one epoch is taken; with fewer up to `_EPOCHS`
_EPOCHS = 3
LENGTHS = 4, 8192  # tokens at which savings are measured: dense attention with a mask takes memory


@dataclass(frozen=True)
class Candidate:
    """A plan, and the density that its degrees are learned for if it learns some."""

    plan: str = "dense"
    density: float | None = None

    def __str__(self) -> str:
        return self.plan if self.density is None else f"{self.plan} to {self.density:g}"


DENSE = Candidate()


class Request(BaseModel):
    """What a person wants to know; `budget` in seconds, `lengths` in tokens, None is the default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task: str
    encoder: str = "minilm"
    max_loss: float = Field(1.0, gt=0, le=50)
    budget: float = Field(1200, gt=0)
    lengths: tuple[int, ...] = (128, 512)
    max_length: int | None = None
    epochs: float | None = Field(None, gt=0)
    batch_size: int = 16
    learning_rate: float = 1e-4

    @classmethod
    def checked(cls, **fields: Any) -> Request:
        """A request from what a person typed; `InputError` for the first field that is wrong."""
        try:
            request = cls(**fields)
        except ValidationError as error:
            raise InputError(first_mistake(error)) from None
        check_lengths(request.lengths)
        request.config(DENSE, 0, 1)
        return request

    def config(
        self, candidate: Candidate, seed: int, of: int, rows: int | None = None, eval_rows: int | None = None
    ) -> RunConfig:
        """The run of a candidate on `rows` of the task's training rows, of which there are `of`."""
        few = min(_EPOCHS, max(1, MOST_STEPS // of))
        return RunConfig.checked(
            task=self.task,
            encoder=self.encoder,
            plan=candidate.plan,
            train_size=rows,
            eval_size=eval_rows,
            epochs=self.epochs or float(few),
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            max_length=self.max_length,
            seed=seed,
            degrees=None if candidate.density is None else {"target_density": candidate.density},
        )


def check_lengths(lengths: Sequence[int]) -> None:
    """`InputError` for no length, and for one that savings can't be measured at."""
    low, high = LENGTHS
    if not lengths or min(lengths) < low or max(lengths) > high:
        raise InputError(f"lengths: write numbers of tokens from {low} to {high}")


@dataclass(frozen=True)
class Rung:
    """A step of the search: these candidates, each with these seeds, on so many rows (None: all).

    In the final the order of the candidates is that in which they are tested.
    """

    name: str
    candidates: tuple[Candidate, ...] = ()
    seeds: tuple[int, ...] = ()
    rows: int | None = None
    eval_rows: int | None = None


class Log(BaseModel):
    """What a search has decided by the clock, as it goes; with the records of its `runs` it gives the advice.

    `train_rows` are those of the task, `spent` the seconds up to the last entry, `left_out` the runs for
    which there was no time, `ended` why the search ended before its last rung, and `savings` what was
    measured in the end. `budgets` are the seconds of searches that this one goes on from, which had ended.
    """

    model_config = ConfigDict(extra="forbid")

    request: Request
    data_hash: str
    train_rows: int
    findings: list[DataFinding] = []
    rungs: list[Rung] = []
    runs: list[str] = []
    left_out: list[str] = []
    spent: float = 0.0
    ended: str | None = None
    savings: list[dict[Any, Any]] | None = None
    budgets: list[float] = []

    def write(self, folder: Path) -> None:
        write_whole(folder / LOG, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Log | None:
        """The log in a folder, None if it has none; `InputError` if it holds something else."""
        path = folder / LOG
        return read_model(path, cls, "the log of the search", "give a new folder") if path.exists() else None

    @classmethod
    def opened(cls, folder: Path, request: Request, data_hash: str, train_rows: int) -> Log:
        """The log to go on with, or a new one; a longer budget and other lengths go on, too.

        `InputError` if the folder has that of another request or of other data, or other files alone.
        """
        if (log := cls.read(folder)) is None:
            if folder.is_dir() and any(folder.iterdir()):
                raise InputError(f"'{shown(folder)}' holds files and no search; give a new folder")
            return cls(request=request, data_hash=data_hash, train_rows=train_rows)
        for name in Request.model_fields:
            was, now = (getattr(one, name) for one in (log.request, request))
            if was != now and name != "lengths" and not (name == "budget" and was < now):
                changed = f"{name} was {shown(was)}, is {shown(now)}"
                said = f"'{shown(folder)}' holds a search for another request ({changed})"
                longer = " or a longer budget" if name == "budget" else ""
                raise InputError(f"{said}; give a new folder{longer}")
        if log.data_hash != data_hash:
            raise InputError(f"the data changed since the search in '{shown(folder)}'; give a new folder")
        log._go_on(request)
        return log

    def _go_on(self, request: Request) -> None:
        """With a longer budget the last rung of a search that had ended is decided anew."""
        if request == self.request:
            return
        self.savings = None
        if request.budget > self.request.budget:
            self.left_out = []
            if self.ended or self.rung("final"):
                self.budgets.append(self.request.budget)
                self.rungs.pop()
                self.ended = None
        self.request = request

    def config(self, candidate: Candidate, seed: int, rung: Rung) -> RunConfig:
        """The run of a candidate and seed in a rung."""
        return self.request.config(candidate, seed, self.train_rows, rung.rows, rung.eval_rows)

    @property
    def typical_length(self) -> float:
        """Tokens of the median text, after it is cut."""
        return next((f.value for f in self.findings if f.kind == "lengths" and f.value), 1.0)

    @property
    def chose(self) -> bool:
        """Whether there was time to choose: the first rung then has several plans beside dense attention."""
        return not (first := self.rung("first")) or len(first.candidates) > 2

    def rung(self, name: str) -> Rung | None:
        """The rung of that name, if it was decided."""
        return next((rung for rung in self.rungs if rung.name == name), None)
