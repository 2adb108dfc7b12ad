import dataclasses
import json

import pytest
import torch

from pctransformer.commands import doctor
from pctransformer.commands.doctor import Config, Package


def by_name(findings):
    return {finding.name: finding for finding in findings}


def test_report_covers_everything_the_package_can_use():
    findings = by_name(doctor.examine())
    assert {"python", "torch", "GPU", "operators, CPU", "data folder"} <= findings.keys()
    assert {"numpy", "scipy", "safetensors", "tyro", "rich", "matplotlib", "h5py", "trimesh"} <= findings.keys()
    assert {"open3d", "spconv", "torch_scatter"} <= findings.keys()
    assert findings["numpy"].state == "ok"
    assert torch.__version__ in findings["torch"].detail


def test_every_fault_has_a_cost_and_a_cure():
    for finding in doctor.examine():
        assert bool(finding.cost and finding.install) == finding.is_fault, finding


def test_missing_package():
    package = Package("no_such_module", ("no-such",), "no magic", install="pip install no-such")
    finding = doctor._look_for(package, imports=False)
    assert (finding.state, finding.cost, finding.install) == ("missing", "no magic", "pip install no-such")


def test_missing_system_library():
    package = Package("json", ("none",), "no json", libraries=("libnosuch.so.9",), system="apt-get install libnosuch9")
    finding = doctor._look_for(package, imports=False)
    assert finding.state == "broken"
    assert "libnosuch.so.9" in finding.detail
    assert finding.install == "apt-get install libnosuch9"


def test_imports_really_imports(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("raise RuntimeError('not today')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    package = Package("broken_module", ("none",), "nothing", install="pip install it")
    assert doctor._look_for(package, imports=False).state == "ok"
    broken = doctor._look_for(package, imports=True)
    assert broken.state == "broken"
    assert "RuntimeError: not today" in broken.detail
    works = doctor._look_for(dataclasses.replace(package, module="json"), imports=True)
    assert works.state == "ok"
    assert "imported in" in works.detail


def test_exit_code_and_json(capsys, monkeypatch):
    assert doctor.run(Config(json=True)) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"] is True
    assert {finding["name"] for finding in report["findings"]} >= {"torch", "open3d"}

    lost = Package("no_such_module", ("no-such",), "nothing works", required=True, install="pip install no-such")
    monkeypatch.setattr(doctor, "REQUIRED", (lost,))
    assert doctor.run(Config()) == 1
    text = capsys.readouterr().out
    assert "nothing works" in text
    assert "pip install no-such" in text


@pytest.mark.parametrize("exists", [True, False])
def test_data_folder(tmp_path, monkeypatch, exists):
    folder = tmp_path / "sets"
    if exists:
        folder.mkdir()
    monkeypatch.setenv("PCTRANSFORMER_DATA", str(folder))
    finding = doctor._data_folder()
    assert finding.is_fault != exists
    assert str(folder) in finding.detail
