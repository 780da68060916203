from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import duckdb
import pytest
from costar.core.errors import CostarError
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.eval.report import _embedded, write_report
from costar.eval.summary import draws_text, headline, interval_text, placebo_text, summarize, verdict_lines


def page(built: Path) -> str:
    return (built / "report" / "index.html").read_text(encoding="utf-8")


def embedded(built: Path) -> dict[str, Any]:
    """What the page's script reads."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page(built), re.S)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def change(built: Path, *statements: str) -> None:
    """Change the manifest of a copy, as another suite or other measurements would."""
    with duckdb.connect(str(built / "manifest.duckdb")) as connection:
        for statement in statements:
            connection.execute(statement)


def test_the_page_needs_nothing_but_itself(built: Path) -> None:
    found: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            found.extend(value for name, value in attributes if name in ("src", "href") and value and tag != "a")

    Links().feed(page(built))
    assert all(value.startswith(("data:", "#")) for value in found)
    assert len(page(built)) < 1_000_000


def test_nothing_but_its_own_script_may_run(built: Path) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page(built))
    script = re.search(r"<script>(.*?)</script>", page(built), re.S)
    assert policy is not None
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy[1]
    assert "default-src 'none'" in policy[1]
    assert "unsafe-inline" not in policy[1].split("script-src")[1]


def test_every_figure_has_svg_pdf_and_csv_and_every_link_leads_somewhere(built: Path) -> None:
    folder = built / "report"
    names = {path.stem for path in (folder / "figures").glob("*.svg")}
    assert {"frequency", "passages--path", "effects--passages", "passages--queries", "passages--roc"} <= names
    assert {"quizzes--choice--format-cloze--margin", "passwords--secret-rank--exposure-bits"} <= names
    for name in names:
        with (folder / "figures" / f"{name}.csv").open() as file:
            columns, *rows = csv.reader(file)
        assert {"n", "members"} & set(columns), name
        assert rows, name
        assert (folder / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    links = re.findall(r'<a href="([^"#]+)"', page(built))
    for link in links:
        assert (folder / link).exists(), link
    assert {Path(link).stem for link in links if link.endswith(".svg")} == names


def test_the_table_of_effects_names_n_interval_and_method_of_every_number(built: Path) -> None:
    spec = embedded(built)["effects"]
    place = {name: number for number, name in enumerate(spec["columns"])}
    assert {"n", "clusters", "runs", "95 %", "band", "p (Holm)", "family", "method"} <= place.keys()
    methods = {spec["texts"][row[place["method"]]] for row in spec["rows"]}
    assert len(spec["rows"]) > 20
    assert all(methods)


def test_records_are_listed_whole_while_they_are_few(built: Path) -> None:
    spec = embedded(built)["records"]
    connection = duckdb.connect(str(built / "manifest.duckdb"), read_only=True)
    wanted = connection.execute("select count(*) from records where role = 'main'").fetchone()
    assert wanted is not None
    assert len(spec["rows"]) == wanted[0]
    assert spec["note"] == ""


def test_of_many_records_a_sample_of_each_cell_is_listed_and_said(
    built_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("costar.eval.record_browser.MOST_RECORDS", 14)
    monkeypatch.setattr("costar.eval.record_browser.MOST_TOKENS", 10)
    write_report(load_suite(built_copy / "suite.toml"), Workspace(built_copy))
    data = embedded(built_copy)
    assert len(data["records"]["rows"]) == 14  # two of each of seven cells
    assert "keyed hash" in page(built_copy)
    assert len(data["browser"]["records"]) == 7


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
    first = page(built).split("<h2")[0]
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
    for name in ("effects", "records", "membership"):
        drawn = re.search(rf'data-table="{name}">.*?</table>', done.stdout, re.S)
        assert drawn is not None
        assert drawn[0].count("<tr>") > 20, name


@pytest.mark.parametrize(
    "table",
    [
        "dose_fits",
        "gaps",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("retention", "hypotheses", "membership", "dataset_inference", "validation", "checkpoints")
        ),
    ],
)
def test_the_report_stands_without_a_part_of_the_measurements(built_copy: Path, table: str) -> None:
    change(built_copy, f"delete from {table}")
    write_report(load_suite(built_copy / "suite.toml"), Workspace(built_copy))
    assert ("membership inference: its probe was not asked for" in page(built_copy)) == (table == "membership")


def test_without_effects_the_means_stand_and_nothing_is_claimed(built_copy: Path) -> None:
    change(built_copy, "delete from effects")
    write_report(load_suite(built_copy / "suite.toml"), Workspace(built_copy))
    first = page(built_copy).split("<h2")[0]
    assert "were not compared with their control" in first
    assert "<svg" in first


def test_without_a_ledger_no_record_is_shown_by_token_and_the_page_says_so(built_copy: Path) -> None:
    shutil.rmtree(built_copy / "eval" / "ledger")
    write_report(load_suite(built_copy / "suite.toml"), Workspace(built_copy))
    assert embedded(built_copy)["browser"]["records"] == []
    assert "No record is shown token by token" in page(built_copy)


def test_a_suite_of_likelihood_alone_has_a_report_without_the_other_measures(built_copy: Path) -> None:
    change(
        built_copy, "delete from scores where probe <> 'likelihood'", "delete from effects where probe <> 'likelihood'"
    )
    write_report(load_suite(built_copy / "suite.toml"), Workspace(built_copy))
    assert "given back word for word after 8 tokens <span" not in page(built_copy)
    assert not (built_copy / "report" / "figures" / "passages--queries.svg").exists()


def test_scores_that_are_not_numbers_are_left_out(built_copy: Path) -> None:
    change(built_copy, "update scores set value = 'nan' where record_id like 'passages/000%'")
    write_report(load_suite(built_copy / "suite.toml"), Workspace(built_copy))
    assert ">nan<" not in page(built_copy).lower()


def test_what_is_missing_is_said(built_copy: Path) -> None:
    change(
        built_copy,
        "update runs set status = 'training' where run = 'late.nano.d0'",
        "delete from effects where estimand = 'timing'",
    )
    write_report(load_suite(built_copy / "suite.toml"), Workspace(built_copy))
    text = page(built_copy)
    assert "not trained to step 96: training" in text
    assert "timing: no two arms that differ in their phase alone, and no phases by lot, were measured" in text
    assert "too few records for an interval" not in text


def test_hypotheses_stand_below_the_first_screen_with_their_verdicts(built_copy: Path) -> None:
    columns = "hypothesis, claim, expect, estimand, probe, variant, metric, perturbation, model, treated, control, factor, level"
    values = (
        "'h1', 'Copies are <b>remembered</b>', 'below', 'direct', 'likelihood', '', 'nll_token', 'passages', 'nano', "
    )
    values += "'perturbed.nano', 'standard.nano', '', 14, 96, 3, -0.98, -1.3, -0.6, 0.001, 0.002, 'supported'"
    columns += ", step, n_runs, estimate, ci_low, ci_high, p_value, p_adjusted, verdict"
    change(built_copy, f"insert into hypotheses ({columns}) values ({values})")
    suite, workspace = load_suite(built_copy / "suite.toml"), Workspace(built_copy)
    write_report(suite, workspace)
    verdicts = page(built_copy).split('id="verdicts"')[1].split("</table>")[0]
    assert "Copies are &lt;b&gt;remembered&lt;/b&gt;" in verdicts
    assert 'class="verdict supported"' in verdicts
    assert "−0.98 [−1.30, −0.60] nats per token" in verdicts
    summary = summarize(suite, workspace)
    assert summary is not None
    assert verdict_lines(summary) == ["h1: supported, −0.98 [−1.30, −0.60]."]


def test_hypotheses_are_grouped_by_finding_where_they_have_one(built_copy: Path) -> None:
    columns = (
        "hypothesis, claim, expect, estimand, probe, variant, metric, perturbation, model, treated, control, factor"
    )
    values = (
        "'{}', 'It is so', 'below', 'direct', 'likelihood', '', 'nll_token', 'passages', 'nano', 'perturbed.nano', "
    )
    values += "'standard.nano', '', 'not measured'"
    rows = (("frequency", "f1"), ("order", "o1"), ("frequency", "f2"), ("", "alone"))
    change(built_copy, "alter table hypotheses drop column if exists finding")
    change(built_copy, "alter table hypotheses add column finding varchar")
    for finding, name in rows:
        filled = f"{values.format(name)}, '{finding}'"
        change(built_copy, f"insert into hypotheses ({columns}, verdict, finding) values ({filled})")
    suite, workspace = load_suite(built_copy / "suite.toml"), Workspace(built_copy)
    summary = summarize(suite, workspace)
    assert summary is not None
    assert [line.split(": ")[0] for line in verdict_lines(summary)] == [
        "alone", "frequency:", "  f1", "  f2", "order:", "  o1",
    ]  # fmt: skip
    write_report(suite, workspace)
    verdicts = page(built_copy).split('id="verdicts"')[1].split("</table>")[0]
    heads = re.findall(r"<tr[^>]*><th[^>]*>([^<]+)</th>", verdicts.split("<tbody>")[1])
    assert heads == ["alone", "frequency", "f1", "f2", "order", "o1"]
    change(built_copy, "alter table hypotheses drop column finding")
    write_report(suite, workspace)
    assert 'class="finding"' not in page(built_copy)


def test_intervals_over_draws_are_told_from_those_given_the_runs(built: Path) -> None:
    suite = load_suite(built / "suite.toml")
    summary = summarize(suite, Workspace(built))
    assert summary is not None
    assert "given this pair of runs" in draws_text(suite, summary)

    def of_draws(runs: int, low: float, method: str, given: float | None = -0.9) -> str:
        changed = [
            row | {"n_runs": runs, "ci_low": low, "given_low": given, "method": method} for row in summary.effects
        ]
        return draws_text(suite, replace(summary, effects=changed))

    over = "t-interval over 3 draws; given these runs: fewer than 10 clusters: no interval"
    assert "2 draws" in of_draws(2, -0.9, "given these runs: BCa")
    assert "given these 2 pairs" in of_draws(2, -0.9, "given these runs: BCa")
    assert "over draws (t, 2 degrees of freedom)" in of_draws(3, -2.0, over)
    assert "over draws (t, 2 degrees of freedom)" in of_draws(3, -2.0, over, None)
    assert "given these 3 pairs" in of_draws(3, -0.9, "given these runs: BCa")


@pytest.mark.parametrize(
    ("metric", "sign", "known", "kept"),
    [
        ("nll_token", -1, "are likelier than held-out ones", "are known better than"),
        ("nll_token", 1, "are less likely than held-out ones", "are known worse than"),
        ("margin", 1, "are better known than held-out ones", "are known better than"),
        ("margin", -1, "are known worse than held-out ones", "are known worse than"),
        ("rank", -1, "are better known than held-out ones", "are known better than"),
    ],
)
def test_the_headline_tells_a_clear_effect_in_either_direction(
    built: Path, metric: str, sign: int, known: str, kept: str
) -> None:
    suite = load_suite(built / "suite.toml")
    summary = summarize(suite, Workspace(built))
    assert summary is not None
    ends = {"estimate": 0.4 * sign, "ci_low": 0.4 * sign - 0.2, "ci_high": 0.4 * sign + 0.2, "metric": metric}
    clear = [row | ends for row in summary.effects if row["metric"] == "nll_token"]
    text = headline(suite, replace(summary, effects=clear, measure=(*summary.measure[:2], metric)))
    assert known in text
    assert kept in text
    assert "clear" not in text


def test_the_placebo_is_adjusted_over_all_runs_and_names_the_one_with_the_smallest_p(built: Path) -> None:
    summary = summarize(load_suite(built / "suite.toml"), Workspace(built))
    assert summary is not None
    own = [row for row in summary.effects if row["estimand"] == "placebo" and row["step"] == summary.steps]

    def told(*p: float) -> str:
        rows = [own[0] | {"treated": f"run{k}.nano", "p_value": each, "p_adjusted": each} for k, each in enumerate(p)]
        return placebo_text(replace(summary, effects=rows))

    assert told(0.5, 0.02, 0.7) == (
        "Label permutation on 3 arms that read none: finds nothing (smallest p 0.06 on run1.nano, adjusted over 3 tests)."
    )
    assert "finds something, which chance does in at most one suite of twenty" in told(0.5, 0.01, 0.7)
    assert told(0.2).startswith("Label permutation on run0.nano: finds nothing (smallest p 0.2, adjusted over 1 test")


def test_p_values_and_half_doses_are_told_as_they_are_computed(built: Path) -> None:
    methods = page(built).split('id="methods"')[1]
    told = {name: methods.split(f"<dt>{name}</dt>")[1].split("<dt>")[0] for name in ("p-values", "Half-dose")}
    drawn, flipped = told["p-values"].split("signs of the differences of whole clusters")
    flips = ("total", "spillover", "timing", "interference", "displacement", "utility")
    assert all(f"<i>{name}</i>" in drawn.split("draw the labels anew")[0] for name in ("direct", "factor", "placebo"))
    assert all(f"<i>{name}</i>" in drawn.split("draw the labels anew")[1] for name in flips)
    assert "<i>shift</i>: no randomization" in flipped
    assert "to perfect recall" in told["Half-dose"]
    assert "largest effect is reached" not in page(built)
    assert "there is a point and no interval" not in methods
    assert "p-values are there at any size" in methods
