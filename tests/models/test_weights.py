import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pctransformer.models.weights import load_weights, read_weights


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def test_reads_what_people_save(tmp_path):
    weights = linear().state_dict()
    torch.save(weights, tmp_path / "a.pt")
    torch.save({"epoch": 3, "model_state_dict": weights}, tmp_path / "b.pth")
    torch.save({"base_model": {f"module.{k}": v for k, v in weights.items()}}, tmp_path / "c.pth")
    save_file(weights, tmp_path / "d.safetensors")
    for name in ("a.pt", "b.pth", "c.pth", "d.safetensors"):
        model = linear()
        nn.init.zeros_(model[0].weight)
        report = load_weights(model, tmp_path / name)
        assert len(report.loaded) == 4
        assert torch.equal(model[0].weight, weights["0.weight"])


class Attack:
    def __reduce__(self):
        return (print, ("this code must not run",))


def test_code_is_never_run(tmp_path, capsys):
    with open(tmp_path / "bad.pt", "wb") as file:
        pickle.dump({"state_dict": Attack()}, file)
    torch.save({"state_dict": Attack()}, tmp_path / "worse.pt")
    for name, found in (("bad.pt", ""), ("worse.pt", ", such as print")):
        with pytest.raises(ValueError, match=f"{name} holds more than tensors and plain values{found}, so reading"):
            read_weights(tmp_path / name)
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize("keep", [0, 10, 200, -10])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_damaged_files_are_named(tmp_path, keep, suffix):
    path = tmp_path / f"cut{suffix}"
    if suffix == ".pt":
        torch.save(linear().state_dict(), path)
    else:
        save_file(linear().state_dict(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=f"cut{suffix}"):
        read_weights(path)


def test_all_or_nothing(tmp_path):
    weights = linear().state_dict()
    weights["0.weight"] = torch.zeros(4, 5)
    weights["extra"] = weights.pop("1.bias")
    torch.save(weights, tmp_path / "other.pt")
    model = linear()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"missing: 1\.bias .*unexpected: extra .*0\.weight is \(4, 5\)"):
        load_weights(model, tmp_path / "other.pt")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_parts_that_one_side_lacks(tmp_path):
    """What is allowed to be missing stays, if all of it is missing; what is allowed to be too much is left out."""
    model, other = linear(), {f"2.{k}": v for k, v in linear()[0].state_dict().items()} | linear()[:1].state_dict()
    torch.save(other, tmp_path / "a.pt")
    for layer in model:
        nn.init.ones_(layer.weight)
    report = load_weights(model, tmp_path / "a.pt", lacking=("1.",), surplus=("2.",))
    assert (report.loaded, report.kept) == (["0.weight", "0.bias"], ["1.weight", "1.bias"])
    assert torch.equal(model[0].weight, other["0.weight"])
    assert (model[1].weight == 1).all()
    with pytest.raises(ValueError, match=r"missing: 1\.weight, 1\.bias .*unexpected: 2\.weight"):
        load_weights(model, tmp_path / "a.pt")
    torch.save(other | {"1.bias": torch.zeros(2)}, tmp_path / "half.pt")
    with pytest.raises(ValueError, match=r"missing: 1\.weight \(1\)"):
        load_weights(model, tmp_path / "half.pt", lacking=("1.",), surplus=("2.",))


def test_first_columns_may_stay_new(tmp_path):
    """Of a weight whose file has more or fewer of them; of a weight that fits, all is loaded."""
    model = linear()
    own = model.state_dict()
    assert own["0.weight"].shape == (4, 3)
    for columns in (5, 2, 3):
        weights = {name: torch.full_like(value, 9.0) for name, value in own.items()}
        weights["0.weight"] = torch.arange(4.0 * columns).view(4, columns)
        torch.save(weights, tmp_path / "a.pt")
        model = linear()
        before = model[0].weight.detach().clone()
        report = load_weights(model, tmp_path / "a.pt", new_columns={"0.weight": 1})
        assert report.kept == []
        new = weights["0.weight"][:, :1] if columns == 3 else before[:, :1]
        assert torch.equal(model[0].weight, torch.cat([new, weights["0.weight"][:, -2:]], 1))
    weights["0.weight"] = torch.zeros(4, 9)
    torch.save(weights, tmp_path / "a.pt")
    assert load_weights(linear(), tmp_path / "a.pt", new_columns={"0.weight": 3}).kept == ["0.weight"]
    weights["0.weight"] = torch.zeros(5, 9)
    torch.save(weights, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"0\.weight is \(5, 9\) in the file"):
        load_weights(linear(), tmp_path / "a.pt", new_columns={"0.weight": 1})


def test_what_holds_no_weights(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="no state dict"):
        read_weights(tmp_path / "list.pt")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_weights(tmp_path / "nowhere.pt")
    (tmp_path / "words.pt").write_text("not weights")
    with pytest.raises(ValueError, match=r"words\.pt is damaged or no torch file: it begins with b'no'"):
        read_weights(tmp_path / "words.pt")


def test_a_folder_says_which_of_its_files_to_give(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"run does not exist or is not a file$"):
        read_weights(tmp_path / "run")
    save_file(linear().state_dict(), tmp_path / "run" / "checkpoints" / "best.safetensors")
    with pytest.raises(FileNotFoundError, match=r"give a file, for instance .*run/checkpoints/best\.safetensors"):
        read_weights(tmp_path / "run")


def test_weights_of_before_zip_archives_are_read(tmp_path):
    weights = linear().state_dict()
    torch.save(weights, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(read_weights(tmp_path / "old.pt")["0.weight"], weights["0.weight"])
