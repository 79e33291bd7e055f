"""Coupled discrete diffusion: several tokens a step from one exact joint distribution.

Examples:
    >>> model = codd.CoupledModel.from_pretrained("demo")  # ships with the package
    >>> text = model.generate("Return the ", new_tokens=4, steps=1, seed=0)[0]
    >>> text.startswith("Return the "), len(text)
    (True, 15)
    >>> tokens = model.vocabulary.encode("Return a list of all files in the given directory.")
    >>> tokens[34:40] = model.mask_id
    >>> joint = model.joint(tokens[None])  # one call of the denoiser, then exact
    >>> joint.marginals().shape, joint.sample(3).shape
    (torch.Size([1, 48, 99]), torch.Size([1, 3, 48]))
"""

import importlib
from collections.abc import Callable
from typing import Any

from codd import denoisers, errors
from codd.vocabulary import (
    BPEVocabulary,
    ByteVocabulary,
    CharacterVocabulary,
    PublishedVocabulary,
    Vocabulary,
    vocabulary_from_json,
)
from codd.denoisers.base import Denoiser, DenoiserOutput
from codd.denoisers.lora import LoraSettings, add_lora, merge_lora
from codd.denoisers.transformer import TransformerConfig, TransformerDenoiser
from codd.coupling.couplings import (
    COUPLING_NAMES,
    COUPLINGS,
    CouplingSettings,
    couple,
    marginal_error,
)
from codd.coupling.distribution import (
    CoupledDistribution,
    FactorisedDistribution,
    TokenDistribution,
)
from codd.modulators.choice import CircuitChoice
from codd.modulators.registry import MODULATORS, make_modulator
from codd.decoding.quotas import EntropyBound, Factor, Klass, Threshold
from codd.decoding.budgets import JointEntropy, TotalCorrelation
from codd.decoding.revision import (
    CappedRevision,
    ConfidentRevision,
    LoopRevision,
    RescaledRevision,
)
from codd.decoding.constraints import ConstrainedModel
from codd.decoding.loop import Generation, generate, infill, stream
from codd.published import PublishedSettings, load_published_circuit, save_published_circuit
from codd.model import CoupledModel

__all__ = [
    "BPEVocabulary",
    "ByteVocabulary",
    "COUPLINGS",
    "COUPLING_NAMES",
    "CircuitChoice",
    "CappedRevision",
    "ConfidentRevision",
    "CharacterVocabulary",
    "ConstrainedModel",
    "CoupledDistribution",
    "CoupledModel",
    "CouplingSettings",
    "Denoiser",
    "DenoiserOutput",
    "EntropyBound",
    "Factor",
    "FactorisedDistribution",
    "Generation",
    "JointEntropy",
    "Klass",
    "LoraSettings",
    "MODULATORS",
    "PublishedSettings",
    "PublishedVocabulary",
    "LoopRevision",
    "RescaledRevision",
    "Threshold",
    "TokenDistribution",
    "TotalCorrelation",
    "TransformerConfig",
    "TransformerDenoiser",
    "Vocabulary",
    "add_lora",
    "compat",
    "couple",
    "denoisers",
    "errors",
    "evaluation",
    "generate",
    "infill",
    "load_published_circuit",
    "make_modulator",
    "marginal_error",
    "merge_lora",
    "save_published_circuit",
    "stream",
    "training",
    "viz",
    "vocabulary_from_json",
]


def __getattr__(name: str) -> Any:
    # These come when they are asked for: matplotlib alone takes half a second to import.
    if name in ("compat", "evaluation", "training", "viz"):
        return importlib.import_module(f"codd.{name}")
    raise AttributeError(f"module 'codd' has no attribute {name!r}")


def _html_by(function: str) -> Callable[[object], str]:
    def html(shown: object) -> str:
        found: str = getattr(__getattr__("viz"), function)(shown)
        return found

    return html


# What notebooks show is a picture, and pictures rank above what they are of.
for _shown, _function in (
    (CoupledDistribution, "joint_html"),
    (FactorisedDistribution, "joint_html"),
    (Generation, "generation_html"),
):
    setattr(_shown, "_repr_html_", _html_by(_function))  # noqa: B010
