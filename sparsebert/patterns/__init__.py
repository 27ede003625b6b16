"""Who may attend to whom.

A pattern is a relation between the real tokens of a sequence. It is written as text, the same text that is
printed back: `neighbour(2) | random(3, seed=1) | global(cls)`. `|` joins patterns and `-` takes one away;
as in Python, `-` binds tighter. Whatever the pattern, every real token attends to itself and nothing
attends to padding.
"""

from sparsebert.patterns.fixed import Copies, Dense, Global, Lexical, Neighbour, Random, Syntax, drawn_keys
from sparsebert.patterns.learned import Biased, HardLayer, Learned, Weighted
from sparsebert.patterns.pattern import Bias, Difference, Learner, Pattern, Relation, Union, parts_of
from sparsebert.patterns.text import PATTERNS, parse_pattern

__all__ = [
    "PATTERNS",
    "Bias",
    "Biased",
    "Copies",
    "Dense",
    "Difference",
    "Global",
    "HardLayer",
    "Learned",
    "Learner",
    "Lexical",
    "Neighbour",
    "Pattern",
    "Random",
    "Relation",
    "Syntax",
    "Union",
    "Weighted",
    "drawn_keys",
    "parse_pattern",
    "parts_of",
]
