"""Errors of the package: every message names the object, what was expected and what was found.

Examples:
    >>> model = pc.CircuitModel(pc.families.factorized(2, num_categories=2))
    >>> try:
    ...     model.log_likelihood(torch.tensor([[0, 5]]))
    ... except pc.errors.EvidenceError as error:  # a kind of `CircuitError`
    ...     print(error)
    values[0, 1] is 5; variable 1 has categories 0 .. 1
    >>> issubclass(pc.errors.EvidenceError, ValueError)
    True
"""

__all__ = [
    "BackendError",
    "CircuitError",
    "CompileError",
    "EvidenceError",
    "FormatError",
    "ParameterError",
    "StructureError",
]


class CircuitError(ValueError):
    """Base of all errors that `pcircuits` raises on bad input."""


class StructureError(CircuitError):
    """A node or circuit is not well formed, not smooth or not decomposable."""


class CompileError(CircuitError):
    """A circuit cannot be compiled to a plan."""


class EvidenceError(CircuitError):
    """Evidence does not fit the circuit, or a conditional query was given impossible evidence."""


class ParameterError(CircuitError):
    """Parameters are missing, unknown, of a wrong shape or not log-weights."""


class BackendError(CircuitError):
    """An implementation was asked for something it does not do."""


class OutOfMemoryError(BackendError, MemoryError):
    """An evaluation needs more memory than there is; smaller batches need less."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, NumPy or PyTorch says that memory ran out."""
    kind = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return kind or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def shown(value: object) -> str:
    """A value of a file in a message: short, whatever it is; a nested one could fill the memory."""
    if value is None or isinstance(value, (bool, float)):
        return repr(value)
    if isinstance(value, int) and value.bit_length() <= 64:
        return repr(value)
    if isinstance(value, (str, bytes)):
        return repr(value[:60])
    return f"a value of type {type(value).__name__}"


class FormatError(CircuitError):
    """A file is not of the expected format, version or content."""
