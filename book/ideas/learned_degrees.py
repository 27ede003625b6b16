"""Ideas for learning degrees that were tried, as methods of their own.

    python book/ideas/learned_degrees.py --data-dir GLUE --runs-dir runs/ideas

makes the runs, or goes on with them. The page `book/learning_ideas.md` says what was expected.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch

import sparsebert
from sparsebert.cli.group import HELP, Sentences
from sparsebert.cli.options import folder_options
from sparsebert.degrees.hardening import support
from sparsebert.degrees.methods import Survival, attention_mass
from sparsebert.sweeps.grids import load_grid
from sparsebert.sweeps.running import forecast, sweep
from sparsebert.training.runs import RunStore


@sparsebert.register
class RootPrice(Survival):
    """A head pays the root of its density: an open head pays less per edge than one that is half open."""

    name = "root_price"
    kind = "other"

    def cost(self, density, share, pairs):
        own = (pairs.by_distance[:, None] * share).sum(-1) / pairs.total  # [layer, head]
        return (own + 1e-4).sqrt().mean()


@sparsebert.register
class Worth(Survival):
    """Edges are kept by what they are worth: how much the loss would grow per pair without them.

    The bias of an edge is log S, so the gradient of the loss by it is S times that by S: the change of the
    loss, to first order, as the edge goes (as in pruning by Taylor expansion, Molchanov et al., 2017).
    """

    name = "worth"
    kind = "other"
    memory = 0.98  # of the mean over steps

    def __init__(self, config):
        super().__init__(config)
        self.worth = 0.0

    def soft_table(self, theta, log_survival, training):
        if training and log_survival.requires_grad:
            own = log_survival * 1.0  # the gradient by what the scores get, not by what the price is paid for
            own.register_hook(self._remember)
            return own
        return log_survival

    def _remember(self, gradient):
        self.worth = self.memory * self.worth - (1 - self.memory) * gradient.detach().double()

    def harden(self, log_survival, pairs, training):
        per_pair = self.worth / pairs.by_distance[:, None].clamp(min=1)
        kept = support(per_pair, pairs, self.config.target_density, self.config.open_ended)
        return kept, log_survival.clamp(min=-4.6)


@sparsebert.register
class FromMass(Survival):
    """Each head starts as open as its attention goes far before training, between a half and nine tenths."""

    name = "from_mass"
    kind = "other"

    def begin(self, training):
        learner = training.learner
        mass = attention_mass(training.sparse, training.rows(), training.others, self.longest)
        far = mass[..., -1:] / mass.sum(-1, keepdim=True).clamp(min=1e-12)
        opened = (0.5 + 0.4 * far / far.max()).to(learner.theta)
        learner.theta.data[..., -1:] = (opened / (1 - opened)).log() + torch.tensor(float(self.longest)).log()


@click.command(cls=Sentences, context_settings=HELP)
@folder_options("data", "runs")
@click.option("--dry-run", is_flag=True, help="Say what would be trained and for how long.")
def main(folders, dry_run):
    """Make the runs of `learned_degrees.yaml`; finished ones are found again."""
    configs = load_grid(Path(__file__).with_suffix(".yaml"))
    click.echo((forecast if dry_run else sweep)(configs, RunStore(folders.runs), folders))


if __name__ == "__main__":
    main()
