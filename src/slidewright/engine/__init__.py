"""Who does it: coordinator, workers and the ordered writer, the ring between them, and the same in one process."""
