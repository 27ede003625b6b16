"""Tables of rules, verdicts and the numbers behind them, for people to read."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from sparsebert.study.claims.rules import (
    CLAIMS,
    Estimate,
    Judgement,
    Verdict,
    mixture_text,
    mixtures_of,
    sparse_patterns,
    stand_ins,
)
from sparsebert.study.claims.runs import (
    CLS_ALONE,
    Setting,
    each_once,
    labels_of,
    runs_by_setting,
    scores_by_seed,
    setting_of,
)
from sparsebert.study.intervals import mean_interval
from sparsebert.study.results import known_plan
from sparsebert.training.runs import RunRecord

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


def parts_left_out(records: Sequence[RunRecord]) -> pd.DataFrame:
    """What C4 compares: for each full mixture and part of it, the mixture that stands in without that part.

    A row per setting, full mixture and part for which there is one; `change` is the stand-in's density minus
    the full mixture's, and `lost` the points by seed that it loses against it.
    """
    settings = runs_by_setting(records)
    labels = labels_of(settings)
    rows = []
    for setting, runs in settings.items():
        mixtures = mixtures_of(runs)
        density = mixtures.groupby(["g", "r", "w"])["density"].mean()
        score = {point: scores_by_seed(part) for point, part in mixtures.groupby(["g", "r", "w"])}
        for point, left_out in stand_ins(mixtures).items():
            for part, other in left_out.items():
                if other is not None:
                    rows.append(
                        {
                            "label": labels[setting],
                            "mixture": mixture_text(point),
                            "without": part,
                            "stand-in": mixture_text(other),
                            "change": density[other] - density[point],
                            "lost": (score[point] - score[other]).dropna(),
                        }
                    )
    return pd.DataFrame(rows, columns=["label", "mixture", "without", "stand-in", "change", "lost"])


def losses(records: Sequence[RunRecord]) -> pd.DataFrame:
    """What each pattern loses at the later half and at all layers, with its interval over seeds, in points.

    A row per setting, placement and pattern, controls and [CLS] alone included; `sparsity` is that of the
    layers it is applied at, over pairs of real tokens, `padded_sparsity` the same over the padded square.
    `counts` says whether C1 and C2 look at the pattern: it leaves the later half sparse enough, and is no
    control.
    """
    settings = runs_by_setting(records)
    labels = labels_of(settings)
    rows = []
    for setting, runs in settings.items():
        dense = scores_by_seed(runs[runs["kind"] == "dense"])
        shown = runs[runs["kind"].isin(["pattern", "control"]) | (runs["pattern"] == CLS_ALONE)]
        shown = shown[shown["placement"].isin(["late", "all"])]
        enough = sparse_patterns(runs, Judgement())
        for (placement, pattern), part in shown.groupby(["placement", "pattern"]):
            rows.append(
                {
                    "task": setting.task,
                    "label": labels[setting],
                    "placement": placement,
                    "pattern": pattern,
                    "kind": part["kind"].iloc[0],
                    "counts": pattern in enough,
                    "sparsity": part["sparsity"].mean(),
                    "padded_sparsity": part["padded_sparsity"].mean(),
                    **_lost(dense, part),
                }
            )
    columns = ["task", "label", "placement", "pattern", "kind", "seeds", "counts"]
    return pd.DataFrame(rows, columns=[*columns, "sparsity", "padded_sparsity", "mean", "low", "high"])


def _lost(dense: pd.Series, runs: pd.DataFrame) -> dict[str, float]:
    """What runs lose against the dense scores of the same `seeds`: how many these are, mean and interval."""
    points = (dense - scores_by_seed(runs)).dropna()
    mean, low, high = mean_interval(points) if len(points) else (math.nan,) * 3
    return {"seeds": len(points), "mean": mean, "low": low, "high": high}


def by_density(records: Sequence[RunRecord]) -> pd.DataFrame:
    """What fixed patterns and learned degrees lose at all layers beside a global [CLS], by their density.

    For each setting with learned degrees a row per mixture of neighbours and random keys, whose `kind` says
    which of these it has, and per density that was asked for; the sparsest first. `mean`, `low` and `high`
    are points lost against dense, paired by seed.
    """
    settings = runs_by_setting(records)
    rows = []
    for setting, label in labels_of(settings).items():
        runs = settings[setting]
        dense, everywhere = scores_by_seed(runs[runs["kind"] == "dense"]), runs[runs["placement"] == "all"]
        learned = everywhere[everywhere["kind"] == "learned"]
        if dense.empty or learned.empty:
            continue
        mixed = everywhere[everywhere["g"] == 1]
        kinds = {(0, 0): CLS_ALONE, (0, 1): "neighbours", (1, 0): "random keys", (1, 1): "both"}
        found = [
            (kinds[r > 0, w > 0], mixture_text((g, r, w)), part)
            for (g, r, w), part in mixed.groupby(["g", "r", "w"])
        ]
        found += [
            ("learned degrees", f"learned for {asked:g}", part) for asked, part in learned.groupby("asked")
        ]
        for kind, plan, part in found:
            row = {"label": label, "kind": kind, "plan": plan, "density": part["density"].mean()}
            rows.append(row | _lost(dense, part))
    columns = ["label", "kind", "plan", "density", "seeds", "mean", "low", "high"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame[frame["seeds"] > 0].sort_values(["label", "density"], ignore_index=True)


def in_short(records: Sequence[RunRecord]) -> pd.DataFrame:
    """What can be lost on a task, and what is lost by the pattern that loses least, in points.

    For each setting with patterns at the later half and at all layers, four rows by `what`: [CLS] alone, of
    the single patterns the best one at the later half and the best at all layers, and degrees learned for the
    lowest density that was asked for. `sparsity` is that of the layers that are changed; `tokens` is the
    length of the texts and `dense` the dense score. Patterns that lack a seed are not taken.
    """
    settings, lost = runs_by_setting(records), losses(records)
    rows = []
    for setting, label in labels_of(settings).items():
        runs, own = settings[setting], lost[lost["label"] == label]
        own = own[own["seeds"] == own["seeds"].max()]
        single = own[own["kind"] == "pattern"]
        dense = scores_by_seed(runs[runs["kind"] == "dense"])
        if dense.empty or not {"late", "all"} <= set(single["placement"]):
            continue
        found = own[(own["pattern"] == CLS_ALONE) & (own["placement"] == "all")].to_dict("records")
        for placement in ("late", "all"):
            found.append(dict(single.loc[single.loc[single["placement"] == placement, "mean"].idxmin()]))
        learned = runs[(runs["kind"] == "learned") & (runs["placement"] == "all")]
        learned = learned[learned["asked"] == learned["asked"].min()]
        lost_there = _lost(dense, learned)
        if lost_there["seeds"]:
            about = {"placement": "all", "pattern": "learned degrees", "sparsity": learned["sparsity"].mean()}
            found.append(about | lost_there)
        for row in found:
            kept = {name: row[name] for name in ("pattern", "seeds", "sparsity", "mean", "low", "high")}
            best = {"late": "best at the later half", "all": "best at all layers"}[row["placement"]]
            what = row["pattern"] if row["pattern"] in (CLS_ALONE, "learned degrees") else best
            about = {"label": label, "tokens": runs["length"].mean(), "dense": dense.mean(), "what": what}
            rows.append(about | kept)
    columns = ["label", "tokens", "dense", "what", "pattern", "seeds", "sparsity", "mean", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def pairing(records: Sequence[RunRecord]) -> pd.DataFrame:
    """How much luck of the seed dense and sparse runs share: what pairs of one seed scatter by, in points.

    A row per setting with `plans` that were run with at least three seeds of the dense runs. `paired` is the
    standard deviation of the differences seed by seed, `unpaired` what it would be if dense and sparse runs
    were independent; both are roots of mean variances over plans.
    """
    settings = runs_by_setting(records)
    rows = []
    for setting, label in labels_of(settings).items():
        runs = settings[setting]
        dense = scores_by_seed(runs[runs["kind"] == "dense"])
        variances = []
        for _, part in runs[runs["kind"] != "dense"].groupby(["placement", "pattern", "asked"], dropna=False):
            sparse = scores_by_seed(part)
            seeds = sparse.index.intersection(dense.index)
            if len(seeds) >= 3:
                together, apart = (sparse - dense)[seeds].var(), sparse[seeds].var() + dense[seeds].var()
                variances.append((together, apart))
        if variances:
            paired, unpaired = (
                math.sqrt(sum(column) / len(column)) for column in zip(*variances, strict=True)
            )
            rows.append({"label": label, "plans": len(variances), "paired": paired, "unpaired": unpaired})
    return pd.DataFrame(rows, columns=["label", "plans", "paired", "unpaired"])


def caveats(records: Sequence[RunRecord]) -> list[str]:
    """What stands between these runs and the paper's, a sentence for each setting."""
    own: dict[Setting, list[RunRecord]] = {}
    for record in each_once(records):
        if not known_plan(record.config.plan).files:
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
