"""Who is on a GPU: what a scheduler wrote down, what the kubelet says, what processes show.

Knows files below `/proc`, `/sys/fs/cgroup` and the like and one Unix socket;
nothing of NVML, of the bus or of the agent.  `Attributor` is its front.
"""
