"""Kinds of jobs: their share of the GPUs, sizes, run times and outcomes.

By number nearly all jobs are evaluations, trials and failures of minutes on
one GPU; nearly all GPU time goes to a few trainings that somebody cancels in
the end.  Together they follow the published Acme trace of the Seren cluster:
5.7 GPUs and 1,414 s in the mean, 1 GPU and 122 s in the median, 50 %
completed, 43 % failed and 7 % cancelled, which take two thirds of the GPU time.
"""

from __future__ import annotations

from dataclasses import dataclass

OUTCOMES = ("completed", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class JobClass:
    """Jobs of one kind.

    `share` is of the allocated GPUs, `sizes` are GPUs with their `odds`, run
    times are log-normal with median `median_s` and shape `sigma`, `outcomes`
    are the odds of OUTCOMES, and `daily` is how far its share swings with the
    working day (0 not at all).
    """

    name: str
    share: float
    sizes: tuple[int, ...]
    odds: tuple[float, ...]
    median_s: float
    sigma: float
    outcomes: tuple[float, float, float] = (0.6, 0.3, 0.1)
    large: bool = False
    daily: float = 0.0
    kind: str = "job"
    members: tuple[int, ...] = ()
    """How many small tenants share the GPU, each as likely; empty: one tenant has it alone."""
    parts: int = 0
    """Of how many slices a GPU is, of which some may be free; 0: all of it is held."""


CLASSES = (
    JobClass("pretrain", 0.46, (16, 32, 64, 128, 256), (0.3, 0.3, 0.2, 0.15, 0.05), 72_000, 1.2, (0.12, 0.08, 0.80), large=True),
    JobClass("finetune", 0.19, (4, 8, 16), (0.2, 0.6, 0.2), 7_200, 1.3, (0.45, 0.20, 0.35)),
    JobClass("hpc", 0.06, (1, 8, 16, 32), (0.4, 0.35, 0.15, 0.1), 14_400, 1.2, (0.75, 0.15, 0.10)),
    JobClass("serving", 0.12, (1, 2, 4, 8), (0.4, 0.2, 0.2, 0.2), 200_000, 1.0, (0.2, 0.1, 0.7)),
    JobClass("notebook", 0.03, (1,), (1.0,), 7_200, 1.2, (0.5, 0.3, 0.2), daily=0.6),
    JobClass("shared", 0.02, (1,), (1.0,), 14_400, 1.0, (0.5, 0.3, 0.2), daily=0.4, members=(2, 3, 4)),
    JobClass("mig", 0.02, (1,), (1.0,), 28_800, 1.0, (0.5, 0.2, 0.3), members=(2, 3, 4), parts=7),
    JobClass("parked", 0.04, (1, 2, 8), (0.5, 0.3, 0.2), 18_000, 1.1, (0.1, 0.1, 0.8)),
    JobClass("hung", 0.01, (8, 16), (0.6, 0.4), 14_400, 0.8, (0.0, 0.2, 0.8)),
    JobClass("debug", 0.05, (1, 2, 4, 8, 16, 32, 64), (0.58, 0.05, 0.06, 0.20, 0.06, 0.03, 0.02), 88, 1.6, (0.50, 0.45, 0.05), daily=0.4),
)  # fmt: skip
TRAINING = (
    JobClass("training", 0.80, (16, 32, 64, 128, 256), (0.3, 0.3, 0.2, 0.15, 0.05), 72_000, 1.2, (0.12, 0.08, 0.80), large=True),
    JobClass("finetune", 0.08, (4, 8, 16), (0.2, 0.6, 0.2), 7_200, 1.3, (0.45, 0.20, 0.35)),
    JobClass("hung", 0.06, (8, 16), (0.6, 0.4), 14_400, 0.8, (0.0, 0.2, 0.8)),
    JobClass("debug", 0.06, (1, 2, 4, 8, 16, 32, 64), (0.58, 0.05, 0.06, 0.20, 0.06, 0.03, 0.02), 88, 1.6, (0.50, 0.45, 0.05)),
)  # fmt: skip
"""A cluster for trainings alone, as those that published their distributions."""
MAINTENANCE = JobClass("maintenance", 0.0, (8,), (1.0,), 7_200, 0.6, kind="maintenance")
