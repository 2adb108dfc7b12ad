import numpy as np
import pytest
import torch

from pctransformer.datasets import Sample
from pctransformer.datasets.corruptions import CORRUPTIONS, corruption
from pctransformer.datasets.samples import generator_for
from pctransformer.evaluation import Robustness
from pctransformer.visualization import robustness as module
from pctransformer.visualization.robustness import corruption_gallery, robustness_figure
from tests.visualization.pages import check_page, texts

ERRORS = torch.arange(35, dtype=torch.float64).view(7, 5) / 50


def cells(axes) -> list[list[str]]:
    """What stands in the cells of a heat map, row by row."""
    words = {t.get_position(): t.get_text() for t in axes.texts}
    columns, rows = (max(position[i] for position in words) + 1 for i in (0, 1))
    return [[words[column, row] for column in range(columns)] for row in range(rows)]


def test_one_model_by_corruption_and_severity():
    figure = robustness_figure({"runs/first": Robustness(ERRORS, 0.125, 80)})
    check_page(figure)
    assert "runs/first" in texts(figure)
    assert "% of 80 shapes that are wrong, by severity; clean 12.5 %" in texts(figure)
    severities, mean = figure.axes
    assert cells(severities) == [[f"{2 * (5 * row + column):.1f}" for column in range(5)] for row in range(7)]
    assert cells(mean) == [[f"{2 * (5 * row + 2):.1f}"] for row in range(7)]
    assert [label.get_text() for label in severities.get_xticklabels()] == ["1", "2", "3", "4", "5"]
    assert [label.get_text() for label in severities.get_yticklabels()][3] == "drop global"
    colour = severities.images[0].get_array()[..., :3]
    assert (np.diff(colour.sum(-1).flatten()) <= 0).all()  # more errors are darker
    assert colour[6, 4].sum() < colour[0, 0].sum() - 1


def test_several_models_by_corruption():
    other = Robustness(ERRORS / 2, 0.05, 80)
    figure = robustness_figure({"runs/first": Robustness(ERRORS, 0.125, 80), "a_much_longer_name/of_another": other})
    check_page(figure)
    corruptions, mean = figure.axes
    assert cells(corruptions) == [
        ["12.5", *(f"{2 * (5 * c + 2):.1f}" for c in range(7))],
        ["5.0", *(f"{5 * c + 2:.1f}" for c in range(7))],
    ]
    assert cells(mean) == [["34.0"], ["17.0"]]
    columns = [label.get_text().replace("\n", "_") for label in corruptions.get_xticklabels()]
    assert columns == ["clean", *CORRUPTIONS]


def test_long_names_are_cut():
    name = "/a/very/long/path/to/the/folder/of/runs/on/some/machine/pct-modelnet40"
    found = Robustness(ERRORS, 0.125, 80)
    figures = robustness_figure({name: found}), robustness_figure({name: found, "other": found})
    for figure in figures:
        check_page(figure)
    assert f"...{name[-31:]}" in texts(figures[0])
    assert figures[1].axes[0].get_yticklabels()[0].get_text() == f"...{name[-31:]}"


def test_no_model():
    with pytest.raises(ValueError, match="at least one model"):
        robustness_figure({})


def test_gallery_shows_what_the_tests_see(monkeypatch):
    drawn = []
    monkeypatch.setattr(module, "draw_cloud", lambda axes, xyz, up: drawn.append(xyz))
    sample = Sample(torch.nn.functional.normalize(torch.randn(100, 3), dim=1), name="chair.ply")
    figure = corruption_gallery(sample, seed=3)
    assert "chair.ply under corruptions" in texts(figure)
    assert len(drawn) == 35
    expected = corruption("drop_local", 2)(sample, generator_for(3, 0, 0)).xyz
    assert torch.equal(drawn[list(CORRUPTIONS).index("drop_local") * 5 + 1], expected)


def test_gallery_draws_clouds():
    sample = Sample(torch.nn.functional.normalize(torch.randn(100, 3), dim=1))
    pixels = check_page(corruption_gallery(sample))
    assert (pixels.std(axis=(0, 1)) > 10).all()
