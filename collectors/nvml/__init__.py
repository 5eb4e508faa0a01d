"""GPUs read through NVML; nothing outside this package knows the library."""
