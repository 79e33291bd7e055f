"""Errors of the package: every message names the object, what was expected and what was found."""


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


class FormatError(CircuitError):
    """A file is not of the expected format, version or content."""
