"""One run: `finetune(RunConfig) -> RunRecord`, with transformers' Trainer."""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from safetensors import SafetensorError
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerState
from transformers.trainer_pt_utils import LengthGroupedSampler, nested_concat

from sparsebert.data.rows import Collator, Rows
from sparsebert.data.tasks import Task, get_task
from sparsebert.data.tokenizing import prepare
from sparsebert.degrees import LearnedDegrees
from sparsebert.degrees.training import DegreeTraining
from sparsebert.errors import InputError, say
from sparsebert.kernels.dropout import speed_up_dropout
from sparsebert.machine import (
    commit,
    device_name,
    forget_peak_memory,
    peak_memory,
    resolve_precision,
    versions,
)
from sparsebert.models.architectures import architecture_of
from sparsebert.models.companions import companions_of
from sparsebert.models.encoders import columns_of, label_names, labelled_by, load_tokenizer, quiet
from sparsebert.models.predictors import Predictors
from sparsebert.models.sparsified import DensityMeter, sparsify
from sparsebert.paths import Folders
from sparsebert.reductions import attach_reduction
from sparsebert.training.checkpoints import Checkpoints, declare_whole, last_whole, remove
from sparsebert.training.predictions import Predictions, WordPredictions, metrics_of
from sparsebert.training.resolved import Learner, Run, attach_learner
from sparsebert.training.runs import Learning, RunConfig, RunRecord
from sparsebert.training.saving import load, read_settings, save

_LAUNCHED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what accelerate launch sets besides
_OTHER_WAYS = (
    *("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_MEGATRON_LM"),
    *("ACCELERATE_USE_PARALLELISM_CONFIG", "ACCELERATE_DYNAMO_BACKEND"),
)
LARGEST_LABEL = 1e18  # its square is a number in 32 bits
EVAL_ROWS, EVAL_TOKENS = 64, 2**15  # at most, of a batch that is evaluated


def finetune(
    run: Run | RunConfig,
    scratch: Path | None = None,
    checkpoint_seconds: float = 120,
    progress_seconds: float = 15,
    save_to: Path | None = None,
    recorded: Callable[[RunRecord], object] = lambda record: None,
) -> RunRecord:
    """Fine-tune an encoder under a plan and evaluate it under the same plan.

    Follows the advice of Mosbach et al. (2021) and Zhang et al. (2021) for small data: AdamW with bias
    correction, 10 % warm-up then linear decay, weight decay 0.01 except on biases and norms, gradients
    clipped at norm 1. Batches hold rows of similar length. The rows, the head, the order and dropout are
    fixed by the config.

    With `scratch` a checkpoint is kept there every `checkpoint_seconds`, and a run that was interrupted
    goes on from it. Progress goes to stderr every `progress_seconds` (0: never). `recorded` is called with
    the record. Then, with `save_to`, the model, its plan and its degrees are kept in that folder (see
    `sparsebert.training.saving`). Raises `InputError` for a task, encoder or plan that does not exist or does
    not fit, and for a folder in which the model finds no space.

    Processes that `accelerate launch` started share the rows of each step and all return the record; what is
    written here is written by the first of them. Chapter 02 explains it.
    """
    started = time.perf_counter()
    run = run if isinstance(run, Run) else Run.of(run)
    config, made_by, together = run.config, commit(), processes()  # the code's files may change meanwhile
    if (config.degrees or config.reduce) and together.num_processes > 1:
        learned = "degrees" if config.degrees else "reductions"
        raise InputError(f"{learned} are learned by one process; start this run without accelerate launch")
    precision = resolve_precision(config.precision)
    model = run.model()
    max_length = run.length(model)
    learner = attach_learner(model, run.plan, config, max_length)
    if isinstance(learner, Predictors) and together.num_processes > 1:
        raise InputError("masks are learned by one process; start this run without accelerate launch")
    reduction = attach_reduction(model, config.reduce) if config.reduce else None
    layers = architecture_of(model).layers
    run.plan.layers(layers, learner)  # tells before the parsing if the plan does not fit
    with together.main_process_first():  # the others find what it prepared
        data, made_with = run.rows(max_length), versions() | run.prepared_with(max_length)
        resume, first_step = last_whole(scratch, together.num_processes, precision)
    trainer = build_trainer(model, config, data, precision, scratch)
    if progress_seconds:
        trainer.add_callback(_Progress(progress_seconds))
    if scratch:
        trainer.add_callback(Checkpoints(checkpoint_seconds))
    forget_peak_memory()
    prepared = time.perf_counter()

    trainer.add_callback(_Advance(model))
    validate = functools.partial(predict, trainer, run.task, data["validation"])
    with sparsify(model, run.plan, learner, config.kernel, reduction) as sparse, quiet():
        if isinstance(learner, LearnedDegrees) and not learner.is_hard:
            rows, scores = trainer.get_eval_dataloader, lambda: validate().metrics(run.task.metrics)
            trainer.add_callback(DegreeTraining(learner, sparse, rows, scores))
        outcome = trainer.train(resume_from_checkpoint=resume and str(resume))
        trained = time.perf_counter()
        with sparse.measure(padded_to=max_length) as meter:
            predictions = {"validation": validate()}
        evaluated = time.perf_counter()
        for part in sorted(data.keys() - predictions.keys() - {"train"}):
            predictions[part] = predict(trainer, run.task, data[part])

    share = 1 - first_step / outcome.global_step  # of the training: what this call did of it
    done = config.epochs * len(data["train"]) * share or math.nan  # nothing tells how fast it was
    several = f"{together.num_processes} x " if together.num_processes > 1 else ""
    record = RunRecord(
        name=config.name,
        config=config,
        metrics=metrics_of(predictions, run.task.metrics),
        predictions=predictions,
        density=fmean(meter.over_real),
        density_per_layer=meter.over_real,
        padded_density=fmean(meter.over_padded),
        padded_density_per_layer=meter.over_padded,
        kept_per_layer=meter.kept if reduction else None,
        multiply_adds=meter.multiply_adds,
        train_rows=len(data["train"]),
        eval_rows=len(data["validation"]),
        steps=outcome.global_step,
        train_loss=_mean_loss(trainer.state, outcome.training_loss, first_step, together),
        seconds={
            "prepare": prepared - started,
            "train": trained - prepared,
            "evaluate": evaluated - trained,
        },
        examples_per_second={
            "train": done / (trained - prepared),
            "evaluate": len(data["validation"]) / (evaluated - trained),
        },
        peak_memory_mib=peak_memory(),
        device=several + device_name(),
        precision=precision,
        kernels=list(sparse.kernels),
        versions=made_with,
        commit=made_by,
        data_hash=run.data_hash,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        learning=_learning(config, learner, trainer.state, meter),
    )
    if together.is_main_process:
        recorded(record)
        if save_to:
            try:
                save(model, run.plan, config, max_length, save_to, learner, reduction)
            except (OSError, SafetensorError) as error:  # which says it where the disk is full
                raise InputError(
                    f"the run is finished, but its model can't be saved to '{save_to}' ({error}); "
                    "give another --save"
                ) from None
    return record


def processes() -> PartialState:
    """The processes that make a run together: this one, or those that `accelerate launch` started.

    Raises `InputError` if environment variables ask for several processes, or for another way to compute,
    without what is needed for it.
    """
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    if lacking := [name for name in _LAUNCHED if several and name not in os.environ]:
        raise InputError(
            f"WORLD_SIZE is set without {', '.join(lacking)}; unset it, or start with accelerate launch"
        )
    for name in _OTHER_WAYS:
        if os.environ.get(name, "no").lower() not in ("", "0", "no", "false"):
            raise InputError(f"{name} is set, and runs are not made that way; unset it")
    return PartialState(cpu=not torch.cuda.is_available())


def evaluate(
    folder: str | Path,
    task_name: str | None = None,
    eval_size: int | None = None,
    folders: Folders | None = None,
    precision: str | None = None,
    kernel: str | None = None,
    reduce: str | None = None,
) -> dict[str, Any]:
    """Evaluate a saved model under its plan; task, rows, precision and kernel are its run's unless given.

    `reduce` is as in `load`. Returns `metrics`, `density`, `density_per_layer`, `multiply_adds` (of the
    layers, for a row), `eval_rows`, `task` and `plan`. Raises `InputError` for a folder that holds no saved
    model. Chapter 05 explains it.
    """
    settings = read_settings(folder)
    given = {"precision": precision, "kernel": kernel, "encoder": str(folder)}
    hard = {"degrees": None}  # by now, so that any kernel can compute them
    config = RunConfig.checked(**settings.config | hard | {n: value for n, value in given.items() if value})
    task = get_task(task_name or config.task, folders)
    labels = label_names(task.label_names)
    if list(labels) != settings.labels:
        raise InputError(
            f"the model in '{folder}' gives {', '.join(settings.labels)}, and task '{task.name}' has "
            f"{', '.join(labels)}; name a task with the same labels"
        )
    with load(folder, config.kernel, reduce) as sparse, quiet():
        if (own := labelled_by(sparse.model.config)) != task.labelled:
            raise InputError(f"the model in '{folder}' labels {own}, and task '{task.name}' {task.labelled}")
        parsed = "word_ids" in sparse.plan.needs
        size = eval_size or config.eval_size
        # The Trainer wants training rows; one will do.
        data = prepare(task, str(folder), settings.max_length, 1, size, parsed)
        trainer = build_trainer(sparse.model, config, data, resolve_precision(config.precision))
        with sparse.measure(padded_to=settings.max_length) as meter:
            metrics = predict(trainer, task, data["validation"]).metrics(task.metrics)
    return {
        "task": task.name,
        "plan": str(sparse.plan),
        "metrics": metrics,
        "density": fmean(meter.over_real),
        "density_per_layer": meter.over_real,
        "multiply_adds": meter.multiply_adds,
        "eval_rows": len(data["validation"]),
    }


def build_trainer(
    model: PreTrainedModel,
    config: RunConfig,
    data: dict[str, Rows],
    precision: str,
    scratch: Path | None = None,
) -> _Trainer:
    """The Trainer of a run: `config`'s hyper-parameters with our settings for speed and small data."""
    train, validation = data["train"], data["validation"]
    if (largest := np.abs(train.label or 0).max(initial=0)) > LARGEST_LABEL:
        raise InputError(f"a label of the training rows is {largest:g}, too large for 32 bits; scale them")
    arguments = TrainingArguments(
        output_dir=str(scratch or "."),  # the Trainer makes this folder; without checkpoints it stays empty
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=max(1, min(EVAL_ROWS, EVAL_TOKENS // max(validation.lengths))),
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=0.1,
        weight_decay=0.01,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        seed=config.seed,
        data_seed=config.seed,
        bf16=precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,  # word_ids and head_ids are for the plan, not for the model's signature
        label_names=["labels"],
        average_tokens_across_devices=False,  # losses are means over rows, and several processes average them
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    arguments.mixed_precision = "bf16" if precision == "bf16" else "no"  # whatever accelerate's variables say
    speed_up_dropout(model)
    # Two GPUs in one process would share the plan's hook between threads; several processes are fine.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    arguments.per_device_train_batch_size, rest = divmod(config.batch_size, arguments.world_size)
    if rest:
        raise InputError(
            f"batch_size={config.batch_size} can't be shared by {arguments.world_size} processes; "
            "write a multiple of their number"
        )
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=validation,
        data_collator=Collator(
            load_tokenizer(config.encoder).pad_token_id, "token_type_ids" in columns_of(model)
        ),
    )
    trainer.remove_callback(PrinterCallback)  # which would print the last log as a dictionary
    return trainer


def predict(trainer: Trainer, task: Task, rows: Rows) -> Predictions:
    """What the trainer's model says of some rows; `InputError` if that is not finite."""
    if trainer.args.world_size > 1:
        logits = _logits_alone(trainer, rows)
    else:
        logits = trainer.predict(rows).predictions
        logits = logits[0] if isinstance(logits, tuple) else logits
    if task.labelled == "words":
        return WordPredictions.of(rows, logits, task.label_names)
    return Predictions.of(rows, logits, len(task.label_names))


@torch.no_grad()
def _logits_alone(trainer: Trainer, rows: Rows) -> np.ndarray:
    """Of all rows, by each process: shares of equal size would hold some rows twice."""
    trainer.model.eval()
    logits = [
        trainer.model(**trainer._prepare_inputs(batch)).logits.float().cpu()
        for batch in DataLoader(rows, trainer.args.eval_batch_size, collate_fn=trainer.data_collator)
    ]
    return functools.reduce(nested_concat, logits).numpy()  # which pads what has a row of numbers per token


def _learning(
    config: RunConfig, learner: Learner | None, state: TrainerState, meter: DensityMeter
) -> Learning | None:
    if not isinstance(learner, LearnedDegrees):
        return None
    soft = next((entry for entry in state.log_history if "soft_density" in entry), {})
    return Learning(
        target_density=learner.config.target_density,
        soft_density=soft.get("soft_density"),
        hard_density=fmean(meter.over_real[layer] for layer in learner.layers),
        soft_metrics=soft.get("soft_metrics"),
        survival=soft.get("survival"),
        degrees=learner.hardened(),
    )


def _mean_loss(state: TrainerState, loss_since: float, first_step: int, together: PartialState) -> float:
    """Mean loss over all steps; the Trainer's own, `loss_since`, leaves out those before it went on.

    Each process knows the loss of its own rows.
    """
    total, before = loss_since * (state.global_step - first_step), 0
    for entry in state.log_history:
        if "loss" in entry and entry["step"] <= first_step:
            total += entry["loss"] * (entry["step"] - before)
            before = entry["step"]
    mean = torch.tensor(total / state.global_step, dtype=torch.float64, device=together.device)
    return reduce(mean, "mean").item()


class _Trainer(Trainer):
    """Rows of similar length in a batch, in an order that an interrupted run finds again; companions learn.

    The Trainer's own `group_by_length` draws the order from the global generator, which dropout moves on.
    """

    def _save_checkpoint(self, model: PreTrainedModel, trial: Any) -> None:
        """A checkpoint whose files are all written; without space for them the run goes on without it."""
        folder, failed = Path(self.args.output_dir, f"checkpoint-{self.state.global_step}"), ""
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:  # what libraries make of a full disk
            failed = repr(error)
        lost = reduce(torch.tensor(float(bool(failed)), device=self.args.device), "sum").item()
        if not self.args.should_save:
            return
        try:
            if not lost:
                precision = "bf16" if self.args.bf16 else "fp32"
                return declare_whole(folder, self.args.world_size, precision)
        except OSError as error:
            failed = repr(error)
        remove(folder)
        say(f"    no checkpoint could be kept: {failed or 'another process found no space'}")

    def compute_loss(self, model: PreTrainedModel, inputs: dict, *args: Any, **kwargs: Any) -> Any:
        companions = companions_of(self.model)
        if not companions or not model.training:
            return super().compute_loss(model, inputs, *args, **kwargs)
        loss, outputs = super().compute_loss(model, inputs, *args, **kwargs | {"return_outputs": True})
        for companion in companions:
            loss = loss + companion.added_loss(outputs.logits, lambda call=model: call(**inputs).logits)
        return loss

    def create_optimizer(self, model: PreTrainedModel | None = None) -> torch.optim.Optimizer:
        """AdamW, with learning rates of their own for what is trained with the encoder."""
        companions = companions_of(self.model)
        if not companions or self.optimizer is not None:
            return super().create_optimizer(model)
        for companion in companions:
            companion.requires_grad_(False)
        optimizer = super().create_optimizer(model)
        for companion in companions:
            companion.requires_grad_(True)
            for group in companion.groups():
                optimizer.add_param_group(group)
        return optimizer

    def _get_train_sampler(self, train_dataset: Rows | None = None) -> LengthGroupedSampler:
        rows = self.train_dataset if train_dataset is None else train_dataset
        # Batches are dealt to the processes in turn: together they are the batches of one process.
        rows_per_step = self.args.train_batch_size * self.args.world_size
        return _EpochSampler(rows_per_step, self.args.data_seed, rows.lengths)


class _EpochSampler(LengthGroupedSampler):
    """A `LengthGroupedSampler` whose order follows from the seed and the epoch alone."""

    def __init__(self, batch_size: int, seed: int, lengths: list[int]):
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(self.seed + (self.epoch << 32))  # seeds are below 2**32
        return super().__iter__()


class _Advance(TrainerCallback):
    """Tell a model's companions how much of the training is over."""

    def __init__(self, model: PreTrainedModel):
        self.companions = companions_of(model)

    def on_train_begin(self, args, state, control, **_):
        for companion in self.companions:
            companion.advance(state.global_step / state.max_steps)

    on_step_end = on_train_begin

    def on_train_end(self, args, state, control, **_):
        for companion in self.companions:
            companion.advance(1.0)


class _Progress(TrainerCallback):
    """Say on stderr how far a long run has come."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def on_train_begin(self, args, state, control, **_):
        self.started = self.last = time.perf_counter()
        self.first_step = state.global_step

    def on_step_end(self, args, state, control, **_):
        now = time.perf_counter()
        if state.is_world_process_zero and now - self.last >= self.seconds:
            self.last = now
            rate = (now - self.started) / (state.global_step - self.first_step)
            left = rate * (state.max_steps - state.global_step)
            say(f"    step {state.global_step} of {state.max_steps}, {left:.0f} s left")
