"""The verdicts once more, from records as JSON: naive, with numpy and scipy alone, nothing from the package.

The page "The rules, written before the runs" is what both follow. One setting at a time; degrees learned with
other methods than the default, and plans from files, have to be left out.
"""

from __future__ import annotations

import base64
import re

import numpy as np
from scipy import optimize, special, stats

Vector = np.ndarray  # 100 for each row whose class was found, else 0; or a score in points
CLS = "global(cls)"


class Run:
    """A record: what was run, with which seed, how dense it is, and the rows it got right."""

    def __init__(self, record: dict):
        config = record["config"]
        text = re.sub(r", seed=\d+", "", config["plan"])
        text, _, place = text.partition(" @ ")
        self.parts, self.seed, self.task = text.split(" | "), config["seed"], config["task"]
        layers = record["density_per_layer"]
        half = len(layers) // 2
        late = place in ("late", f"{half}-", f"{half}-{len(layers) - 1}")
        self.place = "late" if late else place or "all"
        self.density = float(np.mean(layers[half:] if late else layers))
        degrees = config["degrees"] or {}
        self.asked = degrees.get("target_density")
        if self.asked is not None:
            self.density = record["learning"]["hard_density"]
        self.name = f"{text} @ {self.place} {self.asked}"
        part = "test" if "test_accuracy" in record["metrics"] else "validation"
        prefix = "test_" if part == "test" else ""
        self.validation = 100 * record["metrics"]["accuracy"]
        self.score = 100 * record["metrics"][f"{prefix}accuracy"]
        self.rows = (record.get("predictions") or {}).get(part)

    def right(self, by_row: bool) -> Vector:
        if not by_row:
            return np.array([self.score])
        label, predicted = (unpacked(self.rows[name], self.rows) for name in ("label", "predicted"))
        return 100.0 * (label == predicted)

    def is_mixture(self) -> bool:
        kinds = [part.split("(")[0] for part in self.parts]
        return (
            self.place == "all"
            and set(kinds) <= {"neighbour", "random", "global"}
            and "like" not in self.name
        )

    @property
    def mixture(self) -> tuple[int, int, int]:
        """Global tokens, random keys, neighbours on each side."""
        sizes = {"global": 0, "random": 0, "neighbour": 0}
        for kind, size in re.findall(r"(\w+)\((\w+)\)", " ".join(self.parts)):
            sizes[kind] = 1 if size == "cls" else int(size)
        return tuple(sizes.values())


def unpacked(text: str, rows: dict) -> np.ndarray:
    bits = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8))
    width = max(1, (rows["classes"] - 1).bit_length())
    return sum(bits[b * rows["count"] : (b + 1) * rows["count"]].astype(int) << b for b in range(width))


class Again:
    """The runs of one setting: scores are vectors by seed, contrasts are weights by a condition's name."""

    def __init__(self, records: list[dict]):
        self.runs = [Run(record) for record in records]
        by_row = all(run.rows for run in self.runs) and len({run.rows["rows"] for run in self.runs}) == 1
        self.right: dict[str, dict[int, Vector]] = {}
        for run in self.runs:
            self.right.setdefault(run.name, {})[run.seed] = run.right(by_row)
        self.prior = self.shrunk_towards()

    def shrunk_towards(self) -> tuple[float, float]:
        """Smyth's prior: a variance, and how many seeds it counts as."""
        seeds = sorted({run.seed for run in self.runs})
        common = [s for s in seeds if all(s in own for own in self.right.values())]
        complete = [own for own in self.right.values() if set(own) == set(seeds)]
        by_all = [[own[s].mean() for s in common] for own in self.right.values()]
        values = np.array([[own[s].mean() for s in seeds] for own in complete]).T
        if len(common) * len(by_all) >= len(seeds) * len(complete):  # a seed that some lack is not taken
            values = np.array(by_all).T
        if min(values.shape or (0,)) < 3 or values.ndim < 2:
            return 0.0, 0.0
        n, k = values.shape
        rest = values - values.mean(0)[None] - values.mean(1)[:, None] + values.mean()
        d = (n - 1) * (k - 1) / k
        variances = np.maximum((rest**2).sum(0) / d, 1e-9)
        e = np.log(variances) - special.digamma(d / 2) + np.log(d / 2)
        excess = e.var(ddof=1) - special.polygamma(1, d / 2)
        if excess <= 0:
            return variances.mean(), d * k
        d0 = 2 * optimize.brentq(lambda x: special.polygamma(1, x) - excess, 1e-6, 1e9)
        return np.exp(e.mean() + special.digamma(d0 / 2) - np.log(d0 / 2)), d0

    def interval(self, contrast: dict[str, float]) -> tuple[float, float, float, int]:
        """Mean, ends of the 90 % interval, and the number of seeds."""
        seeds = sorted(set.intersection(*(set(self.right[name]) for name in contrast)))
        points = np.array([sum(w * self.right[name][s] for name, w in contrast.items()) for s in seeds])
        n = len(seeds)
        if n < 2:
            return (float(points.mean()) if n else np.nan), np.nan, np.nan, n
        r, mean = points.shape[1], points.mean()
        variance, d0 = self.prior
        variance *= sum(w**2 for w in contrast.values())
        of_seeds = ((n - 1) * points.mean(1).var(ddof=1) + d0 * variance) / (n - 1 + d0) / n
        of_rows = 0.0
        if r > 1:
            rest = points - points.mean(0)[None] - points.mean(1)[:, None] + mean
            of_rows = max(0, points.mean(0).var(ddof=1) / r - (rest**2).sum() / ((n - 1) * (r - 1) * n * r))
        total = of_seeds + of_rows
        if not total:
            return mean, mean, mean, n
        degrees = total**2 / (of_seeds**2 / (n - 1 + d0) + (of_rows**2 / (r - 1) if r > 1 else 0))
        half = stats.t.ppf(0.95, degrees) * np.sqrt(total)
        return mean, mean - half, mean + half, n

    def asks(self, contrast: dict[str, float] | None, bound: float, above: bool = True, sides=()) -> dict:
        """What became of one thing that a rule asks: met, refuted, floor, open, or missing."""
        if contrast is None:
            return {"state": "missing"}
        mean, low, high, n = self.interval(contrast)
        if not n:
            return {"state": "missing"}
        state = "open"
        if n >= 3 and sides and all(self.at_floor(side) for side in sides):
            state = "floor"
        elif n >= 3 and round(low, 9) > bound:
            state = "met" if above else "refuted"
        elif n >= 3 and round(high, 9) < bound:
            state = "refuted" if above else "met"
        return {"state": state, "mean": mean, "low": low, "high": high}

    def at_floor(self, side: dict[str, float]) -> bool:
        alone, dense = {f"{CLS} @ all None": 1.0}, {"dense @ all None": 1.0}
        if not {*alone, *dense} <= set(self.right):
            return False
        _, low, high, _ = self.interval(plus(side, alone, -1))
        return low <= 0 <= high < 0.25 * self.interval(plus(dense, alone, -1))[0]

    # ---- which runs

    def density(self, name: str) -> float:
        return float(np.mean([run.density for run in self.runs if run.name == name]))

    def singles(self, place: str, *kinds: str) -> list[str]:
        """Names of single patterns beside a global [CLS]; a random control is none."""
        return sorted({
            run.name
            for run in self.runs
            if run.place == place and len(run.parts) == 2 and run.parts[1] == CLS
            and re.fullmatch(r"\w+(\([1-9]\d*\))?", run.parts[0]) and run.parts[0].split("(")[0] in kinds
        })  # fmt: skip

    def at_density(self, names: list[str], density: float) -> dict[str, float] | None:
        found = sorted((self.density(name), name) for name in names)
        below, above = [f for f in found if f[0] <= density], [f for f in found if f[0] > density]
        if below and above:
            (low, sparser), (high, denser) = below[-1], above[0]
            share = (density - low) / (high - low)
            return {sparser: 1 - share, denser: share}
        near = min(found, key=lambda f: abs(f[0] - density), default=None)
        return {near[1]: 1.0} if near and round(abs(near[0] - density), 9) <= 0.01 else None

    # ---- the claims

    def levels(self) -> list[list[str]]:
        late = self.singles("late", "neighbour", "random", "syntax", "lexical")
        sparsity = {name: round(1 - self.density(name), 9) for name in late}
        bounds = [(0.78, 0.85), (0.85, 0.95), (0.95, 1.0)]
        found = [[name for name in late if low <= sparsity[name] < high] for low, high in bounds]
        return [names for names in found if names]

    def loss(self, names: list[str]) -> dict[str, float] | None:
        dense = "dense @ all None"
        return plus({dense: 1.0}, mean_of(names), -1) if dense in self.right else None

    def c1(self) -> list[dict]:
        return [self.asks(self.loss(names), 1, above=False) for names in self.levels()] or [
            {"state": "missing"}
        ]

    def c2(self) -> list[dict]:
        said = []
        for names in self.levels():
            both = [name for name in names if name.replace(" @ late", " @ all") in self.right]
            if not both or not self.loss(both):
                said.append({"state": "missing"})
                continue
            late, at_all = self.loss(both), self.loss([name.replace(" @ late", " @ all") for name in both])
            said += [self.asks(at_all, 1), self.asks(plus(at_all, late, -2), 0)]
        return said or [{"state": "missing"}]

    def c3(self) -> list[dict]:
        said = []
        for kind in ("syntax", "lexical"):
            names = self.singles("all", kind)
            said += [] if names else [{"state": "missing"}]
            for name in names:
                like = f"random(like={name.split(' | ')[0]}, besides={CLS}) | {CLS} @ all None"
                density = self.density(name)
                rivals = [
                    {like: 1.0}
                    if like in self.right
                    else self.at_density(self.singles("all", "random"), density),
                    self.at_density(self.singles("all", "neighbour"), density),
                ]
                for rival in rivals:
                    own = {name: 1.0}
                    said.append(self.asks(rival and plus(rival, own, -1), 0, sides=(own, rival)))
        return said

    def c4(self) -> list[dict]:
        points = {run.mixture: run.name for run in self.runs if run.is_mixture()}
        density = {point: self.density(name) for point, name in points.items()}
        without: list[list[dict[str, float]]] = []
        for full in points:
            if min(full) == 0 or full[0] < 2:
                continue
            found = [points[full]]
            for axis in (2, 1, 0):  # neighbours, random keys, global tokens but for [CLS]
                fits = [
                    (abs(density[other] - density[full]), points[other])
                    for other in sorted(points)
                    if other[axis] == (1 if axis == 0 else 0)
                    and all(other[a] >= full[a] for a in range(3) if a != axis)
                ]
                if fits and round(min(fits)[0], 9) <= 0.01:
                    found.append(min(fits, key=lambda fit: fit[0])[1])
            if len(found) == 4:
                without.append(found)
        if not without:
            return [{"state": "missing"}]
        full, neighbours, keys, tokens = (mean_of(list(names)) for names in zip(*without, strict=True))
        return [
            self.asks(plus(better, neighbours, -1), 0, sides=(better, neighbours))
            for better in (full, keys, tokens)
        ]

    def c6(self) -> list[dict]:
        mixtures = {run.name: run.mixture for run in self.runs if run.is_mixture()}
        mixtures = {name: (g, r, w) for name, (g, r, w) in mixtures.items() if g and r + w}
        both = [self.density(name) for name, (_, r, w) in mixtures.items() if r and w]
        most = max(0.1, min(both, default=0))
        learned = [name for name in self.right if name.startswith("learned | global(cls) @ all")]
        said = []
        for name in (name for name in learned if self.density(name) <= most + 0.005):
            own, density, seeds = {name: 1.0}, self.density(name), set(self.right[name])
            near = [other for other in mixtures if self.density(other) <= density + 0.005]
            if not any(mixtures[other][1] and mixtures[other][2] for other in near):
                said.append({"state": "missing"})
            else:
                whole = [other for other in near if seeds <= set(self.right[other])]
                said += [{"state": "missing"}] * (len(whole) < len(near))
                if whole:
                    best = max(whole, key=lambda other: self.on_validation(other, seeds))
                    said.append(self.asks(plus(own, {best: 1.0}, -1), 0, sides=(own, {best: 1.0})))
            widths = [other for other in self.right if other == f"{CLS} @ all None"]
            single = self.at_density(widths + self.singles("all", "neighbour"), density)
            said.append(self.asks(single and plus(own, single, -1), -1, sides=(own, single)))
        return said or [{"state": "missing"}]

    def on_validation(self, name: str, seeds: set[int]) -> float:
        return float(np.mean([run.validation for run in self.runs if run.name == name and run.seed in seeds]))

    def verdicts(self) -> dict[str, tuple[str, list[dict]]]:
        """By claim its word and what its rule asked; C5 has no verdict."""
        found = {}
        for claim in ("C1", "C2", "C3", "C4", "C6"):
            said = getattr(self, claim.lower())()
            states = {one["state"] for one in said}
            if "refuted" in states:
                word = "does not hold"
            elif states & {"missing", "open"}:
                word = "undecided"
            else:
                word = "at the floor" if "floor" in states else "holds"
            found[claim] = (word, [one for one in said if one["state"] != "missing"])
        return found


def plus(one: dict[str, float], other: dict[str, float], times: float) -> dict[str, float]:
    return {name: one.get(name, 0) + times * other.get(name, 0) for name in {**one, **other}}


def mean_of(names: list[str]) -> dict[str, float]:
    return {name: names.count(name) / len(names) for name in names}
