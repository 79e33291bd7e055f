"""Pictures as files."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pcircuits.errors import FormatError
from pcircuits.files import write_atomically

FORMATS = (".png", ".svg", ".pdf")
_DOTS_PER_INCH = 150
# A date would make two files of one picture differ.
_METADATA = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


def save(picture: Axes | Figure, path: str | Path, *, dots_per_inch: int = _DOTS_PER_INCH) -> Path:
    """Writes a picture whole, as PNG, SVG or PDF by the name's end.

    The same picture gives the same file. Legends beside the axes are part of it. The figure stays
    open.

    Args:
        picture: Axes, or a figure.
        path: The file; replaced in one step.
        dots_per_inch: Resolution of a PNG.

    Returns:
        The path.

    Raises:
        FormatError: If the name ends otherwise, or the resolution is not positive.

    Examples:
        >>> axes = pc.viz.draw(pc.families.mixture(3, 2, 2))
        >>> pc.viz.save(axes, "mixture.svg").name
        'mixture.svg'
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in FORMATS:
        raise FormatError(f"{target}: expected one of {', '.join(FORMATS)}; found {suffix!r}")
    if dots_per_inch < 1:
        raise FormatError(f"expected dots_per_inch >= 1; found {dots_per_inch}")
    figure = picture if isinstance(picture, Figure) else picture.get_figure(root=True)
    if figure is None:
        raise FormatError("expected axes of a figure; found axes that were taken out of theirs")
    stream = io.BytesIO()
    with rc_context({"svg.hashsalt": "pcircuits"}):
        figure.savefig(
            stream,
            format=suffix[1:],
            dpi=dots_per_inch,
            bbox_inches="tight",
            metadata=_METADATA[suffix],
        )
    write_atomically(target, stream.getvalue())
    return target
