import dataclasses
from pathlib import Path

from pctransformer.demo import classification
from pctransformer.training.settings import DataSettings, SupervisedOptimization


def test_it_trains_on_generated_shapes_in_a_folder_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    full = classification.settings(classification.Config())
    assert full.data.data == "generated"
    small = dataclasses.replace(
        full,
        data=DataSettings(num_shapes=76, num_points=64, eval_points=64, validation=0.25),
        optimization=SupervisedOptimization(epochs=1, batch_size=19),
    )
    numbers = iter(("runs/demo", "runs/demo-2"))
    monkeypatch.setattr(classification, "settings", lambda config: dataclasses.replace(small, out=Path(next(numbers))))
    for folder in ("runs/demo", "runs/demo-2"):
        assert classification.run(classification.Config()) == 0
        assert f"pctransformer evaluate {folder}\n" in capsys.readouterr().out
        assert (tmp_path / folder / "figures" / "errors.png").exists()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert classification.settings(classification.Config()).out == Path("runs/demo-3")
