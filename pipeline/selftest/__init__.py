"""The self-test: a simulation through this installation, every total compared with the truth."""
