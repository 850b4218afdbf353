"""Who tells of a run: the progress bar, the page about it and its charts."""
