"""Recording a function's launches once and replaying them: a CUDA graph with static buffers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from pcircuits.errors import BackendError

Result = TypeVar("Result")

# Runs before recording: Triton compiles at the first, allocators and libraries settle.
_WARM_UP = 2


class CapturedStep(Generic[Result]):
    """A function of tensors recorded for fixed shapes.

    Args:
        function: Takes tensors and returns tensors, alone or in any structure; asks the host
            nothing and does the same whatever their values.
        example_inputs: Inputs of the shapes, types and device to record for; None stands for an
            input that is left out, always.

    Raises:
        BackendError: If there is no CUDA device, an input is elsewhere, or the function cannot be
            recorded.
    """

    def __init__(
        self, function: Callable[..., Result], example_inputs: Sequence[Tensor | None]
    ) -> None:
        _require_cuda(example_inputs)
        self._inputs = [None if x is None else x.detach().clone() for x in example_inputs]
        device = next(x.device for x in self._inputs if x is not None)
        self._graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.device(device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP):
                    function(*self._inputs)
            torch.cuda.current_stream().wait_stream(stream)
            try:
                with torch.cuda.graph(self._graph):
                    self._result = function(*self._inputs)
            except RuntimeError as error:
                raise BackendError(f"the step cannot be captured: {error}") from error

    def __call__(self, *inputs: Tensor | None) -> Result:
        """Copies inputs to the buffers and replays; nothing waits for the device.

        Args:
            *inputs: Of the shapes and types recorded.

        Returns:
            What the function returned: the same tensors at every call, overwritten by the next.

        Raises:
            BackendError: If inputs differ from the recorded ones in number, shape or type.
        """
        if len(inputs) != len(self._inputs):
            raise BackendError(
                f"the captured step takes {len(self._inputs)} inputs; found {len(inputs)}"
            )
        for i, (buffer, given) in enumerate(zip(self._inputs, inputs, strict=True)):
            if _signature(buffer) != _signature(given):
                raise BackendError(
                    f"input {i} of the captured step was {_signature(buffer)}; "
                    f"found {_signature(given)}"
                )
            if buffer is not None and given is not None:
                buffer.copy_(given)
        self._graph.replay()
        return self._result


def capture(
    function: Callable[..., Result], example_inputs: Sequence[Tensor | None]
) -> CapturedStep[Result]:
    """Records a function for inputs like these; see `CapturedStep`."""
    return CapturedStep(function, example_inputs)


def _require_cuda(inputs: Sequence[Tensor | None]) -> None:
    if not torch.cuda.is_available():
        raise BackendError("a step can be captured on a CUDA device only; there is none")
    places = {x.device for x in inputs if x is not None}
    if len(places) != 1 or next(iter(places)).type != "cuda":
        found = sorted(map(str, places))
        raise BackendError(f"inputs of a captured step must be on one CUDA device; found {found}")


def _signature(tensor: Tensor | None) -> tuple[object, ...] | None:
    return None if tensor is None else (tuple(tensor.shape), tensor.dtype, str(tensor.device))
