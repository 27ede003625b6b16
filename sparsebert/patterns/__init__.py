"""Who may attend to whom.

A pattern is a relation between the real tokens of a sequence. It is written as text, the same text that is
printed back: `neighbour(2) | random(3, seed=1) | global(cls)`. `|` joins patterns and `-` takes one away;
as in Python, `-` binds tighter. Whatever the pattern, every real token attends to itself and nothing
attends to padding. A plan places patterns at layers: `syntax | global(cls) @ late`.

Each pattern is a class that says all that is known of it and is registered where it is defined.
"""

# Patterns are listed in this order.
# isort: off
from sparsebert.patterns.position import Dense, Global, Neighbour, globals_apart
from sparsebert.patterns.dilated import Dilated
from sparsebert.patterns.random import Random
from sparsebert.patterns.content import Copies, Lexical, Syntax
from sparsebert.patterns.segments import Segments
from sparsebert.patterns.learned import Biased, HardLayer, Learned, Weighted
from sparsebert.patterns.predicted import Predicted
# isort: on

from sparsebert.patterns.pattern import Bias, Difference, Family, Learner, Pattern, Relation, Union, parts_of
from sparsebert.patterns.plans import Placement, Plan, parse_plan
from sparsebert.patterns.text import parse_pattern
from sparsebert.registry import PATTERNS
