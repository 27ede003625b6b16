"""What is said of an encoder that comes as a package, and where its files are."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsebert.errors import InputError
from sparsebert.fetching import Download, fetch
from sparsebert.paths import cache_dir


@dataclass(frozen=True)
class PackagedEncoder:
    """An encoder by a name of its own; its files come with a requirement or are fetched once."""

    name: str
    summary: str
    weights: int  # numbers that it has without the classification head
    layers: int
    heads: int
    width: int
    terms: str
    trained_on: str
    requirement: str  # the package it is in
    installed: Callable[[], Path | None] = lambda: None  # its folder, if it comes with the requirement
    downloads: Sequence[Download] = ()
    unpack: Callable[[list[Path], Path], object] | None = None  # the downloads into a folder
    options: Sequence[str] = ()  # of pip
    sizes: dict[str, int] | None = None  # of random weights in the place of its own

    @property
    def folder(self) -> Path | None:
        """Where its files are; None if they are not here yet."""
        beside = Path(__file__).parent / self.name  # a bundle has them there
        places = self.installed(), beside, self._place if self.unpack else None
        return next((place for place in places if place and os.path.isdir(place)), None)

    def get(self) -> Path:
        """Its folder, fetched if need be; `InputError` if it can't be had."""
        if folder := self.folder:
            return folder
        if not self.unpack:
            raise InputError(f"encoder '{self.name}' is not installed: pip install {self.requirement}")
        files = fetch(f"encoder '{self.name}'", self.downloads, cache_dir(), *self.options)
        self._place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._place.parent, prefix=".writing-") as temporary:
            new = Path(temporary) / "new"
            new.mkdir()
            self.unpack(files, new)
            try:
                os.rename(new, self._place)
            except OSError:  # another process was first
                if not self._place.is_dir():
                    raise
        for path in files:  # what they held is unpacked
            path.unlink(missing_ok=True)
        return self._place

    def described(self) -> dict[str, object]:
        """What there is to know before it is used, for a person or a program."""
        said = ("summary", "weights", "layers", "heads", "width", "terms", "trained_on")
        folder = str(self.folder) if self.folder else None
        return {field: getattr(self, field) for field in said} | {"from": self.requirement, "folder": folder}

    def __str__(self) -> str:
        """One line, as lists show it."""
        size = f"{self.layers} layers x {self.width}, {self.weights / 1e6:.1f} million weights"
        return f"{self.summary}; {size}; {self.terms}; trained on {self.trained_on}; {self.state}"

    @property
    def state(self) -> str:
        """Whether it is here, or how it comes."""
        if self.folder:
            return f"found in {self.folder}"
        if self.unpack:
            return f"fetched at first use, or by `sparsebert encoders --get {self.name}`"
        return f"missing: pip install {self.requirement}"

    @property
    def _place(self) -> Path:
        return cache_dir() / "encoders" / self.name
