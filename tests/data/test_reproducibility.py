"""The same seed gives the same bits in another process."""

import subprocess
import sys

from torchstone.data.digits import digits
from torchstone.data.mnist1d import mnist1d
from torchstone.data.regression import regression
from torchstone.data.two_moons import two_moons

SCRIPT = """
from torchstone.data.digits import digits
from torchstone.data.mnist1d import mnist1d
from torchstone.data.regression import regression
from torchstone.data.two_moons import two_moons
for make in (digits, mnist1d, two_moons):
    print(make(seed=5, label_noise=0.1).sha256())
print(regression(seed=5).sha256())
"""


def test_fingerprints_agree_between_processes():
    here = [make(seed=5, label_noise=0.1).sha256() for make in (digits, mnist1d, two_moons)]
    here.append(regression(seed=5).sha256())
    there = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert there.stdout.split() == here
    assert len(set(here)) == 4
