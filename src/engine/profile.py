"""The profiler: where the time of a few training steps goes."""

import os
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

SKIPPED, WARMUP, RECORDED = 3, 1, 5  # steps; the first ones allocate memory and choose kernels


class StepProfiler:
    """Record a few steps as a trace, for https://ui.perfetto.dev or chrome://tracing, and as a table of operations.

    Use it in a `with` block and call `step` after each step. If the run has fewer steps, those are recorded.
    """

    def __init__(self, device: torch.device, files: tuple[Path, Path] | None) -> None:
        """files: the trace and the table; None records nothing."""
        self._files = files
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # silences warnings about devices that this machine lacks
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
        steps = schedule(skip_first=SKIPPED, wait=0, warmup=WARMUP, active=RECORDED, repeat=1)
        self._sort_by = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
        self._profile = profile(activities=activities, schedule=steps, on_trace_ready=self._write) if files else None
        self._taken = 0

    def __enter__(self) -> "StepProfiler":
        if self._profile is not None:
            self._profile.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def step(self) -> None:
        if self._profile is not None:
            self._profile.step()
            self._taken += 1
            if self._taken == SKIPPED + WARMUP + RECORDED:
                self._stop()

    def _stop(self) -> None:
        if self._profile is not None:
            finished, self._profile = self._profile, None
            finished.stop()

    def _write(self, recorded: profile) -> None:
        assert self._files is not None
        trace, table = self._files
        trace.parent.mkdir(parents=True, exist_ok=True)
        recorded.export_chrome_trace(str(trace))
        text = recorded.key_averages().table(sort_by=self._sort_by, row_limit=30)
        table.write_text(text, encoding="utf-8")
