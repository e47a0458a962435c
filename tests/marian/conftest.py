"""Copies of the reference models, which tests may change."""

import shutil
from pathlib import Path

import pytest

from tests.marian.folders import HUGGING_FACE, MARIAN


@pytest.fixture
def marian_folder(tmp_path):
    return Path(shutil.copytree(MARIAN, tmp_path / "marian"))


@pytest.fixture
def hugging_face_folder(tmp_path):
    return Path(shutil.copytree(HUGGING_FACE, tmp_path / "hugging_face"))
