"""What a caller gives a PyramidWriter, checked before anything is done with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slidewright.errors import OptionError, SourceError
from slidewright.geometry import Stack

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def check_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The shape as (height, width, samples)."""
    values = tuple(shape)
    if len(values) not in (2, 3) or not all(hasattr(value, "__index__") and value > 0 for value in values):
        raise OptionError(f"shape {shape!r} must be (height, width) or (height, width, samples), all above 0")
    height, width, samples = (*values, 1)[:3]
    return int(height), int(width), int(samples)


def check_stack(z: int, t: int) -> Stack:
    """The planes of a stack."""
    for name, value in (("z", z), ("t", t)):
        if not hasattr(value, "__index__") or value < 1:
            raise OptionError(f"{name} {value!r} must be a number of planes, 1 or more")
    return Stack(int(t), int(z))


def check_place(y: Any, x: Any) -> tuple[int, int]:
    """The place as Python's integers, since NumPy's wrap around: -y of an unsigned one is a large number."""
    for name, value in (("y", y), ("x", x)):
        if not hasattr(value, "__index__"):
            raise SourceError(f"{name} {value!r} of a region must be a whole number of pixels")
    return int(y), int(x)


def check_dtype(dtype: Any) -> str:
    """The name of a dtype."""
    import numpy as np

    try:
        return str(np.dtype(dtype).name)
    except TypeError:
        raise OptionError(f"dtype {dtype!r} is none that NumPy knows") from None


def check_weights(weights: Any, shape: tuple[int, ...], overlap: str) -> NDArray[np.float64] | None:
    """The weights of a region of that shape, if any were given."""
    if weights is None:
        return None
    import numpy as np

    if overlap != "blend":
        raise OptionError("weights are for overlap 'blend'; leave them out, or choose it")
    values = np.asarray(weights, np.float64)
    if values.shape != shape or not (values > 0).all() or not np.isfinite(values).all():
        raise SourceError(f"weights must be {shape} finite numbers above 0, one a pixel; got shape {values.shape}")
    return values
