"""Which CPU this is; torch is not needed to know."""

import platform
from pathlib import Path


def describe_processor() -> str:
    """Return the CPU's name, family and model: "AMD EPYC" alone does not tell which instructions it has."""
    names = {"model name": "", "cpu family": "", "model": ""}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in names and not names[key.strip()]:
                names[key.strip()] = value.strip()
    except OSError:  # not on Linux
        pass
    name, family, model = names.values()
    name = name or platform.processor() or platform.machine()
    return f"{name} (family {family}, model {model})" if family and model else name
