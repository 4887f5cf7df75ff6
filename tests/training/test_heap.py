"""What a step frees is there for the next one."""

import os
import resource
import subprocess
import sys

import pytest

STEPS = """
import resource, torch
from kindred.training.heap import keep_freed_memory

def step():
    parts = [torch.ones(3 << 20) for _ in range(6)]  # 12 MiB each

torch.set_num_threads(1)
step()
keep_freed_memory()
for _ in range(3):  # the blocks find their places
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 5 * 6 * (12 << 20) // resource.getpagesize()  # that five steps touch


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="it is GNU's malloc that hands memory back")
@pytest.mark.parametrize(("asked", "new"), [({}, False), ({"MALLOC_TRIM_THRESHOLD_": "131072"}, True)])
def test_a_step_takes_no_new_pages_unless_the_user_has_malloc_hand_them_back(asked, new):
    done = subprocess.run([sys.executable, "-c", STEPS], env=os.environ | asked, capture_output=True, text=True)
    faults = int(done.stdout)
    assert faults > PAGES / 2 if new else faults < PAGES / 10, (faults, PAGES)
