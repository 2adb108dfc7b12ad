"""Whatever is in a file, its reader gives values or an error that names it."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pctransformer.datasets.files import FileFormatError
from pctransformer.datasets.kitti import read_calibration, read_infos, read_objects
from pctransformer.datasets.kitti.calibration import read_plane
from pctransformer.datasets.kitti.frames import read_names
from pctransformer.datasets.kitti.openpcdet import read_plain_pickle
from pctransformer.datasets.object_database import ObjectDatabase
from tests.datasets.kitti.files import CALIBRATION, calibration

NUMBERS = st.sampled_from(["0", "-1", "1.5", "nan", "inf", "1e400", "1e300", "x", "", "--", "1_0", "0x1"])
LINES = st.lists(st.lists(NUMBERS, min_size=13, max_size=17).map(lambda row: " ".join(["Car", *row])), max_size=3)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("broken") / "file"


def reads_or_refuses(read, path, content):
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            read(path)
        except FileFormatError as error:
            refused = error
        else:
            return
    assert str(path) in str(refused)


@given(st.one_of(st.binary(max_size=200), LINES.map(lambda lines: "\n".join(lines).encode())))
@example(b"\xff")
@example(b" \n ")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_text_files(path, content):
    for read in (
        lambda p: read_objects(p, scores=False),
        lambda p: read_objects(p, scores=True),
        read_calibration,
        lambda p: read_plane(p, calibration()),
        read_names,
        lambda p: read_infos(p, p.parent),
    ):
        reads_or_refuses(read, path, content)


@given(st.integers(0, len(CALIBRATION)), NUMBERS)
def test_calibration_with_something_else_in_it(path, place, text):
    content = CALIBRATION[:place] + text + CALIBRATION[place:]
    reads_or_refuses(read_calibration, path, content.encode())


@given(st.binary(max_size=300))
def test_pickles(path, content):
    reads_or_refuses(read_plain_pickle, path, b"\x80\x04" + content)


@given(st.sampled_from(["points", "offsets", "boxes", "types", "difficulty", "frames", "about"]), st.integers(0, 5))
def test_databases(path, name, kind):
    arrays = {
        "points": np.zeros((4, 4), np.float32), "offsets": np.array([0, 4]), "boxes": np.zeros((1, 7), np.float32),
        "types": np.array(["Car"]), "difficulty": np.array([0]), "frames": np.array(["000000"]),
        "about": np.array(json.dumps({"object_database": 1})),
    }  # fmt: skip
    changes = (None, np.zeros(0), np.array("x"), np.array([b"\xff"]), np.zeros((2, 2, 2)), np.array([-1, 9]))
    arrays[name] = changes[kind]
    if kind == 0:
        del arrays[name]
    path = path.with_suffix(".npz")
    np.savez(path, **arrays)
    with pytest.raises(FileFormatError, match=r"file\.npz"):
        ObjectDatabase.load(path)
