"""Tables of rules, verdicts and the numbers behind them, for people to read."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from sparsebert.degrees import DegreeConfig
from sparsebert.patterns import Global, Learned, parts_of
from sparsebert.registry import METHODS
from sparsebert.study.captions import between, code
from sparsebert.study.claims.rules import (
    CLAIMS,
    SLACK,
    WRITTEN,
    Estimate,
    Verdict,
    after_holm,
    mixture_text,
    mixtures_of,
    sparse_patterns,
    stand_ins,
    verdicts,
)
from sparsebert.study.claims.runs import (
    CLS_ALONE,
    Judged,
    Score,
    judged,
    labels_of,
    records_by_setting,
    rows_judged,
    runs_with,
    score_of,
    scores_by_seed,
    single_width_at,
)
from sparsebert.study.intervals import Mean
from sparsebert.study.results import known_plan, without_seeds
from sparsebert.training.runs import RunRecord

BERT_BASE_LAYERS = 12
_NUMBERS = ("seeds", "mean", "low", "high")


def rules() -> pd.DataFrame:
    """The claims and their rules, a row per claim."""
    rows = [
        {"claim": name, "it says": c.says, "holds if": c.holds, "does not hold if": c.fails}
        for name, c in CLAIMS.items()
    ]
    return pd.DataFrame(rows).set_index("claim")


def counted(records: Sequence[RunRecord]) -> pd.DataFrame:
    """A row per task: how many runs, plans and seeds there are, and on how many rows."""
    rows = [
        (r.config.task, r.name, without_seeds(r.config.plan), r.config.seed, r.train_rows, rows_judged(r))
        for r in records
    ]
    columns = ["task", "runs", "plans", "seeds", "rows trained on", "rows judged on"]
    counts = dict.fromkeys(columns[1:4], "nunique") | dict.fromkeys(columns[4:], "max")
    return pd.DataFrame(rows, columns=columns).groupby("task").agg(counts)


def seen_before(records: Sequence[RunRecord]) -> pd.DataFrame:
    """What had been seen when each rule was written: how many of the runs of each task were finished before.

    A row per commit that changed a rule, a column per task.
    """
    runs = pd.DataFrame([(r.config.task, r.finished) for r in records], columns=["task", "finished"])
    finished, by_task = pd.to_datetime(runs.pop("finished"), utc=True, format="ISO8601"), runs["task"]
    counts = {
        (what, f"{written:%Y-%m-%d %H:%M}"): by_task[finished < written].value_counts()
        for what, written in ((what, pd.Timestamp(text)) for what, text in WRITTEN.items())
    }
    table = pd.DataFrame(counts, index=sorted(by_task.unique())).fillna(0).astype(int).T
    return table.rename_axis(index=["rule", "committed (UTC)"])


def summary(found: Sequence[Verdict], corrected: bool = False) -> pd.DataFrame:
    """A row per claim, a column per task or setting, the verdict in each cell; – if it rests on no number.

    `corrected`: verdicts that Holm's correction over all of them takes back say so.
    """
    lost = {key for key, stays in after_holm(found).items() if corrected and not stays}
    words = [
        "–" if not v.numbers else f"{v.verdict}, not after Holm" if (v.claim, v.label) in lost else v.verdict
        for v in found
    ]
    rows = [
        {"claim": v.claim, "label": v.label, "verdict": word} for v, word in zip(found, words, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=["claim", "label", "verdict"])
    return frame.pivot(index="claim", columns="label", values="verdict").rename_axis(columns=None)


def in_words(found: Sequence[Verdict]) -> str:
    """The verdicts on one claim in a phrase, such as "holds on `a` and `b`; is undecided on `c`".

    Tasks without a number are left out. Chapter 03 explains it.
    """
    said = []
    for word in ("holds", "does not hold", "at the floor", "undecided", "by construction"):
        labels = [code(verdict.label) for verdict in found if verdict.verdict == word and verdict.numbers]
        verb = "" if word in ("holds", "does not hold") else "is "
        said += [f"{verb}{word} on {_listed(labels)}"] if labels else []
    return "; ".join(said) or "has no runs"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


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


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    """The numbers of `estimates` as people read them, by task or setting."""
    return pd.DataFrame(
        {
            "task": numbers["label"],
            "what is asked": numbers["what"],
            "points": numbers["mean"].round(2),
            "90 % interval": [between(*ends) for ends in zip(numbers["low"], numbers["high"], strict=True)],
            "seeds": numbers["seeds"].astype(object).replace(0, "–"),
            "rows": numbers["rows"].astype(object).replace(0, "–"),
            "wanted": numbers["wanted"],
            "state": numbers["state"].replace("floor", "at the floor"),
        }
    ).set_index("task")


def by_interval(records: Sequence[RunRecord]) -> pd.DataFrame:
    """The numbers behind the verdicts with three intervals side by side, for those that have one.

    Columns `low`, `high` and `state` under each of: `seeds` alone, `seeds and rows`, and `moderated`, the
    latter with variances over seeds shrunk, as the rules want it.
    """
    kinds = {
        "seeds": {"rows": False, "moderated": False},
        "seeds and rows": {"moderated": False},
        "moderated": {},
    }
    tables = {}
    for kind, how in kinds.items():
        frame = estimates(verdicts(records, **how))
        frame = frame[frame["low"].notna()].set_index(["claim", "label", "what"])
        tables[kind] = frame[["low", "high", "state"]]
        tables |= {"": frame[["mean", "bound", "rows"]]} if not how else {}
    return pd.concat({name: tables[name] for name in ("", *kinds)}, axis=1)


def parts_left_out(records: Sequence[RunRecord]) -> pd.DataFrame:
    """What C4 compares: for each full mixture and part of it, the mixture that stands in without that part.

    A row per setting, full mixture and part for which there is one; `change` is the stand-in's density minus
    the full mixture's; `mean`, `low` and `high` are the points that it loses against it.
    """
    rows = []
    for runs in judged(records):
        mixtures = mixtures_of(runs.runs)
        points = mixtures.groupby(["g", "r", "w"])
        density = points["density"].mean()
        score = {point: score_of(part) for point, part in points}
        for point, others in stand_ins(mixtures).items():
            for part, other in others.items():
                row = {"label": runs.label, "mixture": mixture_text(point), "without": part}
                row |= {"stand-in": mixture_text(other), "change": density[other] - density[point]}
                rows.append(row | _numbers(runs, score[point] - score[other]))
    return pd.DataFrame(rows, columns=["label", "mixture", "without", "stand-in", "change", *_NUMBERS])


def losses(records: Sequence[RunRecord]) -> pd.DataFrame:
    """What each pattern loses at the later half and at all layers, with its interval, in points.

    A row per setting, placement and pattern, controls and [CLS] alone included; `sparsity` is that of the
    layers it is applied at, over pairs of real tokens, `padded_sparsity` the same over the padded square.
    `counts` says whether C1 and C2 look at the pattern: it leaves the later half sparse enough, and is no
    control.
    """
    rows = []
    for runs in judged(records):
        enough = {name for names in sparse_patterns(runs).values() for name in names}
        own = runs.runs
        shown = own[own["kind"].isin(["pattern", "control"]) | (own["pattern"] == CLS_ALONE)]
        shown = shown[shown["placement"].isin(["late", "all"])]
        for (placement, pattern), part in shown.groupby(["placement", "pattern"]):
            row = {"task": runs.setting.task, "label": runs.label, "placement": placement}
            row |= {"pattern": pattern, "kind": part["kind"].iloc[0], "counts": pattern in enough}
            rows.append(row | dict(part[["sparsity", "padded_sparsity"]].mean()) | _lost(runs, part))
    columns = ["task", "label", "placement", "pattern", "kind", "counts", "sparsity", "padded_sparsity"]
    return pd.DataFrame(rows, columns=[*columns, *_NUMBERS])


def _lost(runs: Judged, part: pd.DataFrame) -> dict[str, float]:
    """What some of the runs lose against dense."""
    score = score_of(part)
    return _numbers(runs, runs.dense - score if runs.dense and score else None)


def _numbers(runs: Judged, score: Score | None) -> dict[str, float]:
    """How many `seeds` a score has, its mean and its 90 % interval, in points."""
    mean = runs.mean(score) if score else Mean(math.nan, math.nan, math.nan)
    seeds = len(score.points) if score else 0
    return dict(zip(_NUMBERS, (seeds, mean.value, *mean.interval()), strict=True))


def by_density(records: Sequence[RunRecord]) -> pd.DataFrame:
    """What fixed patterns and learned degrees lose at all layers beside a global [CLS], by their density.

    For each setting with learned degrees a row per mixture of neighbours and random keys, whose `kind` says
    which of these it has, and per density that was asked for; the sparsest first. `mean`, `low` and `high`
    are points lost against dense.
    """
    kinds = {(0, 0): CLS_ALONE, (0, 1): "neighbours", (1, 0): "random keys", (1, 1): "both"}
    rows = []
    for runs in judged(records):
        learned = runs.where(kind="learned", placement="all")
        if not runs.dense or learned.empty:
            continue
        mixed = runs.where(placement="all", g=1).groupby(["g", "r", "w"])
        found = [(kinds[r > 0, w > 0], mixture_text((g, r, w)), part) for (g, r, w), part in mixed]
        for asked, part in learned.groupby("asked"):
            found.append(("learned degrees", f"learned for {asked:g}", part))
        for kind, plan, part in found:
            row = {"label": runs.label, "kind": kind, "plan": plan, "density": part["density"].mean()}
            rows.append(row | _lost(runs, part))
    frame = pd.DataFrame(rows, columns=["label", "kind", "plan", "density", *_NUMBERS])
    return frame[frame["seeds"] > 0].sort_values(["label", "density"], ignore_index=True)


def by_method(records: Sequence[RunRecord]) -> pd.DataFrame:
    """What each way to choose degrees gains over a single width of equal density, beside a global [CLS].

    A row per setting, density asked for and way, with its measured `density`. `mean`, `low` and `high` are
    points of the seeds that both were run with; ways for which there are none are left out, and so are ways
    with other settings than the defaults and methods that are not registered.
    """
    defaults, alike = DegreeConfig(), {Learned(), Global("cls")}
    compared = ("method", "sharing", "harden", "weights", "target_density")
    same = {name: getattr(defaults, name) for name in compared}
    rows = []
    for runs, own in zip(judged(records), records_by_setting(records).values(), strict=True):
        ways: dict[DegreeConfig, list[int]] = {}
        for place, record in enumerate(own):
            how, steps = record.config.degrees, known_plan(record.config.plan).steps
            known = how and how.target_density and how.method in METHODS
            if known and how.model_copy(update=same) == defaults and set(parts_of(steps[0][0])) == alike:
                ways.setdefault(how, []).append(place)
        for how, places in ways.items():
            part = runs_with(runs.runs.loc[places], placement="all")
            row = {"label": runs.label, "asked": how.target_density, "density": part["density"].mean()}
            row["method"] = how.label if how.weights else f"{how.label}, without weights"
            score, width = score_of(part), single_width_at(runs.runs, row["density"])
            rows.append(row | _numbers(runs, score - width if score and width else None))
    frame = pd.DataFrame(rows, columns=["label", "asked", "method", "density", *_NUMBERS])
    return frame[frame["seeds"] > 0].sort_values(["label", "asked"], kind="stable", ignore_index=True)


def content_rivals(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Learned degrees beside patterns that read the text, which the rule of C6 leaves out: BigBird has none.

    A row per setting, density that degrees were learned for, and pattern of at most their density that reads
    the text, alone or with others, at all layers beside a global [CLS]. `density` is the pattern's;
    `mean`, `low` and `high` are the points by which learned degrees are better.
    """
    rows = []
    for runs in judged(records):
        learned, reading = runs.where(kind="learned", placement="all"), runs.where(placement="all")
        for asked, own in learned.groupby("asked"):
            for pattern, part in reading[reading["reads_text"]].groupby("pattern"):
                density = part["density"].mean()
                if density <= own["density"].mean() + SLACK:
                    row = {"label": runs.label, "asked": asked, "pattern": pattern, "density": density}
                    rows.append(row | _numbers(runs, score_of(own) - score_of(part)))
    frame = pd.DataFrame(rows, columns=["label", "asked", "pattern", "density", *_NUMBERS])
    return frame[frame["seeds"] > 0].sort_values(["label", "asked", "mean"], ignore_index=True)


def in_short(records: Sequence[RunRecord]) -> pd.DataFrame:
    """What can be lost on a task, and what is lost by the pattern that loses least, in points.

    For each setting with patterns at the later half and at all layers, four rows by `what`: [CLS] alone, of
    the single patterns the best one at the later half and the best at all layers, and degrees learned for the
    lowest density that was asked for. `sparsity` is that of the layers that are changed; `tokens` is the
    length of the texts and `dense` the dense score. Patterns that lack a seed are not taken.
    """
    lost = losses(records)
    rows = []
    for runs in judged(records):
        own = runs_with(lost, label=runs.label)
        own = own[own["seeds"] == own["seeds"].max()]
        late, at_all = (runs_with(own, kind="pattern", placement=place) for place in ("late", "all"))
        if not runs.dense or late.empty or at_all.empty:
            continue
        learned = runs.where(kind="learned", placement="all")
        learned = learned[learned["asked"] == learned["asked"].min()]
        about = {"pattern": "learned degrees", "sparsity": learned["sparsity"].mean()}
        found = {
            CLS_ALONE: runs_with(own, pattern=CLS_ALONE, placement="all"),
            "best at the later half": late.nsmallest(1, "mean"),
            "best at all layers": at_all.nsmallest(1, "mean"),
            "learned degrees": pd.DataFrame([about | _lost(runs, learned)]).query("seeds > 0"),
        }
        dense = runs.mean(runs.dense).value
        setting = {"label": runs.label, "tokens": runs.runs["length"].mean(), "dense": dense}
        for what, part in found.items():
            rows += [row | setting | {"what": what} for row in part.to_dict("records")]
    return pd.DataFrame(rows, columns=["label", "tokens", "dense", "what", "pattern", "sparsity", *_NUMBERS])


def pairing(records: Sequence[RunRecord]) -> pd.DataFrame:
    """How much luck of the seed dense and sparse runs share: what pairs of one seed scatter by, in points.

    A row per setting with `plans` that were run with at least three seeds of the dense runs. `paired` is the
    standard deviation of the differences seed by seed, `unpaired` what it would be if dense and sparse runs
    were independent; both are roots of mean variances over plans.
    """
    rows = []
    for own in judged(records):
        runs, variances = own.runs, []
        dense = scores_by_seed(runs_with(runs, kind="dense"))
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
            rows.append({"label": own.label, "plans": len(variances), "paired": paired, "unpaired": unpaired})
    return pd.DataFrame(rows, columns=["label", "plans", "paired", "unpaired"])


def caveats(records: Sequence[RunRecord]) -> list[str]:
    """What stands between these runs and the paper's, a sentence for each setting."""
    settings = records_by_setting(records)
    said = []
    for setting, label in labels_of(settings).items():
        own = settings[setting]
        layers = len(own[0].density_per_layer)
        rows, trained = max(map(rows_judged, own)), max(record.train_rows for record in own)
        seeds = len({record.config.seed for record in own})
        half = f"its later half has {layers - layers // 2} layers"
        if layers != BERT_BASE_LAYERS:
            half += f" where that of BERT-base has {BERT_BASE_LAYERS // 2}"
        said.append(
            f"{label}: {setting.encoder} has {layers} layers, so {half}; {trained:,} rows trained on and "
            f"{rows:,} judged on (one of them is {100 / rows:.2f} points of an accuracy), at most "
            f"{'one seed' if seeds == 1 else f'{seeds} seeds'}"
        )
    return said
