import runpy
from pathlib import Path

from pctransformer.models import list_models

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_models_say():
    page = runpy.run_path(str(ROOT / "tools" / "models.py"))["page"]()
    assert (ROOT / "docs" / "models.md").read_text("utf-8") == page, "run `python tools/models.py`"
    assert all(f"| `{name}` |" in page for name in list_models())
