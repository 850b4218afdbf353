"""What the operating system gives: processes, shared memory, files and locks, limits. Knows nothing of images."""
