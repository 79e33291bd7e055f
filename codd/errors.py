"""Errors raised by codd; each names the object, what was expected and what was found.

Examples:
    >>> model = codd.CoupledModel.from_pretrained("demo")
    >>> try:
    ...     model.generate("Return ", steps=0)
    ... except codd.errors.DecodingError as error:  # a kind of `CoddError`
    ...     print(error)
    steps: expected 1 (one a block) to 32 (one a token), found 0
    >>> issubclass(codd.errors.CoddError, ValueError)
    True
"""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "CheckpointError",
    "CoddError",
    "ConfigError",
    "CorpusError",
    "CouplingError",
    "DecodingError",
    "DenoiserError",
    "EvaluationError",
    "TrainingError",
    "VocabularyError",
]


class CoddError(ValueError):
    """Base class of every error that codd raises on bad input."""


class ConfigError(CoddError):
    """A configuration value is impossible, or two of them contradict each other."""


class VocabularyError(CoddError):
    """Text or ids that a vocabulary cannot represent, or a damaged vocabulary description."""


class CorpusError(CoddError):
    """A text source is missing, unreadable, empty or too short."""


class DenoiserError(CoddError):
    """A denoiser was called with tokens or masks that it cannot take."""


class CouplingError(CoddError):
    """A denoiser's output and a circuit cannot be coupled, or their joint has nothing to say."""


class CheckpointError(CoddError):
    """A checkpoint is missing, damaged, of another format version, or belongs to another run."""


class DecodingError(CoddError):
    """A decoding request that cannot be carried out."""


class EvaluationError(CoddError):
    """A measurement that cannot be made."""


class TrainingError(CoddError):
    """A training run cannot go on."""


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Around code that interprets what a file says: what it stumbles over is a damaged file.

    Args:
        what: Name of the file or folder.

    Raises:
        CheckpointError: If values of the wrong kind lead to an error that is not codd's own.
    """
    try:
        yield
    except CoddError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"{what} does not say what it should: {error!r:.200}") from error
