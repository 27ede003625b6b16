"""Tables of rules, verdicts and the numbers behind them, for people to read."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import pandas as pd

from sparsebert.claims.rules import CLAIMS, Estimate, Judgement, Verdict, sparse_patterns
from sparsebert.claims.runs import (
    Setting,
    described_run,
    each_once,
    labels_of,
    runs_by_setting,
    scores_by_seed,
    setting_of,
    single_width_at,
)
from sparsebert.intervals import mean_interval
from sparsebert.patterns import Neighbour
from sparsebert.plans import parse_plan
from sparsebert.runs import RunRecord

BERT_BASE_LAYERS = 12
_FILE = re.compile(r"degrees-(?P<kind>own|unweighted|heads|layers)-.*-(?P<density>[\d.]+)-\d+\.json")

_HEADS = re.compile(r"heads/(?P<kind>copies|others)(-\d+)?\.json")
_HEADS_KINDS = {
    "copies": "two heads that look at copies",
    "others": "two other heads of the same layers",
}
_CHANGED = {
    "unweighted": "without weights",
    "heads": "other heads",
    "layers": "other layers",
}


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


def chosen_degrees(records: Sequence[RunRecord]) -> pd.DataFrame:
    """What the learned degrees that C6 compares look like: a row per setting and density asked for.

    `heads` are those of all layers; `unbounded` of them keep edges to tokens at any distance, `alone` have no
    neighbours at all. Both are means over `seeds`. `always` lists layer and head of those that are unbounded
    with every seed.
    """
    labels = labels_of(runs_by_setting(records))
    rows = []
    for record in each_once(records):
        row = described_run(record)
        if row["kind"] == "learned" and row["placement"] == "all":
            degrees = record.learning.degrees
            heads = [kept for layer in degrees.kept for kept in layer]
            wide = degrees.unbounded_heads()
            rows.append(
                {
                    "label": labels[setting_of(record)],
                    "asked": row["asked"],
                    "seed": row["seed"],
                    "heads": len(heads),
                    "unbounded": len(wide),
                    "alone": sum(sum(kept) < 0.05 for kept in heads),
                    "always": set(wide),
                }
            )
    columns = ["label", "asked", "seed", "heads", "unbounded", "alone", "always"]
    frame = pd.DataFrame(rows, columns=columns)
    grouped = frame.groupby(["label", "asked"], as_index=False)
    return grouped.agg(
        seeds=("seed", "nunique"),
        heads=("heads", "max"),
        unbounded=("unbounded", "mean"),
        alone=("alone", "mean"),
        always=("always", lambda wide: sorted(set.intersection(*wide))),
    )


def learned_before(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Hard degrees in new runs that begin with them, beside the runs of the same seeds that learned them.

    A row per setting and density asked for; the columns of differences hold points by seed. Such a run's plan
    names a file `degrees-KIND-NAME-DENSITY-SEED.json`, where KIND is `own`, `unweighted` (without weights),
    or `heads` or `layers` if they were shuffled over these (`HardDegrees.shuffled`). Beside them stand
    degrees of the same density that were not learned but read off the attention.
    """
    groups: dict[tuple[Setting, float], dict[str, dict[int, float]]] = {}
    for record in each_once(records):
        names = [match for file in parse_plan(record.config.plan).files if (match := _FILE.search(file))]
        if len(names) == 1:
            own = setting_of(record)._replace(data_hash="")  # which holds that of the files, too
            kinds = groups.setdefault((own, float(names[0]["density"])), {})
            kinds.setdefault(names[0]["kind"], {})[record.config.seed] = described_run(record)["score"]
    settings = runs_by_setting(records)
    labels = labels_of(settings)
    rows = []
    for (own, asked), kinds in sorted(groups.items(), key=str):
        for setting, runs in settings.items():
            alike = runs[(runs["placement"] == "all") & (runs["asked"] == asked)]
            learned = alike[alike["kind"] == "learned"]
            if setting._replace(data_hash="") != own or learned.empty:
                continue
            scores = {kind: pd.Series(found) for kind, found in kinds.items()}
            read_off = scores_by_seed(alike[alike["kind"] == "read off"])
            single = single_width_at(runs, learned["density"].mean())
            before = scores.get("own", pd.Series(dtype=float))
            rows.append(
                {
                    "task": labels[setting],
                    "asked": asked,
                    "seeds": len(before),
                    "from the start − learned": (before - scores_by_seed(learned)).dropna(),
                    "from the start − single width": (
                        before - (before[:0] if single is None else single)
                    ).dropna(),
                    **{
                        f"{said} − from the start": (scores.get(kind, before[:0]) - before).dropna()
                        for kind, said in _CHANGED.items()
                    },
                    "read off attention − from the start": (read_off - before).dropna(),
                }
            )
    return pd.DataFrame(rows)


def named_heads(records: Sequence[RunRecord]) -> pd.DataFrame:
    """What two heads can do that see everything while all others see the token itself and [CLS] alone.

    Their runs have plans with the files `heads/copies.json`, the heads that look at copies of a token, or
    `heads/others-SEED.json`, and maybe a width in all heads besides. For each setting with such runs a row
    for each kind, for the single width that scored best of those on record, for `lexical` and for learned
    degrees: the mean `density` and `score` in points, and `lost` against dense runs, in points by seed.
    """
    found: dict[Setting, list[dict]] = {}
    for record in each_once(records):
        plan = parse_plan(record.config.plan)
        names = [_HEADS_KINDS[match["kind"]] for file in plan.files if (match := _HEADS.search(file))]
        if len(names) == 1:
            for pattern, _ in plan.steps:
                names += [f"{part} in all heads" for part in pattern.walk() if isinstance(part, Neighbour)]
            own = setting_of(record)._replace(data_hash="")  # which holds that of the files, too
            found.setdefault(own, []).append(described_run(record) | {"what": " and ".join(names)})
    settings = runs_by_setting(records)
    labels = labels_of(settings)
    rows = []
    for setting, runs in settings.items():
        named = found.get(setting._replace(data_hash=""))
        if named is None or "dense" not in set(runs["kind"]):
            continue
        dense = runs[runs["kind"] == "dense"]
        patterns = runs[(runs["kind"] == "pattern") & (runs["placement"] == "all")]
        learned = runs[(runs["kind"] == "learned") & (runs["placement"] == "all")]
        widths = patterns[(patterns["r"] == 0) & (patterns["w"] > 0)]
        best = "" if widths.empty else widths.groupby("pattern")["score"].mean().idxmax()
        shown = patterns[(patterns["pattern"] == best) | patterns["pattern"].str.startswith("lexical")]
        all_of_them = [
            ("dense", dense),
            *pd.DataFrame(named).groupby("what"),
            *((f"{pattern} in all heads", part) for pattern, part in shown.groupby("pattern")),
            *((f"degrees learned for {asked:g}", part) for asked, part in learned.groupby("asked")),
        ]
        for what, part in all_of_them:
            rows.append(
                {
                    "task": labels[setting],
                    "what": what,
                    "density": part["density"].mean(),
                    "score": part["score"].mean(),
                    "lost": (scores_by_seed(dense) - scores_by_seed(part)).dropna(),
                }
            )
    return pd.DataFrame(rows, columns=["task", "what", "density", "score", "lost"])


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
