"""Parts of a job on disk: segments in a file with an index, and the folder that such files belong to."""
