"""The subcommands of what is behind the bus: wiring, and nothing else."""
