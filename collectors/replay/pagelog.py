"""A page of dcgm-exporter or nvidia_gpu_exporter, saved to a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from collectors.replay.csvlog import open_text
from collectors.replay.samples import Rejects, Sample
from collectors.scrape.page import PageReader
from collectors.scrape.values import catalogue_values

STARTS = ("# HELP", "# TYPE", "DCGM_", "nvidia_smi_")
_LARGEST = 64 * 2**20


class PageLog:
    """A `Reader`.  A page has no time of its own."""

    def __init__(self, model: str = "") -> None:
        self._model = model

    def __call__(self, path: Path, rejects: Rejects) -> Iterator[Sample]:
        """See `Reader`."""
        with open_text(path) as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise ValueError(f"{path}: no exporter's page is that large")
        try:
            page = PageReader().read(text.encode())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if not page.current:
            rejects.add("not current", path.name)
            return
        refused = Counter(page.rejects)
        for gpu in page.gpus:
            occupant = ", ".join(sorted(holder.text for holder in gpu.holders))
            labels = gpu.place.labels
            labels = replace(labels, model=labels.model or self._model, occupant=occupant)
            values = catalogue_values(gpu.values, page.percent, refused)
            yield Sample(None, labels, values, page.host or None)
        for name, count in refused.items():
            rejects.counts["cell"] += count
            rejects.first.setdefault("cell", f"{path.name}: {name}")
