"""What this machine has and how busy it is. Knows nothing of nodes, runs or who asks; never imports torch."""

from __future__ import annotations

import functools
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """One GPU as NVML tells. Memory in bytes, utilisation 0..1, watts and degrees Celsius."""

    index: int
    name: str
    memory_total: int
    memory_used: int = 0
    utilisation: float = 0.0
    temperature_c: float = 0.0
    power_w: float = 0.0
    driver: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """Memory and disk in bytes; ``cpu_load`` is the share of all cores in use, 0..1, since the last call."""

    hostname: str
    cpu_model: str
    cpu_count: int
    cpu_load: float
    ram_total: int
    ram_used: int
    disk_total: int
    disk_free: int
    os: str
    python: str
    torch: str
    gpus: tuple[GpuFacts, ...] = ()


def machine(place: Path) -> MachineFacts:
    """This machine now; disk figures are those of the file system that holds ``place``."""
    import psutil

    memory, disk = psutil.virtual_memory(), shutil.disk_usage(place)
    return MachineFacts(
        hostname=platform.node() or "this machine",
        cpu_model=_cpu_model(),
        cpu_count=psutil.cpu_count(logical=True) or 1,
        cpu_load=psutil.cpu_percent(interval=None) / 100.0,
        ram_total=memory.total,
        ram_used=memory.total - memory.available,
        disk_total=disk.total,
        disk_free=disk.free,
        os=_os_name(),
        python=platform.python_version(),
        torch=_version("torch"),
        gpus=gpus(),
    )


def gpus() -> tuple[GpuFacts, ...]:
    """The NVIDIA GPUs that the driver shows; none where there is no driver."""
    pynvml = _nvml()
    if pynvml is None:
        return ()
    found = []
    driver = _text(pynvml.nvmlSystemGetDriverVersion())
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        found.append(
            GpuFacts(
                index=index,
                name=_text(pynvml.nvmlDeviceGetName(handle)),
                memory_total=int(memory.total),
                memory_used=int(memory.used),
                utilisation=_reading(lambda h=handle: pynvml.nvmlDeviceGetUtilizationRates(h).gpu) / 100.0,
                temperature_c=_reading(lambda h=handle: pynvml.nvmlDeviceGetTemperature(h, 0)),
                power_w=_reading(lambda h=handle: pynvml.nvmlDeviceGetPowerUsage(h)) / 1000.0,
                driver=driver,
            )
        )
    return tuple(found)


@functools.cache
def _nvml():  # type: ignore[no-untyped-def]
    """The library, initialised once; None when there is no driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml
    except Exception:  # the binding raises its own errors, and OSError where the driver is half installed
        return None


def _reading(read) -> float:  # type: ignore[no-untyped-def]
    """A sensor's value; 0 where the card has no such sensor."""
    try:
        return float(read())
    except Exception:
        return 0.0


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


@functools.cache
def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@functools.cache
def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return f"{platform.system()} {platform.release()}"


@functools.cache
def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return ""
