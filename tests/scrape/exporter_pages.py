"""Pages as dcgm-exporter of three ages writes them, and a server that shows one."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

OLD: Mapping[str, tuple[str, float]] = {
    "power": ("DCGM_FI_DEV_POWER_USAGE", 1),
    "energy_mj": ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 1),
    "temperature": ("DCGM_FI_DEV_GPU_TEMP", 1),
    "clock_mhz": ("DCGM_FI_DEV_SM_CLOCK", 1),
    "utilization": ("DCGM_FI_DEV_GPU_UTIL", 100),
    "used_bytes": ("DCGM_FI_DEV_FB_USED", 2**-20),
    "tensor": ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", 1),
    "sm": ("DCGM_FI_PROF_SM_ACTIVE", 1),
    "pcie_tx": ("DCGM_FI_PROF_PCIE_TX_BYTES", 1),
    "capped_s": ("DCGM_FI_DEV_POWER_VIOLATION", 1e9),
    "xid": ("DCGM_FI_DEV_XID_ERRORS", 1),
}
"""Quantity → series and what a base unit is in it."""
ALIASES = {
    **OLD,
    "power": ("DCGM_FI_DEV_BOARD_POWER_WATTS", 1),
    "temperature": ("DCGM_FI_DEV_GPU_TEMP_CELSIUS", 1),
    "utilization": ("DCGM_FI_DEV_GPU_UTIL_RATIO", 100),
    "tensor": ("DCGM_FI_PROF_TENSOR_UTIL_RATIO", 1),
    "sm": ("DCGM_FI_PROF_SM_UTIL_RATIO", 1),
    "xid": ("DCGM_FI_DEV_XID_ERROR", 1),
}
"""DCGM 4.6: other names, the same units."""
BASE_UNITS = {
    **ALIASES,
    "energy_mj": ("DCGM_FI_DEV_GPU_ENERGY_JOULES_TOTAL", 1e-3),
    "clock_mhz": ("DCGM_FI_DEV_SM_CLOCK_HERTZ", 1e6),
    "utilization": ("DCGM_FI_DEV_GPU_UTIL_RATIO", 1),
    "used_bytes": ("DCGM_FI_DEV_FB_USED_BYTES", 1),
    "capped_s": ("DCGM_FI_DEV_GPU_POWER_THROTTLE_SECONDS_TOTAL", 1),
}
"""DCGM 4.7."""
AGES = {"old": OLD, "4.6": ALIASES, "4.7": BASE_UNITS}
MODEL = "NVIDIA A100-SXM4-80GB"


def gpu_labels(index: int, **more: str) -> dict[str, str]:
    """The labels of one GPU's lines."""
    return {
        "gpu": str(index), "UUID": f"GPU-{index:08d}", "pci_bus_id": f"00000000:{index + 16:02X}:00.0",
        "device": f"nvidia{index}", "modelName": MODEL, "Hostname": "n1", **more,
    }  # fmt: skip


def line(series: str, labels: Mapping[str, str], value: object) -> str:
    """One sample."""
    inside = ",".join(f'{name}="{text}"' for name, text in labels.items())
    return f"{series}{{{inside}}} {value}\n"


def dcgm_page(
    gpus: Mapping[int, Mapping[str, float]],
    age: str = "old",
    labels: Callable[[int], Mapping[str, str]] = gpu_labels,
) -> bytes:
    """A page of GPUs by index, each with quantities in base units (see OLD)."""
    text = ""
    for quantity, (series, scale) in AGES[age].items():
        lines = [
            line(series, labels(index), f"{values[quantity] * scale:.6f}")
            for index, values in gpus.items()
            if quantity in values
        ]
        if lines:
            text += f"# HELP {series} Of {quantity}.\n# TYPE {series} gauge\n" + "".join(lines)
    return text.encode()


@contextmanager
def exporter(page: Callable[[], bytes | int]) -> Generator[str]:
    """The address of a server that shows what `page` gives; a number is a status."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            shown = page()
            body = shown if isinstance(shown, bytes) else b""
            self.send_response(200 if isinstance(shown, bytes) else shown)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: object = "-", size: object = "-") -> None:
            """Tests need no access log."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
