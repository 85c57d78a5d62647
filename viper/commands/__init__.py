"""One file a command: an options dataclass and run(options), which returns the exit code."""
