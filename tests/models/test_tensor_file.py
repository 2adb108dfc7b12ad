import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from pctransformer.errors import UserError
from pctransformer.models.tensor_file import DamagedFileError, read_tensors, write_tensors


def test_what_is_written_is_read(tmp_path):
    tensors = {
        "matrix": torch.randn(3, 4),
        "turned": torch.arange(12).view(3, 4).T,
        "number": torch.tensor(3),
        "nothing": torch.zeros(0, 5),
        "half": torch.randn(5).bfloat16(),
        "mask": torch.tensor([True, False]),
    }
    about = {"classes": ["chair", "Tisch"], "metrics": {"oa": 0.5, "none": None}}
    write_tensors(tmp_path / "a.safetensors", tensors, about)
    read, said = read_tensors(tmp_path / "a.safetensors")
    assert said == about
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name


def test_tied_tensors_are_stored_once(tmp_path):
    weight = torch.randn(100, 100)
    tensors = {"query": weight, "key": weight, "first_rows": weight[:50], "other": weight.clone()}
    write_tensors(tmp_path / "a.safetensors", tensors, {"tied": True})
    assert set(load_file(tmp_path / "a.safetensors")) == {"query", "first_rows", "other"}
    read, _ = read_tensors(tmp_path / "a.safetensors")
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    assert read["key"].data_ptr() == read["query"].data_ptr()


def test_a_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.zeros(1000)}, {"x": 1})
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"a\.safetensors has changed"):
        read_tensors(path)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_file_that_is_cut_off_is_named(tmp_path, keep):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.zeros(1000)}, {"x": 1})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedFileError, match=r"a\.safetensors"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("no json", "header .* is damaged"),
        ('{"format": 1}', "header .* is damaged"),
        ('{"format": 2, "sha256": "", "aliases": {}, "about": {}}', "format 2"),
        ('{"format": 1, "sha256": "", "aliases": {"b": "gone"}, "about": {}}', "header .* is damaged"),
    ],
)
def test_a_wrong_header_is_explained(tmp_path, header, text):
    save_file({"a": torch.zeros(3)}, tmp_path / "a.safetensors", {"pctransformer": header})
    with pytest.raises(DamagedFileError, match=text):
        read_tensors(tmp_path / "a.safetensors")


def test_files_of_others_are_read_without_a_description(tmp_path):
    save_file({"a": torch.ones(3)}, tmp_path / "a.safetensors")
    tensors, about = read_tensors(tmp_path / "a.safetensors")
    assert torch.equal(tensors["a"], torch.ones(3))
    assert about == {}


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.ones(3)}, {"n": 1})
    with pytest.raises(TypeError):
        write_tensors(path, {"a": torch.zeros(3)}, {"n": object()})
    assert read_tensors(path)[1] == {"n": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_description_can_be_read_by_other_programs(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.ones(3)}, {"n": 1})
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert json.loads(header["__metadata__"]["pctransformer"])["about"] == {"n": 1}


def test_damage_is_a_fault_of_the_user():
    assert issubclass(DamagedFileError, UserError)
