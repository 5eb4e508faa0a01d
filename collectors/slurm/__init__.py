"""Jobs of a Slurm cluster as allocations: who has which GPUs, to the second of its accounting.

Runs on one machine that has Slurm's commands, and knows the agents only by what
they publish.  How the two words are joined: docs/slurm.md.
"""
