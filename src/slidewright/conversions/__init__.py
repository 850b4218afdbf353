"""What a caller asks for: convert, PyramidWriter, shards, batches; each decides, runs the engine and cleans up."""
