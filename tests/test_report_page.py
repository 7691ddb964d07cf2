"""The report: its page, in a browser too, what it leaves out, and its command."""

import pathlib
import re
import shutil
import subprocess

import commands
import fake_engine
import pytest
import run_folders
from command_folder import CONFIG
from run_folders import report

from star_jax.eval.reporting import drawing

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# A browser is no package of Python's: `.ci/run` installs it, `make test` takes what is there.
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None,
    reason="NOT TESTED: the report in a browser; there is no chromium (apt-get install chromium)",
)


def sections(page: str) -> dict[str, str]:
    """The text of each section, by its title."""
    parts = re.findall(r"<section id=\"s\d+\">\s*<h2>(.*?)</h2>(.*?)</section>", page, re.DOTALL)
    return dict(parts)


def chromium(folder: pathlib.Path, *argv: str) -> str:
    """What it prints; nothing of the network is asked for."""
    assert CHROMIUM
    flags = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        f"--user-data-dir={folder / 'profile'}",
    )
    run = subprocess.run(
        [CHROMIUM, *flags, *argv], capture_output=True, text=True, timeout=120, check=True
    )
    return run.stdout


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, pathlib.Path]:
    """A report with all that there may be; its page and its directory."""
    folder = run_folders.write(
        tmp_path_factory.mktemp("runs") / "llama",
        lambda row, task, length, i: (
            20.0 + i if task == "prose" else run_folders.plausible(row, task, length, i)
        ),
        tasks=("niah_single_1", "vt", "prose"),
        lengths=(16384, 32768),
        samples=12,
        model="meta-llama/Llama-3.1-8B-Instruct",
        block_size="L/4,L/8",
        anchor_size="0,b",
        metric={"prose": "perplexity"},
    )
    return report(folder)


def test_the_page_has_all_sections(whole: tuple[str, pathlib.Path]) -> None:
    page, output = whole
    found = sections(page)
    assert list(found) == [
        *("Which setting to take", "Means over tasks", "Accuracy against length", "Tasks"),
        *("Task by length", "Needle depth by length", "Block size", "Anchor size"),
        *("Accuracy against time", "Differences to exact attention", "Other metrics"),
        *("Published scores", "Notes"),
    ]
    for title in found:
        assert f">{title}</a>" in page  # the table of contents
    pictures = {
        "Accuracy against length": 1 + 2,
        "Task by length": 5,
        "Needle depth by length": 5,
        "Block size": 2,
        "Anchor size": 2,
        "Accuracy against time": 2,
    }
    for title, count in pictures.items():
        assert found[title].count("data:image/png;base64,") == count, title
        assert found[title].count("n = ") >= count
    names = sorted(path.name for path in output.iterdir())
    assert [name for name in names if not name.startswith("fig-")] == [
        *("index.html", "results.csv", "summary.md"),
    ]
    assert len(names) - 3 == sum(pictures.values())
    assert "perplexity" in found["Other metrics"] and "prose" not in found["Tasks"]
    published = found["Published scores"]
    assert "99.56" in published and "91.96" in published and "tables 9 and 10" in published
    # The published means over niah_single_1 and vt: exact, and star with L/4 and a whole anchor.
    means = found["Means over tasks"]
    assert f"{(100 + 99.56) / 2:.1f}" in means and f"{(100 + 91.96) / 2:.1f}" in means


def test_nothing_is_loaded_from_elsewhere(whole: tuple[str, pathlib.Path]) -> None:
    page = whole[0]
    assert "<script" not in page
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)
    assert set(re.findall(r'(?:src|href)="(?!#)([^"]{0,14})', page)) == {"data:image/png", "data:,"}
    assert not re.findall(r"url\(|@import", page)


@needs_chromium
def test_the_page_in_a_browser(whole: tuple[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    """Every picture is shown, and at a phone's width nothing is wider than the page."""
    page, output = whole
    script = (
        "<script>onload=()=>{const i=[...document.images];document.title=["
        "i.length,i.filter(x=>x.complete&&x.naturalWidth>50).length,"
        "document.documentElement.scrollWidth,innerWidth,"
        "document.querySelectorAll('section').length].join()}</script>"
    )
    probe = tmp_path / "probe.html"
    probe.write_text(page.replace("</body>", f"{script}</body>"))
    for width in (500, 1200):
        dom = chromium(tmp_path, f"--window-size={width},900", "--dump-dom", f"file://{probe}")
        title = re.search(r"<title>([\d,]*)</title>", dom)
        assert title, dom[:500]
        images, shown, wide, inner, count = map(int, title[1].split(","))
        assert images == shown == len(list(output.glob("fig-*.png")))
        assert wide <= inner, f"{wide=} {inner=}"
        assert count == 13
    shot = tmp_path / "shot.png"
    chromium(
        tmp_path, "--window-size=1200,900", f"--screenshot={shot}", f"file://{output}/index.html"
    )
    assert shot.stat().st_size > 20_000  # a blank page has 5 kB


def test_what_has_no_picture_says_why(tmp_path: pathlib.Path) -> None:
    folder = run_folders.write(
        tmp_path / "run", lambda *args: 1.0, tasks=("vt",), lengths=(None,), kind="dense", samples=2
    )
    found = sections(report(folder)[0])
    assert "No picture: the questions have no lengths" in found["Accuracy against length"]
    assert "No picture: no question has exactly one needle" in found["Needle depth by length"]
    assert "No picture: no two rows differ in their block size alone" in found["Block size"]
    assert "No picture: no two rows differ in their anchor size alone" in found["Anchor size"]
    assert "No picture: a run has but one row" in found["Accuracy against time"]
    assert "There is none" in found["Differences to exact attention"]
    assert "no other row" in found["Which setting to take"]
    one = run_folders.write(tmp_path / "one", lambda *args: 1.0, lengths=(512,), samples=2)
    assert "there is one length only" in sections(report(one)[0])["Accuracy against length"]


def test_texts_from_files_are_escaped(tmp_path: pathlib.Path) -> None:
    folder = run_folders.write(
        tmp_path / "a<b>&",
        lambda *args: 1.0,
        tasks=("<script>alert(1)</script>".replace("/", "_"), "a|b"),
        lengths=(512,),
        samples=2,
        answered=1,
        kind="dense",
    )
    page, output = report(folder)
    assert "<script>" not in page and "&lt;script&gt;" in page and "a&lt;b&gt;&amp;" in page
    summary = (output / "summary.md").read_text()
    assert r"a\|b" in summary and "<" not in summary
    assert "| &lt;script&gt;alert(1)&lt;_script&gt; |" in summary
    assert "- a&lt;b&gt;&amp;: mean of 2 tasks" in summary
    assert "dense, &lt;script&gt;" in summary  # a note: it is not finished


def test_runs_beside_each_other(tmp_path: pathlib.Path) -> None:
    def better(row: str, task: str, length: int | None, index: int) -> float:
        return float(index % 3 > 0)

    first = run_folders.write(tmp_path / "first", lambda *args: 0.0, lengths=(512,), samples=30)
    second = run_folders.write(tmp_path / "second", better, lengths=(512,), samples=30, answered=24)
    third = run_folders.write(tmp_path / "third", better, lengths=(512,), samples=30, seed=1)
    page, output = report(first, second, third, output=tmp_path / "out")
    found = sections(page)["Differences between runs"]
    assert "second less first" in found and ">+66.7<" in found and ">24<" in found
    assert "third less first: nothing to compare" in found
    assert "second: dense" in page and "24 of 30 answers" in page  # it is not finished
    assert "A run is not finished" in page
    assert output == tmp_path / "out" and (output / "results.csv").is_file()


def test_star_beside_exact_attention_of_another_run(tmp_path: pathlib.Path) -> None:
    dense, star = (
        run_folders.write(
            tmp_path / kind,
            lambda row, task, length, i: float(row == "dense" or i >= 12),
            lengths=(512,),
            samples=30,
            kind=kind,
        )
        for kind in ("dense", "star")
    )
    found = sections(report(dense, star, output=tmp_path / "out")[0])["Differences between runs"]
    assert "star less dense" in found and ">exact attention<" in found and ">\u221240.0<" in found
    assert "nothing to compare" not in found


def test_names_that_pictures_would_take_for_something_else(tmp_path: pathlib.Path) -> None:
    """A formula, a label that legends leave out, a line break, and a name of 200 letters."""
    folders = [
        run_folders.write(
            tmp_path / name, lambda *args: 1.0, tasks=("cost_$x_$", "a\nb"), samples=2
        )
        for name in ("_first", "n" * 200)
    ]
    assert report(*folders, output=tmp_path / "out")
    assert drawing.plain("cost_$x_$\n") == r"cost_\$x_\$ "
    assert drawing.label("_first: dense") == " _first: dense"
    short = drawing.plain("a" * 100 + "b" * 100)
    assert short == "a" * 40 + "…" + "b" * 40


def test_published_scores_say_nothing_of_how_many_questions(tmp_path: pathlib.Path) -> None:
    """InfiniteBench's tasks have from 103 to 590 questions: not all figures are of 500."""
    folder = run_folders.write(
        tmp_path / "run",
        lambda *args: 1.0,
        tasks=("longbook_choice_eng",),
        lengths=(131072,),
        samples=2,
        suite="infinitebench",
        model="meta-llama/Llama-3.1-8B-Instruct",
        kind="dense",
    )
    published = sections(report(folder)[0])["Published scores"]
    assert "69.43" in published and "500" not in published


def test_the_command_on_a_real_run(tmp_path: pathlib.Path) -> None:
    """An evaluation by the fake engine, and its report; the run goes on as before."""
    fake_engine.save_checkpoint(tmp_path / "checkpoint")
    (tmp_path / "config.py").write_text(CONFIG)
    evaluate = ("star_jax.eval", "--config=config.py")
    assert commands.run(tmp_path, *evaluate, fake=True).code == 0
    result = commands.run(tmp_path, "star_jax.report", "out", "--tolerance=100")
    assert result.code == 0, result.stderr
    assert "star b=L/4 a=b is the fastest setting that is within 100 points" in result.stdout
    assert (tmp_path / "out/report/index.html").is_file()
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {
        "dense",
        "star_b150_a150",
        "manifest.json",
        "summary.csv",
        "summary.md",
        "report",
    }
    again = commands.run(tmp_path, *evaluate, fake=True)
    assert again.code == 0 and "nothing to do" in again.stderr
    for argv, says in (
        ((), "name the output directory"),
        (("out", "out"), "named twice"),
        (("out", "--tolerance=-1"), "--tolerance=-1"),
    ):
        assert says in commands.run(tmp_path, "star_jax.report", *argv).error
    code = "import sys; sys.modules['matplotlib'] = None\n"
    code += "import runpy; runpy.run_module('star_jax.report', run_name='__main__')"
    missing = commands.run(tmp_path, "star_jax.report", "out", code=code)
    assert "pip install 'star-jax[report]'" in missing.error


def test_published_scores_stand_in_the_table_that_a_run_prints(tmp_path: pathlib.Path) -> None:
    from star_jax import Dense, Star
    from star_jax.eval import report as table
    from star_jax.eval.rows import Row

    folder = run_folders.write(tmp_path, lambda *args: 1.0, lengths=(512,), samples=2)
    rows = [Row(Dense()), Row(Star(block_size=128, anchor_size=128))]
    entries = [
        table.Entry("vt", 512, row, str(next(folder.glob(f"{row.name}/512/*"))), published=score)
        for row, score in zip(rows, (99.56, None), strict=True)
    ]
    summary = table.summarise(entries, devices=1)
    assert [one["published"] for one in summary] == [99.56, None]
    head, _, dense, star, *_ = table.render(summary).splitlines()
    column = [cell.strip() for cell in head.split("|")].index("published")
    assert [line.split("|")[column].strip() for line in (dense, star)] == ["99.6", "-"]
    assert "published" not in table.render(summary[1:])
