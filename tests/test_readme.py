"""The README's example runs as it stands, in a process of its own."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent


def test_the_example_answers():
    readme = (ROOT / "README.md").read_text()
    code, *more = re.findall(r"```py(?:thon)?\n(.*?)```", readme, re.DOTALL)
    run = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:star_jax", "-c", "".join((code, *more))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    answer = code.rsplit("# ", 1)[1].strip()
    first, second, perplexity, turns = run.stdout.strip().splitlines()
    assert first == answer
    assert second.startswith(f"{answer}{answer.removesuffix('.')} [")  # streamed, then sampled
    assert 1 < float(perplexity) < 1e6
    assert turns.startswith(answer)  # an event after the other; then the next turn's


PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs").glob("*.md"),
    ROOT / "benchmarks" / "README.md",
    ROOT / "checkpoints" / "needle" / "README.md",
]


def test_no_placeholder_is_left():
    for path in PAGES:
        assert not re.findall(r"@[A-Z]+@|RECORDED|TODO|<!-- demo", path.read_text())


def headings(page: pathlib.Path) -> set[str]:
    """What links to a page's headings call them."""
    found = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in found}


def test_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)]*)\)", page.read_text()):
            if link.startswith("https://"):
                continue
            file, _, heading = link.partition("#")
            target = page.parent / file if file else page
            assert target.exists(), f"{page}: {link}"
            assert not heading or heading in headings(target), f"{page}: {link}"
