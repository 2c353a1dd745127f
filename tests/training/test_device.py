"""Where a training computes, and memory that stays while it does."""

from __future__ import annotations

import resource
import sys

import pytest
import torch

from edgeres.errors import BackendMissingError, UsageError
from edgeres.recipe.training import TrainSettings
from edgeres.system.freed_memory import freed_memory_kept
from edgeres.training.device import choose_device, cpu_threads


def test_cpu_computes_in_float32() -> None:
    place = choose_device(TrainSettings(device="cpu"))
    assert (place.device.type, place.dtype, place.mixed) == ("cpu", torch.float32, False)


def test_precision_can_be_asked_for() -> None:
    assert choose_device(TrainSettings(device="cpu", precision="bfloat16")).mixed


def test_unknown_and_absent_devices() -> None:
    with pytest.raises(UsageError, match="toaster"):
        TrainSettings(device="toaster")
    with pytest.raises(BackendMissingError, match="cuda:99"):
        choose_device(TrainSettings(device="cuda:99"))


def test_threads_are_restored() -> None:
    before = torch.get_num_threads()
    with cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.slow  # page faults also depend on what other tests left in the allocator
@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_kept_memory_faults_once() -> None:
    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(16 << 20, dtype=torch.uint8)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    with freed_memory_kept() as kept:
        if not kept:
            pytest.skip("this C library has no mallopt")
        faults()
        assert faults() < 100  # of 4096 pages
