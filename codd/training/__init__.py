"""Training: text to windows, masking, loss, and a loop that can be stopped and resumed.

Examples:
    >>> from codd.training import encode_documents, evaluation_windows
    >>> vocabulary = codd.CharacterVocabulary.from_text(["the cat sat on the mat"], min_count=1)
    >>> tokens = encode_documents(["the cat", "the mat"], vocabulary)  # (N,)
    >>> evaluation_windows(tokens, 8).shape
    torch.Size([2, 8])
"""

from codd.training.circuit_loop import starting_circuit
from codd.training.corpus import Corpus, python_documentation, read_text_files
from codd.training.coupling_loop import CouplingTraining, train_coupling
from codd.training.schedule import Schedule
from codd.training.windows import encode_documents, evaluation_windows, sample_windows

__all__ = [
    "Corpus",
    "CouplingTraining",
    "Schedule",
    "encode_documents",
    "evaluation_windows",
    "python_documentation",
    "read_text_files",
    "sample_windows",
    "starting_circuit",
    "train_coupling",
]
