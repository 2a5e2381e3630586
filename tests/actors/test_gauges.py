"""Gauges against numbers of the test's: foreign memory counts, and what is not known is not taken for 0."""

import os
from types import SimpleNamespace

import psutil
import pytest

from actors.gauges import cgroup_limits, disk_gauge, ram_gauges, store_gauge, vram_gauge
from placement.state import Gauge

GB = 1 << 30
OWN = os.getpid()


class NVMLError(Exception):
    """What NVML raises."""


class Nvml:
    """NVML with devices of the test's: (total, used, {pid: bytes or None}); a broken part raises."""

    NVMLError = NVMLError

    def __init__(self, *devices, broken=()):
        self.devices = devices
        self.broken = broken
        self.open = 0

    def _check(self, part):
        if part in self.broken:
            raise NVMLError(part)

    def nvmlInit(self):  # noqa: N802
        self._check("init")
        self.open += 1

    def nvmlShutdown(self):  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        if index >= len(self.devices):
            raise NVMLError("no such device")
        return self.devices[index]

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        return self.nvmlDeviceGetHandleByIndex(int(uuid.rpartition("-")[2]))

    def nvmlDeviceGetMemoryInfo(self, device):  # noqa: N802
        self._check("memory")
        return SimpleNamespace(total=device[0], used=device[1])

    def nvmlDeviceGetComputeRunningProcesses(self, device):  # noqa: N802
        self._check("processes")
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in device[2].items()]

    def nvmlDeviceGetGraphicsRunningProcesses(self, device):  # noqa: N802
        return self.nvmlDeviceGetComputeRunningProcesses(device)[:1]


@pytest.fixture(autouse=True)
def _all_devices(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_foreign_processes_count():
    """What other processes hold, and what of ours the ledger does not count, is taken by others."""
    nvml = Nvml((80 * GB, 30 * GB, {OWN: 12 * GB, 7: 16 * GB}))
    assert vram_gauge("cuda:0", 10 * GB, nvml) == Gauge(80 * GB, 20 * GB, "NVML")
    assert nvml.open == 0


def test_what_is_planned_but_not_allocated_is_nobody_s():
    """A ledger ahead of the device does not hide foreign memory."""
    nvml = Nvml((80 * GB, 30 * GB, {OWN: 12 * GB, 7: 16 * GB}))
    assert vram_gauge("cuda:0", 40 * GB, nvml) == Gauge(80 * GB, 18 * GB, "NVML")


@pytest.mark.parametrize(
    "processes", [{OWN: None, 7: None}, {4242: 12 * GB, 7: 16 * GB}, {}], ids=["N/A", "container", "none"]
)
def test_without_our_own_number_all_but_ours_is_others(processes):
    """N/A, and pids of another namespace, fall back to what the device has used."""
    assert vram_gauge("cuda:0", 10 * GB, Nvml((80 * GB, 30 * GB, processes))).others == 20 * GB


def test_a_foreign_process_that_is_na_is_not_zero():
    """What cannot be attributed to us stays with others."""
    assert vram_gauge("cuda:0", 10 * GB, Nvml((80 * GB, 30 * GB, {OWN: 12 * GB, 7: None}))).others == 20 * GB


def test_no_permission_for_processes_leaves_the_device():
    """A container that may not list processes still knows what is used."""
    nvml = Nvml((80 * GB, 30 * GB, {}), broken={"processes"})
    assert vram_gauge("cuda:0", 10 * GB, nvml).others == 20 * GB


@pytest.mark.parametrize("broken", ["init", "memory"])
def test_what_nvml_does_not_tell_is_the_ledger_s(broken):
    """No driver, or no permission for the memory (MIG), gives no gauge rather than a wrong one."""
    nvml = Nvml((80 * GB, 30 * GB, {}), broken={broken})
    assert vram_gauge("cuda:0", 0, nvml) is None
    assert nvml.open == 0


def test_memory_that_is_na_gives_no_gauge():
    """N/A for the device's own number is None, never 0."""
    assert vram_gauge("cuda:0", 0, Nvml((80 * GB, None, {}))) is None


def test_a_cpu_has_no_gauge():
    """VRAM(cpu) is watched by the ledger; NVML is not even asked."""
    assert vram_gauge("cpu", 0, Nvml(broken={"init"})) is None


@pytest.mark.parametrize(("visible", "total"), [("1", 2), ("1,0", 2), ("GPU-0", 1), ("", None), (None, 1)])
def test_cuda_devices_are_those_that_the_process_is_shown(monkeypatch, visible, total):
    """cuda:0 is the first of CUDA_VISIBLE_DEVICES, which holds numbers or UUIDs; without it, NVML's first."""
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    gauge = vram_gauge("cuda:0", 0, Nvml((1, 0, {}), (2, 0, {})))
    assert (gauge.total if gauge else None) == total


def test_a_device_may_be_named_by_its_uuid(monkeypatch):
    """A UUID means the same device whatever this process is shown."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert vram_gauge("GPU-1", 0, Nvml((1, 0, {}), (2, 0, {}))).total == 2


def test_ram_is_what_the_machine_has_and_what_is_not_free():
    """Our own bytes are not counted as others', and others never fall below 0."""
    (machine, *_) = ram_gauges(0)
    assert (machine.total, machine.source) == (psutil.virtual_memory().total, "psutil")
    assert 0 < machine.others < machine.total
    assert ram_gauges(machine.total)[0].others == 0


def test_limits_of_both_kinds_of_cgroup_count(tmp_path):
    """Each group above ours may limit; what the kernel takes back by itself is not used; no limit is none."""
    v2, v1 = tmp_path / "a" / "b", tmp_path / "memory" / "c"
    for folder, names in (
        (v2, {"memory.max": "max", "memory.current": "9", "memory.stat": "inactive_file 2"}),
        (
            v2.parent,
            {"memory.max": "100\n", "memory.current": "50\n", "memory.stat": "anon 3\ninactive_file 20"},
        ),
        (
            v1,
            {
                "memory.limit_in_bytes": "70",
                "memory.usage_in_bytes": "60",
                "memory.stat": "total_inactive_file 1",
            },
        ),
        (
            v1.parent,
            {
                "memory.limit_in_bytes": str(2**63 - 4096),
                "memory.usage_in_bytes": "60",
                "memory.stat": "total_inactive_file 1",
            },
        ),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in names.items():
            (folder / name).write_text(content)
    own = "4:memory:/c\n2:cpu,cpuacct:/c\n0::/a/b\n"
    assert list(cgroup_limits(own, tmp_path)) == [(70, 59), (100, 30)]


def test_a_path_of_the_host_leads_to_the_root_of_a_container(tmp_path):
    """In a container our path may not exist; the root that we see is then our group."""
    (tmp_path / "memory.max").write_text("100")
    (tmp_path / "memory.current").write_text("40")
    (tmp_path / "memory.stat").write_text("inactive_file 0")
    assert list(cgroup_limits("0::/docker/0123", tmp_path)) == [(100, 40)]


def test_a_disk_counts_what_is_not_ours(tmp_path):
    """Total and free as the disk says; more of ours than is taken is no negative number."""
    whole, less = disk_gauge(tmp_path, 0), disk_gauge(tmp_path, 1 << 60)
    assert (whole.total, whole.source, less.others) == (psutil.disk_usage(str(tmp_path)).total, "statvfs", 0)
    assert 0 < whole.others < whole.total


def test_an_object_store_is_its_capacity():
    """What other labs hold counts where it is known."""
    assert store_gauge(100, 30) == Gauge(100, 0, "object store")
    assert store_gauge(100, 30, used=50) == Gauge(100, 20, "object store")
