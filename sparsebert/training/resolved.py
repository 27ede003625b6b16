"""A run whose names are resolved: what its config's texts stand for, looked up once and then handed on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformers import PreTrainedModel, set_seed

from sparsebert.data.tasks import Task, get_task
from sparsebert.data.tasks.prepared import Needs, PreparedTask
from sparsebert.data.tokenizing import prepare, tokenizer_hash
from sparsebert.degrees import LearnedDegrees
from sparsebert.degrees.training import attach_degrees
from sparsebert.errors import InputError, shown
from sparsebert.models.encoders import fitting_length, folder_hash, load_classifier, load_tokenizer
from sparsebert.models.predictors import Predictors, attach_masks
from sparsebert.paths import Folders
from sparsebert.patterns.plans import Plan, parse_plan
from sparsebert.reductions import reduction_name
from sparsebert.registry import METHODS, PATTERNS, REDUCTIONS, Registry
from sparsebert.training.runs import RunConfig

if TYPE_CHECKING:
    from sparsebert.data.rows import Rows


Learner = LearnedDegrees | Predictors


@dataclass(frozen=True, eq=False)
class Run:
    """A config with its task, its plan, and the hash of what it reads: files, and components from outside."""

    config: RunConfig
    task: Task
    plan: Plan
    data_hash: str
    folders: Folders

    @classmethod
    def of(cls, config: RunConfig, folders: Folders | None = None, task: Task | None = None) -> Run:
        """The run that a config names; its task, unless given, comes from `folders`, see `get_task`.

        Raises `InputError` for a task, a plan or a file that does not exist, and for words that leave.
        """
        folders = folders or Folders.named()
        task, plan = task or get_task(config.task, folders), parse_plan(config.plan)
        if config.reduce and task.labelled == "words":
            raise InputError(
                f"task '{task.name}' labels words, and words that leave get no label; leave --reduce out"
            )
        hashes = [task.data_hash, *plan.file_hashes]
        if encoder := folder_hash(config.encoder):
            hashes.append(encoder)
        hashes += filter(None, (kind.fingerprint(names) for kind, names in components_of(config, plan)))
        together = hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()
        return cls(config, task, plan, together, folders)

    @property
    def parsed(self) -> bool:
        """Whether its plan reads words and heads."""
        return "word_ids" in self.plan.needs

    def model(self) -> PreTrainedModel:
        """Its encoder with a fresh head, the same each time."""
        set_seed(self.config.seed)
        task, config = self.task, self.config
        how = config.max_length, task.labelled, config.layers
        return load_classifier(config.encoder, task.label_names, *how)

    def length(self, model: PreTrainedModel) -> int:
        """Tokens that its rows are cut to."""
        return fitting_length(self.config.max_length, self.task.max_length, model)

    def prepared_with(self, max_length: int) -> dict[str, str]:
        """Versions of what made its tokens, where that was on another machine."""
        if not isinstance(self.task, PreparedTask):
            return {}
        tokenizer = tokenizer_hash(load_tokenizer(self.config.encoder))
        return self.task.prepared_with(self.needs(max_length, tokenizer))

    def needs(self, max_length: int, tokenizer: str) -> Needs:
        """What it needs of prepared rows, given the hash of its tokenizer."""
        return Needs(self.config.train_size, self.config.eval_size, self.parsed, max_length, tokenizer)

    def rows(self, max_length: int) -> dict[str, Rows]:
        """The splits of its task as tokens, with words and heads if its plan reads them."""
        sizes = self.config.train_size, self.config.eval_size
        return prepare(self.task, self.config.encoder, max_length, *sizes, self.parsed)


def components_of(config: RunConfig, plan: Plan) -> list[tuple[Registry, list[str]]]:
    """What a run names that may be from outside of the package: its data hash covers the source of that."""
    return [
        (PATTERNS, [part.name for part in plan.walk() if part.name]),
        (METHODS, [config.degrees.method] if config.degrees else []),
        (REDUCTIONS, [reduction_name(config.reduce)] if config.reduce else []),
    ]


def attach_learner(model: PreTrainedModel, plan: Plan, config: RunConfig, tokens: int) -> Learner | None:
    """Give the model what its plan has to learn: degrees, weights, or masks for texts of up to `tokens`.

    None if that is nothing. `InputError` for masks beside something else, and as `attach_degrees`.
    """
    masks = attach_masks(model, plan, tokens)
    if masks and (config.degrees or config.reduce):
        also = "--learn-degrees" if config.degrees else "--reduce"
        raise InputError(f"plan '{shown(plan)}' has masks to learn, and no run can with {also}; leave it out")
    degrees = attach_degrees(model, plan, config.degrees)
    if masks and degrees:
        raise InputError(f"plan '{shown(plan)}' can learn masks or weights, not both at once")
    return masks or degrees
