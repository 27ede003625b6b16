"""The core by itself, in an environment of torch, transformers, jaxtyping, pydantic and what they install."""

import re
import subprocess
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import sparsebert

ROOT = Path(sparsebert.__file__).resolve().parent.parent
CORE = ("torch", "transformers", "jaxtyping", "pydantic")

USE = """
import torch
from transformers import BertConfig, BertForSequenceClassification
import sparsebert
from sparsebert import DegreeConfig, Global, Neighbour, attach_degrees, parse_plan, sparsify

sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
config = BertConfig(vocab_size=50, **sizes)
model = BertForSequenceClassification(config)
ids = torch.arange(1, 13).view(2, 6)
dense = model.eval()(ids).logits
with sparsify(model, Neighbour(1) | Global("cls")) as sparse, sparse.measure() as meter:
    sparser = model(ids).logits
assert not torch.equal(dense, sparser) and meter.over_real[0] < 1
assert torch.equal(model(ids).logits, dense)

plan = parse_plan("learned | global(cls)")
learner = attach_degrees(model, plan, DegreeConfig(max_distance=4))
with sparsify(model, plan, learner):
    loss = model(ids, labels=torch.tensor([0, 1])).loss + learner.density.mean()
    loss.backward()
assert learner.theta.grad.abs().sum() > 0

try:
    from sparsebert import finetune
except ImportError as error:
    print(error)
"""


def _closure(names: tuple[str, ...]) -> set[str]:
    """Distributions that pip would install for these, of those that are installed here."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        found.add(name)
        for text in metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                waiting.append(needed.name)
    return found


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory) -> Path:
    """The interpreter of an environment into which the core's packages are linked, and sparsebert alone."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    for name in _closure(CORE):
        for file in metadata.files(name) or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(
                    Path(file.locate()).parents[len(file.parts) - 2] if len(file.parts) > 1 else file.locate()
                )
    (site / "sparsebert").symlink_to(ROOT / "sparsebert")
    info = Path(metadata.distribution("sparsebert")._path)  # which says what the extras bring
    (site / info.name).symlink_to(info.resolve())
    return folder / "bin" / "python"


@pytest.mark.slow
def test_the_core_needs_four_packages_alone(bare_python, tmp_path):
    done = subprocess.run([bare_python, "-I", "-c", USE], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pip install 'sparsebert[train]'" in done.stdout


def test_all_public_names_can_be_imported():
    for name in sparsebert.__all__:
        assert getattr(sparsebert, name) is not None
    assert set(sparsebert.__all__) <= set(dir(sparsebert))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sparsebert.nothing
