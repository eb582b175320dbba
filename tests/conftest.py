"""Fixtures that several test files share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from handler.classifier import Classifier

# read when torch is loaded: on tiny inputs a second thread only waits, and for seconds where the cores are busy
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def classifier() -> Classifier:
    """A small random-weight classifier; torch is loaded only for the tests that ask for it."""
    from tests.models import random_classifier

    return random_classifier("shufflenet_v2_x0_5")
