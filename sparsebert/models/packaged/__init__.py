"""Encoders that come as packages, by name."""

from sparsebert.models.packaged.e5 import E5
from sparsebert.models.packaged.encoder import PackagedEncoder
from sparsebert.models.packaged.minilm import MINILM, TINY
from sparsebert.models.packaged.mpnet import MPNET

ENCODERS = {encoder.name: encoder for encoder in (MINILM, E5, MPNET, TINY)}
