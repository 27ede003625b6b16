"""Tables of rules, verdicts and the numbers behind them, for people to read."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from sparsebert.claims.rules import CLAIMS, Estimate, Judgement, Verdict, sparse_patterns
from sparsebert.claims.runs import (
    Setting,
    each_once,
    labels_of,
    runs_by_setting,
    scores_by_seed,
    setting_of,
)
from sparsebert.intervals import mean_interval
from sparsebert.plans import parse_plan
from sparsebert.runs import RunRecord

BERT_BASE_LAYERS = 12


def rules() -> pd.DataFrame:
    """The claims and their rules, a row per claim."""
    rows = [
        {"claim": name, "it says": c.says, "holds if": c.holds, "does not hold if": c.fails}
        for name, c in CLAIMS.items()
    ]
    return pd.DataFrame(rows).set_index("claim")


def summary(found: Sequence[Verdict]) -> pd.DataFrame:
    """A row per claim, a column per task or setting, the verdict in each cell; – if it rests on no number."""
    rows = [{"claim": v.claim, "label": v.label, "verdict": v.verdict if v.numbers else "–"} for v in found]
    frame = pd.DataFrame(rows, columns=["claim", "label", "verdict"])
    return frame.pivot(index="claim", columns="label", values="verdict").rename_axis(columns=None)


def reasons(found: Sequence[Verdict]) -> pd.DataFrame:
    """A row per verdict with its reason, by claim and task or setting."""
    rows = [{"claim": v.claim, "task": v.label, "verdict": v.verdict, "because": v.reason} for v in found]
    return pd.DataFrame(rows, columns=["claim", "task", "verdict", "because"]).set_index(["claim", "task"])


def estimates(found: Sequence[Verdict]) -> pd.DataFrame:
    """A row per number behind a verdict: claim, task, label, verdict and the fields of `Estimate`."""
    columns = ["claim", "task", "label", "verdict", *Estimate.__dataclass_fields__]
    rows = [
        {"claim": v.claim, "task": v.task, "label": v.label, "verdict": v.verdict, **vars(number)}
        for v in found
        for number in v.numbers
    ]
    return pd.DataFrame(rows, columns=columns)


def losses(records: Sequence[RunRecord]) -> pd.DataFrame:
    """What each pattern loses at the later half and at all layers, with its interval over seeds, in points.

    A row per setting, placement and pattern, controls included; `sparsity` is that of the layers it is
    applied at, over pairs of real tokens, `padded_sparsity` the same over the padded square. `counts` says
    whether C1 and C2 look at the pattern: it leaves the later half sparse enough, and is no control.
    """
    settings = runs_by_setting(records)
    labels = labels_of(settings)
    rows = []
    for setting, runs in settings.items():
        dense = scores_by_seed(runs[runs["kind"] == "dense"])
        shown = runs[runs["kind"].isin(["pattern", "control"]) & runs["placement"].isin(["late", "all"])]
        enough = sparse_patterns(runs, Judgement())
        for (placement, pattern), part in shown.groupby(["placement", "pattern"]):
            points = (dense - scores_by_seed(part)).dropna()
            mean, low, high = mean_interval(points) if len(points) else (math.nan,) * 3
            rows.append(
                {
                    "task": setting.task,
                    "label": labels[setting],
                    "placement": placement,
                    "pattern": pattern,
                    "seeds": len(points),
                    "counts": pattern in enough,
                    "sparsity": part["sparsity"].mean(),
                    "padded_sparsity": part["padded_sparsity"].mean(),
                    "mean": mean,
                    "low": low,
                    "high": high,
                }
            )
    columns = ["task", "label", "placement", "pattern", "seeds", "counts", "sparsity", "padded_sparsity"]
    return pd.DataFrame(rows, columns=[*columns, "mean", "low", "high"])


def caveats(records: Sequence[RunRecord]) -> list[str]:
    """What stands between these runs and the paper's, a sentence for each setting."""
    own: dict[Setting, list[RunRecord]] = {}
    for record in each_once(records):
        if not parse_plan(record.config.plan).files:
            own.setdefault(setting_of(record), []).append(record)
    said = []
    for setting, label in labels_of(sorted(own, key=str)).items():
        layers = len(own[setting][0].density_per_layer)
        rows = max(record.eval_rows for record in own[setting])
        trained = max(record.train_rows for record in own[setting])
        seeds = len({record.config.seed for record in own[setting]})
        half = f"its later half has {layers - layers // 2} layers"
        if layers != BERT_BASE_LAYERS:
            half += f" where that of BERT-base has {BERT_BASE_LAYERS // 2}"
        said.append(
            f"{label}: {setting.encoder} has {layers} layers, so {half}; {trained:,} rows trained on and "
            f"{rows:,} evaluated on (one of them is {100 / rows:.2f} points of an accuracy), at most "
            f"{'one seed' if seeds == 1 else f'{seeds} seeds'}"
        )
    return said
