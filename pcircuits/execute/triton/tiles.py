"""How work is cut into tiles: small rules that depend on shapes and the device alone."""

from __future__ import annotations

import torch

# Processors assumed where there is no device to ask: enough to have several shares in a test.
_WITHOUT_DEVICE = 4


def block(size: int, least: int, most: int) -> int:
    """The least power of two that covers `size`, within bounds that are powers of two."""
    return min(max(1 << max(0, size - 1).bit_length(), least), most)


def parts(wanted: int, have: int, most: int) -> int:
    """Into how many parts to split so that `have` times them reach `wanted`, at most `most`."""
    return max(1, min(-(-wanted // max(1, have)), most))


def num_processors(device: torch.device) -> int:
    """Streaming multiprocessors of a device."""
    if device.type != "cuda":
        return _WITHOUT_DEVICE
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
