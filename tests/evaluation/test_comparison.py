import math

import numpy as np
import pytest
import scipy.stats

from pctransformer.evaluation.comparison import Comparison, Scores

A, B, C = Scores("a", (1.0, 2.0, 3.0)), Scores("b", (2.0, 3.0, 4.0)), Scores("c", (11.0, 12.0, 13.0))


def test_by_hand():
    """Each scatters by 1; the table of Tukey's range has 4.339 for three means and six degrees of freedom."""
    found = Comparison([A, B, C])
    assert (A.mean, A.std) == (2, 1)
    assert found.std == pytest.approx(1)
    assert found.noise(A, B) == pytest.approx(4.339 / math.sqrt(3), abs=2e-3)
    assert found.best is C
    assert found.level_with_best == (C,)
    assert not found.differ(A, B)
    assert Comparison([A, B]).level_with_best == (B, A)


@pytest.mark.parametrize("sizes", [(3, 3, 3, 3), (2, 5, 3, 4)])
def test_is_tukeys_test(sizes):
    """Differences are noise exactly if scipy's Tukey-Kramer test gives them a p-value above 0.05."""
    draw = np.random.default_rng(3)
    scores = [Scores(str(i), tuple(draw.normal(2 * i, 1, size))) for i, size in enumerate(sizes)]
    found = Comparison(scores)
    decided = [[found.differ(one, other) for other in scores] for one in scores]
    assert decided == (scipy.stats.tukey_hsd(*(score.values for score in scores)).pvalue < 0.05).tolist()
    assert 0 < sum(map(sum, decided)) < 12


def test_one_try_tells_no_noise():
    found = Comparison([Scores("a", (0.9,)), Scores("b", (0.91,)), Scores("c", (0.91,))])
    assert math.isnan(found.std)
    assert math.isnan(found.noise(*found.scores[:2]))
    assert math.isnan(found.scores[0].std)
    assert [score.name for score in found.level_with_best] == ["b", "c"]


def test_one_method_is_the_best():
    found = Comparison([A])
    assert found.level_with_best == (A,)
    assert math.isnan(found.noise(A, A))
    assert found.std == pytest.approx(1)


@pytest.mark.parametrize("scores", [[], [Scores("a", ())]])
def test_nothing_to_compare(scores):
    with pytest.raises(ValueError, match="at least one score"):
        Comparison(scores)
