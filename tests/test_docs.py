"""The docs are true: pages are executed block by block, the site builds without a warning."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mxexport.fpga.tools.verilator import find_tools

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted((DOCS / "tutorials").glob("*.md")), DOCS / "low-accuracy.md", DOCS / "search.md"]


def script(page: Path) -> str:
    """The python blocks of a page as they stand, its bash blocks through bash, in order."""
    blocks = re.findall(r"^```(python|bash)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    assert blocks, f"{page} shows nothing to run"
    shell = "import subprocess as _s; _s.run(['bash', '-euo', 'pipefail', '-c', {!r}], check=True)\n"
    return "\n".join(text if kind == "python" else shell.format(text) for kind, text in blocks)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_of_a_page_runs(page, tmp_path):
    (tmp_path / "page.py").write_text(script(page))
    places = [str(Path(sys.executable).parent), str(Path(find_tools().verilator).parent), os.environ["PATH"]]
    own = os.environ | {"PATH": os.pathsep.join(places), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, env=own, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", ROOT / ".mkdocs.yml", "-d", tmp_path / "site"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    reference = (tmp_path / "site" / "reference.html").read_text()
    for words in ("quantize_model", "Session", "open_design", "VerificationError", "A trainable copy of"):
        assert words in reference
    for page in (tmp_path / "site").rglob("*.html"):  # nothing is loaded from elsewhere
        assert not re.findall(r'(?:src|rel="stylesheet" href)="https?://', page.read_text()), page.name


def test_links_of_the_readme_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)|`(docs/[^`]+\.md)`", text)]
    named = [a or b for a, b in links]
    assert named and all(name.startswith("http") or (ROOT / name).exists() for name in named), named


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.name)
def test_commands_and_files_that_pages_name_are_there(page):
    from mxexport.cli import COMMANDS

    known = {function.__name__ for function in COMMANDS}
    text = page.read_text()
    shown = re.findall(r"```(?:bash|text)\n(.*?)```|`(mxexport [^`]+)`", text, re.DOTALL)
    used = {name for a, b in shown for name in re.findall(r"^mxexport ([a-z]+)", a or b, re.MULTILINE)}
    assert used <= known, used - known
    named = re.findall(r"`((?:mxexport|tests|benchmarks|docs|examples)/[\w./-]+\.\w+)`", text)
    if page.name != "extending.md":  # which names files that a reader would write
        assert [file for file in named if not (ROOT / file).exists()] == []
