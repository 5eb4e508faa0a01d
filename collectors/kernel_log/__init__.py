"""The kernel log as a second source of what befalls GPUs; knows no agent and no driver's library."""
