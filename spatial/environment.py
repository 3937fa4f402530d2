"""On what a run was trained: versions, commit and machine."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch


def environment(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """Versions, commit and machine, for whoever reads the results later."""
    return {
        "python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__, "commit": commit(),
        "command": sys.argv, "platform": platform.platform(), "processor": processor(), "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "processes": processes, "device": str(device),
        "accelerator": torch.cuda.get_device_name() if device.type == "cuda" else None, "started": now(),
    }  # fmt: skip


def processor() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit of the program, None outside git."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
