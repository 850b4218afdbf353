"""What a caller asks for: convert, PyramidWriter, shards, batches; each decides, runs the engine and cleans up."""

from slidewright.errors import RunError

try:
    import concurrent.futures.thread  # noqa: F401 - for tifffile and zarr, while Python still lets anyone import it
except RuntimeError as error:
    raise RunError(
        "the program's main thread has ended, and tifffile can't be imported any more; import slidewright.convert (or "
        "what else is used) in the main thread, or have that wait for this thread: thread.join()"
    ) from error
