import subprocess
import sys
import typing

from pctransformer.datasets.transforms import RECIPES
from pctransformer.training.settings import Augmentation


def test_every_recipe_can_be_chosen():
    assert set(typing.get_args(Augmentation)) == {"none", *RECIPES}


def test_help_needs_no_torch():
    code = (
        "import sys; from pctransformer import cli\n"
        "try: cli.main(['train', 'classification', '--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "--label-smoothing" in result.stdout
