"""Tables of rules, verdicts and the numbers behind them, for people to read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import get_args

import pandas as pd

from sparsebert.degrees import DegreeConfig
from sparsebert.patterns import Global, Learned, parts_of
from sparsebert.registry import METHODS
from sparsebert.study.captions import between, listed, rounded, titled
from sparsebert.study.claims.rules import (
    CLAIMS,
    SEEDS,
    Estimate,
    Verdict,
    Word,
    after_holm,
    mixture_text,
    mixtures_of,
    speaks,
    stand_ins,
)
from sparsebert.study.claims.runs import (
    CLS_ALONE,
    NUMBERS,
    Judged,
    judged,
    labels_of,
    records_by_setting,
    rows_judged,
    runs_with,
    score_of,
    single_width_at,
)
from sparsebert.study.results import known_plan, without_seeds
from sparsebert.training.runs import RunRecord

BERT_BASE_LAYERS = 12
MOST_TASKS = 5  # beside the claims: a table has six columns at most


def table_of_rules() -> pd.DataFrame:
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


def summary(found: Sequence[Verdict], corrected: bool = False, least: int = 0) -> pd.DataFrame:
    """A row per claim, a column per task, the verdict in each cell; – if it rests on no number.

    `corrected`: verdicts that Holm's correction over all of them takes back say so. The columns are the tasks
    that most claims are judged on, five at most, and of these those that at least `least` claims are.
    """
    lost = {key for key, stays in after_holm(found).items() if corrected and not stays}
    count = pd.Series([v.label for v in found if v.numbers]).value_counts()
    labels = sorted({v.label for v in found}, key=lambda label: (-count.get(label, 0), titled(label)))
    kept = [label for label in labels[:MOST_TASKS] if count.get(label, 0) >= least]
    rows = [
        {
            "claim": f"{v.claim}: {CLAIMS[v.claim].short}",
            "task": titled(v.label),
            "verdict": "–"
            if not v.numbers
            else v.verdict + "\nnot after Holm" * ((v.claim, v.label) in lost),
        }
        for v in found
        if v.label in kept
    ]
    frame = pd.DataFrame(rows, columns=["claim", "task", "verdict"])
    return frame.pivot(index="claim", columns="task", values="verdict").rename_axis(columns=None)


def best_verdicts(decided: Sequence[Verdict], explored: Sequence[Verdict]) -> list[Verdict]:
    """For each claim and task the verdict of deciding runs once they say enough, else of exploratory runs.

    Verdicts that rest on no number are left out.
    """
    sure = [v for v in decided if speaks(v)]
    there = {(v.claim, titled(v.task)) for v in sure}
    rest = [v for v in explored if v.numbers and (v.claim, titled(v.task)) not in there]
    return sorted([*sure, *rest], key=lambda v: (v.claim, titled(v.label)))


def told(found: Sequence[Verdict], claim: str) -> str:
    """What came out of a claim, in a sentence: which runs say it, and each verdict with its tasks."""
    own = [v for v in found if v.claim == claim and v.numbers]
    runs = f"In {runs_behind(v.label for v in own)}, " * bool(own)
    return f"{runs}{claim} {in_words(own)}."


def runs_behind(labels: Iterable[str]) -> str:
    """Which runs results on some tasks are of, in words: runs of a test part decide, all others explore.

    >>> runs_behind(["glue/sst2", "imdb"]), runs_behind(["glue/sst2+test", "imdb"])
    ('exploratory runs', 'deciding runs on SST-2 and exploratory runs elsewhere')
    """
    labels = list(dict.fromkeys(labels))
    decide = [titled(label) for label in labels if label.split(", ")[0].endswith("+test")]
    if 0 < len(decide) < len(labels):
        return f"deciding runs on {listed(decide)} and exploratory runs elsewhere"
    return "deciding runs" if decide else "exploratory runs"


def missing(found: Sequence[Verdict], claim: str) -> str:
    """A list in Markdown of what a claim's rule asks for and no run tells, a line per undecided verdict."""
    own = [v for v in found if v.claim == claim and v.missing and v.verdict == "undecided"]
    return "\n".join(f"- {titled(v.label)}: {'; '.join(v.missing)}." for v in own)


def in_words(found: Sequence[Verdict]) -> str:
    """The verdicts on one claim in a phrase, such as "holds on SST-2 and MRPC; is undecided on QNLI".

    Tasks without a number are left out. Chapter 03 explains it.
    """
    said = []
    for word in get_args(Word):
        labels = [titled(verdict.label) for verdict in found if verdict.verdict == word and verdict.numbers]
        verb = "" if word in ("holds", "does not hold") else "is "
        said += [f"{verb}{word} on {listed(labels)}"] if labels else []
    return "; ".join(said) or "has no runs"


def estimates(found: Sequence[Verdict]) -> pd.DataFrame:
    """A row per number behind a verdict: claim, task, label, verdict and the fields of `Estimate`."""
    columns = ["claim", "task", "label", "verdict", *Estimate.__dataclass_fields__]
    rows = [
        {"claim": v.claim, "task": v.task, "label": v.label, "verdict": v.verdict, **vars(number)}
        for v in found
        for number in v.numbers
    ]
    return pd.DataFrame(rows, columns=columns)


def stated(numbers: pd.DataFrame) -> str:
    """Rows of `estimates` in a sentence: each mean with its task and its interval."""
    rows = numbers.itertuples()
    return listed([f"{rounded(r.mean)} on {titled(r.label)} ({between(r.low, r.high)})" for r in rows])


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
                rows.append(row | runs.numbers(score[point] - score[other]))
    return pd.DataFrame(rows, columns=["label", "mixture", "without", "stand-in", "change", *NUMBERS])


def losses(records: Sequence[RunRecord]) -> pd.DataFrame:
    """What each pattern loses at the later half and at all layers, with its interval, in points.

    A row per setting, placement and pattern, controls and [CLS] alone included; `sparsity` is that of the
    layers it is applied at, over pairs of real tokens, `padded_sparsity` the same over the padded square.
    """
    rows = []
    for runs in judged(records):
        own = runs.runs
        shown = own[own["kind"].isin(["pattern", "control"]) | (own["pattern"] == CLS_ALONE)]
        shown = shown[shown["placement"].isin(["late", "all"])]
        for (placement, pattern), part in shown.groupby(["placement", "pattern"]):
            row = {"label": runs.label, "placement": placement}
            row |= {"pattern": pattern, "kind": part["kind"].iloc[0]}
            rows.append(row | dict(part[["sparsity", "padded_sparsity"]].mean()) | _lost(runs, part))
    columns = ["label", "placement", "pattern", "kind", "sparsity", "padded_sparsity"]
    return pd.DataFrame(rows, columns=[*columns, *NUMBERS])


def _lost(runs: Judged, part: pd.DataFrame) -> dict[str, float]:
    """What some of the runs lose against dense."""
    score = score_of(part)
    return runs.numbers(runs.dense - score if runs.dense and score else None)


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
    frame = pd.DataFrame(rows, columns=["label", "kind", "plan", "density", *NUMBERS])
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
            rows.append(row | runs.numbers(score - width if score and width else None))
    frame = pd.DataFrame(rows, columns=["label", "asked", "method", "density", *NUMBERS])
    return frame[frame["seeds"] > 0].sort_values(["label", "asked"], kind="stable", ignore_index=True)


def in_short(records: Sequence[RunRecord]) -> pd.DataFrame:
    """What can be lost on a task, and what is lost by the pattern that loses least, in points.

    For each setting with patterns at the later half and at all layers, four rows by `what`: [CLS] alone, of
    the single patterns the best one at the later half and the best at all layers, and degrees learned for the
    lowest density that was asked for. `sparsity` is that of the layers that are changed; `tokens` is the
    length of the texts and `dense` the dense score. Where some patterns have three seeds, those with fewer
    are not taken.
    """
    lost = losses(records)
    rows = []
    for runs in judged(records):
        own = runs_with(lost, label=runs.label)
        own = own[own["seeds"] >= min(SEEDS, own["seeds"].max())]
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
    return pd.DataFrame(rows, columns=["label", "tokens", "dense", "what", "pattern", "sparsity", *NUMBERS])


def in_short_to_read(short: pd.DataFrame) -> pd.DataFrame:
    """The numbers of `in_short` as people read them: a row per task, a column per kind of connections."""
    short = preferred(short)
    short["lost"] = [
        f"{rounded(row.mean)} ({between(row.low, row.high)})"
        + f"\n{row.pattern}" * row.what.startswith("best")
        + f"\n{100 * row.sparsity:.0f} % sparse"
        for row in short.itertuples()
    ]
    table = short.pivot(index="label", columns="what", values="lost").reindex(columns=short["what"].unique())
    table.insert(0, "dense, %", short.groupby("label")["dense"].first().map("{:.1f}".format))
    return table.rename_axis(index="task", columns=None)


def preferred(lost: pd.DataFrame) -> pd.DataFrame:
    """Of `by_density` or `in_short` the rows with three seeds, of one setting for each task.

    That is its test part if there are such rows of it. `label` becomes the task as a page names it.
    """
    rows = lost[lost["seeds"] >= SEEDS].sort_values(
        "label", key=lambda labels: ~labels.str.contains("+test", regex=False), kind="stable"
    )
    titles = rows["label"].map(titled)
    first = rows.groupby(titles)["label"].transform("first")
    return rows.assign(label=titles)[rows["label"] == first].sort_index()


def caveats(records: Sequence[RunRecord]) -> list[str]:
    """What stands between these runs and the paper's, a sentence per encoder and one per setting."""
    settings = records_by_setting(records)
    encoders, said = {}, []
    for setting, label in labels_of(settings).items():
        own = settings[setting]
        layers = len(own[0].density_per_layer)
        rows, trained = max(map(rows_judged, own)), max(record.train_rows for record in own)
        seeds = len({record.config.seed for record in own})
        half = f"its later half has {layers - layers // 2} layers"
        if layers != BERT_BASE_LAYERS:
            half += f" where that of BERT-base has {BERT_BASE_LAYERS // 2}"
        encoders[f"{setting.encoder} has {layers} layers, so {half}"] = None
        said.append(
            f"{label}: {trained:,} rows trained on and {rows:,} judged on (one of them is {100 / rows:.2f} "
            f"points of an accuracy), at most {'one seed' if seeds == 1 else f'{seeds} seeds'}"
        )
    return [*encoders, *said]
