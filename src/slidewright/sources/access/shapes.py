"""Which shapes and dtypes of arrays are images, and what to do about the others: the same words for every source that
is an array somewhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.errors import OptionError, SourceError
from slidewright.pixels import MAX_CHANNELS
from slidewright.selection import Selection
from slidewright.system.interrupts import let_through

DTYPES = ("bool", "uint8", "uint16", "uint32", "int8", "int16", "int32", "float32")

_ARRAYS = f"an image is (height, width) or (height, width, samples) with up to {MAX_CHANNELS} samples"
_AXIS_NAMES = {
    "x": ("width", "col", "cols", "column", "columns", "lon", "longitude"),
    "y": ("height", "row", "rows", "lat", "latitude"),
    "c": ("s", "channel", "channels", "sample", "samples", "band", "bands", "rgb"),
}
_REMEDIES = {
    "float16": "astype('float32')",
    "float64": "astype('float32')",
    "int64": "astype('int32'), if no value is too large",
    "uint64": "astype('uint32'), if no value is too large",
    "complex64": "np.abs() of it",
    "complex128": "np.abs() of it, as float32",
}


def axis_letter(name: str) -> str:
    """The letter of an axis by its name: x and y by any of their usual ones, c for samples, else its first letter."""
    lower = name.lower()
    return next((letter for letter, names in _AXIS_NAMES.items() if lower in names), lower[:1])


def makes_array(obj: Any) -> bool:
    """Whether an object can hand its numbers over: by `__array__` or by DLPack."""
    return hasattr(type(obj), "__array__") or hasattr(type(obj), "__dlpack__")


def as_array(obj: Any, name: str) -> NDArray[Any]:
    """The numbers of an array, a tensor or whatever makes an array of itself, without a copy where that can be.

    Raises
    ------
    SourceError
        When it can't, such as a tensor on a GPU, whose numbers must be copied from there first.
    """
    try:
        if hasattr(type(obj), "__array__") or not makes_array(obj):
            return np.asarray(obj)
        return np.from_dlpack(obj)
    except Exception as error:  # each library has its own
        let_through(error)
        raise SourceError(
            f"{name} can't be made an array ({type(error).__name__}: {error}); what is on a GPU is copied from there "
            "by .cpu() in PyTorch, .get() in CuPy"
        ) from error


def masks_left_out(found: Any, whose: str = "its") -> tuple[str, ...]:
    """What a warning says of a masked array, which no format has a place for; nothing where nothing is masked."""
    if not isinstance(found, np.ma.MaskedArray) or (whose == "its" and not np.ma.is_masked(found)):
        return ()
    return (f"{whose} mask: what lies beneath it is written as it is, unless filled(value) gives it another value",)


def check_dtype(dtype: np.dtype[Any], name: str) -> str:
    """The native name of a dtype that pixels can have; a SourceError names the remedy for another."""
    if dtype.name in DTYPES:
        return str(dtype.name)
    remedy = _REMEDIES.get(dtype.name, "astype() to one of them")
    raise SourceError(f"{name} has pixels of {dtype.name}; they can be {', '.join(DTYPES)}: use {remedy}")


def check_shape(shape: tuple[int, ...], name: str) -> tuple[int, int, int]:
    """(height, width, samples) of an array's shape; a SourceError says how to turn another into an image.

    Three axes of which the last is neither up to 4 nor shorter than the first are taken for channels first, because
    read the other way round they would be a slide of a few rows.
    """
    if len(shape) == 2:
        height, width, samples = shape[0], shape[1], 1
    elif len(shape) == 3:
        height, width, samples = shape
        if samples > MAX_CHANNELS or (samples > 4 and height < samples):
            hint = "keep some of the channels" if height > MAX_CHANNELS else "move them to the end, transpose(1, 2, 0)"
            what = f"{samples} samples a pixel" if height > MAX_CHANNELS else "its channels first"
            raise SourceError(f"{name} has shape {shape}, which looks like {what}; {_ARRAYS}: {hint}")
    else:
        hint = "index or reduce the others first" if len(shape) > 3 else "reshape it"
        raise SourceError(f"{name} has shape {shape}; {_ARRAYS}: {hint}")
    if 0 in shape:
        raise SourceError(f"{name} has shape {shape}, which holds no pixel")
    return height, width, samples


def frames_of(array: NDArray[Any], selection: Selection, name: str) -> NDArray[Any]:
    """An array, or the part of it that is chosen, as a view with the axes t, z, y, x, c.

    Raises
    ------
    OptionError
        When z and t are given of an array whose axes are not known, or are none that there are.
    SourceError
        When the array has other axes, or no pixel.
    """
    if selection.axes is None:
        if selection.z is not None or selection.t is not None:
            raise OptionError(f"z and t have no meaning for {name} unless axes names its axes, such as axes='tczyx'")
        return array.reshape(check_shape(array.shape, name))[None, None]
    axes = selection.axes
    if len(axes) != array.ndim or 0 in array.shape:
        raise SourceError(f"{name} has shape {array.shape}, which does not fit axes {axes!r}")
    lengths = dict(zip(axes, array.shape, strict=True))
    places = {axis: selection.places(axis, lengths.get(axis, 1), name) for axis in "tz"}
    left = [axis for axis, chosen in places.items() if chosen is None and lengths.get(axis, 1) > 1]
    if left:
        raise SourceError(
            f"{name} is a stack of images (axes {axes}, shape {array.shape}); choose one with {' and '.join(left)}, or "
            "keep all"
        )
    array = array[(..., *(None for axis in "tczyx" if axis not in axes))]
    axes += "".join(axis for axis in "tczyx" if axis not in axes)
    frames = array.transpose([axes.index(axis) for axis in "tzyxc"])
    times, depths = (slice(0, 1) if chosen is None else slice(chosen.start, chosen.stop) for chosen in places.values())
    check_shape(frames.shape[2:], name)
    return frames[times, depths]


def option_shape(shape: Any) -> tuple[int, ...]:
    """The option `shape` as whole numbers above 0; OptionError for anything else."""
    values = tuple(shape) if isinstance(shape, (tuple, list)) else ()
    whole = all(hasattr(value, "__index__") and not isinstance(value, bool) and value > 0 for value in values)
    if len(values) not in (2, 3) or not whole:
        raise OptionError(f"shape {shape!r} must be (height, width) or (height, width, samples), all above 0")
    return tuple(int(value) for value in values)


def option_dtype(dtype: Any) -> str:
    """The option `dtype` as a name; OptionError for what pixels can't be."""
    try:
        name = str(np.dtype(dtype).name)
    except TypeError:
        name = ""
    if name not in DTYPES:
        raise OptionError(f"dtype {dtype!r} must be one of {', '.join(DTYPES)}")
    return name
