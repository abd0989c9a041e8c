"""Makes the pictures of the live page that stand in docs/, of an example that is always the same.

`python -m tests.pictures` makes docs/monitoring-*.webp anew; it needs chromium.
"""

import sys
import tempfile
from pathlib import Path

from tests.support.browser import Browser
from tests.support.dashboard_api import FAST, FakeApi
from tests.support.dashboard_model import Model, example
from tests.support.proxies import ROOT

DOCS = ROOT / "docs"
# By name: width and height, theme, and whether there is trouble
PICTURES = {
    "monitoring-light": (1400, 1000, "light", False),
    "monitoring-dark": (1400, 1000, "dark", True),
    "monitoring-phone": (390, 844, "dark", True),
}


def spoil(model: Model) -> None:
    """Let something be wrong."""
    model.groups["dns"]["peers"][1]["trouble"] = "unhealthy"
    model.groups["mail"]["peers"][0]["drain"] = True
    model.certificates[0]["days_left"] = 9
    model.generation += 1


def make(browser: Browser, folder: Path, seconds: int = 300) -> list[Path]:
    """Write the pictures; return their paths. Args: seconds: how much the plots show"""
    made = []
    for name, (width, height, theme, has_trouble) in PICTURES.items():
        model = example()
        with FakeApi(model, steps=True) as api:
            page = browser.page(api.url, width=width, height=height, theme=theme, script=FAST)
            api.rounds(seconds * 3 // 4)
            if has_trouble:
                spoil(model)
            api.rounds(seconds - seconds * 3 // 4)
            made.append(folder / f"{name}.webp")
            page.picture(made[-1], kind="webp", quality=80)
            page.close()
    return made


def main() -> int:
    """Make those of the documentation."""
    with tempfile.TemporaryDirectory() as folder, Browser(Path(folder)) as browser:
        for path in make(browser, DOCS):
            print(path, path.stat().st_size)
    return 0


if __name__ == "__main__":
    sys.exit(main())
