"""One file a command: a config dataclass and run(config), which answers the exit code."""
