from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from costar.core.errors import CostarError
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.eval.report import _embedded, write_report
from costar.eval.summary import headline, interval_text, summarize


def page(built: Path) -> str:
    return (built / "report" / "index.html").read_text(encoding="utf-8")


def test_the_page_needs_nothing_but_itself(built: Path) -> None:
    found: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            found.extend(value for name, value in attributes if name in ("src", "href") and value and tag != "a")

    Links().feed(page(built))
    assert all(value.startswith(("data:", "#")) for value in found)
    assert len(page(built)) < 1_000_000


def test_every_figure_has_svg_pdf_and_csv_and_every_link_leads_somewhere(built: Path) -> None:
    folder = built / "report"
    names = {path.stem for path in (folder / "figures").glob("*.svg")}
    assert names == {"frequency", "timing", "kinds", "measures", "roc"}
    for name in names:
        columns = "arm,attack,level,false_positives" if name == "roc" else "arm,level,step,n,mean,low,high\n"
        assert (folder / "figures" / f"{name}.csv").read_text().startswith(columns)
        assert (folder / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    for link in re.findall(r'<a href="([^"#]+)"', page(built)):
        assert (folder / link).exists(), link


def test_records_cannot_break_out_of_the_page() -> None:
    text = _embedded({"text": "</script><img src=x onerror=alert(1)>&"})
    assert "<" not in text
    assert json.loads(text)["text"].startswith("</script>")


def test_the_same_measurements_give_the_same_page(built_copy: Path) -> None:
    before = {
        p.name: p.read_bytes()
        for p in (built_copy / "report").rglob("*")
        if p.is_file() and not p.name.endswith(".lock")
    }
    write_report(load_suite(built_copy / "suite.toml"), Workspace(built_copy))
    after = {
        p.name: p.read_bytes()
        for p in (built_copy / "report").rglob("*")
        if p.is_file() and not p.name.endswith(".lock")
    }
    assert after == before


def test_a_finding_whose_interval_includes_zero_is_not_claimed(built: Path) -> None:
    from dataclasses import replace

    suite = load_suite(built / "suite.toml")
    summary = summarize(suite, Workspace(built))
    assert summary is not None
    vague = [dict(row, ci_low=-1.0, ci_high=1.0) if row["ci_low"] is not None else row for row in summary.effects]
    text = headline(suite, replace(summary, effects=vague))
    assert "make no clear difference" in text.lower()
    assert "do not differ clearly" in text


def test_an_estimate_without_interval_says_why() -> None:
    row = {"estimate": -0.5, "ci_low": None, "ci_high": None, "method": "fewer than 10 clusters: no interval"}
    assert interval_text(row) == "−0.50 (no interval: fewer than 10 clusters)"


def test_caveats_stand_before_the_second_heading(built: Path) -> None:
    first = page(built).split("<h2>")[0]
    assert "One draw" in first
    assert "times denser" in first
    assert "Held-out passages (0 copies)" in first


def test_without_measurements_the_verb_says_what_to_run(built_copy: Path) -> None:
    shutil.rmtree(built_copy / "eval")
    with pytest.raises(CostarError, match="costar eval"):
        write_report(load_suite(built_copy / "suite.toml"), Workspace(built_copy))


@pytest.mark.slow
def test_a_browser_opens_it_from_disk_without_a_word_in_the_console(built: Path, tmp_path: Path) -> None:
    """Headless Chromium loads the file, runs its script, and logs nothing; the record browser has drawn its tokens."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium")
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
    ]
    command += ["--disable-component-update", "--disable-sync", "--disable-quic", f"--user-data-dir={tmp_path}"]
    command += [
        "--enable-logging=stderr",
        "--log-level=0",
        "--virtual-time-budget=4000",
        "--dump-dom",
        (built / "report" / "index.html").as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert console == []
    assert done.stdout.count("--p:") > 40
    rows = re.search(r'<table id="all">.*?</table>', done.stdout, re.S)
    assert rows is not None
    assert rows[0].count("<tr>") > 60


def test_a_suite_of_likelihood_alone_has_a_report_without_the_other_measures(
    built_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a suite of passages only: no panel of other measures, and no error."""
    monkeypatch.setattr("costar.eval.report.MEASURES", ())
    shutil.rmtree(built_copy / "report")
    path = write_report(load_suite(built_copy / "suite.toml"), Workspace(built_copy))
    assert "Other measures" not in path.read_text(encoding="utf-8")
