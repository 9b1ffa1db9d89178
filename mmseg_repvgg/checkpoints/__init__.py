"""Read and write checkpoints, and translate those of other projects."""
