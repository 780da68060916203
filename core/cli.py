"""`costar VERB SUITE`: the command line. Each verb opens a session, checks first, works, and says what it did.

`checks.py` opens the sessions, `cli_release.py` has the verbs of releases. Only these and `api.py` import stages, and
only inside functions.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from . import cli_release, console
from .arguments import ArchiveOption, ArmOption, DrawOption, ForceOption, ModelOption, PilotOption, SuiteArgument
from .checks import VERIFIED, archiving, building, check, reading, refute
from .console import stage_line, token_text
from .design import RunName
from .errors import CostarError
from .pool import Stopped, WorkerFailed
from .session import Session, open_session
from .workspace import corpus_facts, explain_os_error, output_lock, read_facts, write_text

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help="Suites of paired language models."
)


@app.command()
def plan(suite: SuiteArgument = "demo", model: ModelOption = None, pilot: PilotOption = None) -> None:
    """Validate a suite; print its runs, their tree, cost, load and power."""
    from ..eval.pilot import read_pilot
    from ..train.shares import exact_shares
    from .plan import print_plan

    session = open_session(suite)
    warnings = check(session)
    names = session.run_names(model)
    exact = exact_shares(session.suite, session.workspace, names, session.folders)
    known = read_pilot(session, open_session(pilot) if pilot else None)
    print_plan(session.suite, names, session.vocabulary(), session.machine, warnings, exact, known)


@app.command()
def corpus(suite: SuiteArgument = "demo", archive: ArchiveOption = False) -> None:
    """Sources to documents, tokenizer, records, token store."""
    session = building(suite, archive)
    archiving(session, archive, _corpus)
    _manifest(session)


def _corpus(session: Session) -> None:
    from ..corpus import build
    from ..corpus.contamination import build_occurrences
    from ..corpus.executors import backend_of
    from ..insertion.records import build_records
    from ..train.stale import protected_texts, protected_tokens

    started = time.monotonic()
    design, place, backend = session.suite, session.workspace, backend_of(session.machine)
    texts = protected_texts(place)
    with output_lock(place.corpus, "corpus"), output_lock(place.insertion, "corpus"):
        done = [
            build.build_documents(design, place.corpus, session.folders, backend, list(texts)),
            build.build_tokenizer(design.corpus, place.corpus, session.folders, list(texts)),
            build_records(design, place.corpus, place.insertion, session.folders, texts),
            build.build_store(design, place.corpus, place.insertion, backend, protected_tokens(place), session.folders),
            build_occurrences(design, place.corpus, place.insertion, backend),
        ]
    facts = corpus_facts(place)
    text = (
        f"{facts['documents']:,} documents → {token_text(facts['tokens'])} tokens, vocabulary {facts['vocab_size']:,}"
    )
    stage_line("corpus", text + ("" if any(done) else " · current, skipped"), time.monotonic() - started)
    if facts["dropped"]:
        console.say(
            f"           {facts['dropped']:,} documents hold a record, or nearly, and were left out (table dropped)"
        )
    differing = read_facts(place.corpus / "source.json", ["differs"], mend="run `costar corpus`")["differs"]
    if differing:
        console.say(f"           not the pinned versions, so another text than elsewhere: {', '.join(differing[:4])}")


@app.command()
def insert(suite: SuiteArgument = "demo", archive: ArchiveOption = False) -> None:
    """Records to assignments and exposures, for every arm and draw."""
    session = building(suite, archive)
    archiving(session, archive, _insert)
    _manifest(session)


def _insert(session: Session) -> None:
    from ..insertion.build import build_insertion, told_insertion
    from ..insertion.records import records_are_current
    from ..train.stale import protected_edits

    started = time.monotonic()
    place = session.workspace
    with output_lock(place.insertion, "insert"):
        if not records_are_current(session.suite, place.corpus, place.insertion, session.folders):
            raise CostarError(
                str(place.insertion),
                found="records of another state of the suite",
                expected="current ones",
                mend="run `costar corpus` first",
            )
        with console.progress("insert") as update:
            done = build_insertion(session.suite, place, protected_edits(place), session.folders, update)
    text = told_insertion(session.suite, place) + ("" if done else " · current, skipped")
    stage_line("insert", text, time.monotonic() - started)
    epochs = max(arm.train.slots for arm in session.suite.arms.values()) / corpus_facts(place)["sequences"]
    if epochs > 1:
        console.say(f"           the base is read up to {epochs:.1f} times: its own text is repeated as well")


@app.command()
def manifest(suite: SuiteArgument = "demo") -> None:
    """Rebuild manifest.duckdb."""
    session = reading(suite)
    started = time.monotonic()
    _manifest(session)
    stage_line("manifest", str(session.workspace.manifest), time.monotonic() - started)


def _manifest(session: Session) -> None:
    from ..manifests.catalogue import build_manifest

    build_manifest(session.suite, session.workspace)


@app.command()
def verify(
    suite: SuiteArgument = "demo",
    replay: Annotated[int, typer.Option("--replay", help="retrain this many steps of every run and compare")] = 0,
    digests: Annotated[str | None, typer.Option("--digests", help="prove only what another trainer recorded")] = None,
) -> None:
    """Prove the invariants from the files of a suite; or a release, wherever it lies: verify FOLDER."""
    if cli_release.is_release(suite):
        cli_release.verify(suite, {"--replay": replay, "--digests": digests})
        return
    session = open_session(suite)
    if digests is not None:
        _verify_digests(session, digests)
        return
    (session.workspace.root / VERIFIED).unlink(missing_ok=True)
    _verify_insertion(session)
    _verify_runs(session, replay)


def _verify_insertion(session: Session) -> None:
    from ..insertion.build import require_insertion
    from ..insertion.verify import verify_insertion
    from ..release.exported import verify_exports

    started = time.monotonic()
    require_insertion(session.suite, session.workspace)
    with console.progress("verify") as update:
        proof = verify_insertion(session.suite, session.workspace, update)
        exports, damaged = verify_exports(session.suite, session.workspace, update)
    refute(proof.problems + damaged)
    some = "" if proof.sequences == proof.untouched else f" of {proof.untouched:,}"
    text = f"{proof.exposures:,} exposures found · {proof.sequences:,}{some} untouched sequences identical"
    text += f" · {exports} exports compared" if exports else ""
    stage_line("verify", text, time.monotonic() - started)


def _verify_runs(session: Session, replay: int = 0) -> None:
    from ..eval.stored import damaged_files
    from ..train.state import stale_keys
    from ..train.verify import verify_runs

    started = time.monotonic()
    proof = verify_runs(session.workspace, replay=replay)
    keys = stale_keys(session.suite, session.workspace)
    stale = [f"{run} was trained with other {', '.join(changed)}" for run, changed in keys.items()]
    refute(stale + proof.problems + damaged_files(session.workspace))
    over = f", not compared: {', '.join(proof.passed_over)}" if proof.passed_over else ""
    repeated = f" · {proof.replayed} steps repeated bit for bit{over}" if replay else ""
    text = f"{proof.runs} runs, {proof.checkpoints} checkpoints: hashes and read digests agree{repeated}"
    stage_line("verify", text, time.monotonic() - started)
    write_text(session.workspace.root / VERIFIED, text + "\n")


def _verify_digests(session: Session, path: str) -> None:
    from ..insertion.build import require_insertion
    from ..train.digest_proof import verify_digests

    started = time.monotonic()
    require_insertion(session.suite, session.workspace)
    with console.progress("verify") as update:
        proof = verify_digests(session.suite, session.workspace, path, update)
    if proof.problems:
        raise CostarError(
            "verify",
            found="\n".join(f"  · {problem}" for problem in proof.problems).strip(),
            expected="what the plan says, step by step",
            mend="feed the rows of costar.torch_dataset in order and whole, and train again (docs/any-trainer.md)",
        )
    text = f"arm {proof.arm}, draw {proof.draw}: {proof.agreed:,} of {proof.planned:,} planned steps read what the plan says"
    stage_line("verify", text, time.monotonic() - started)


@app.command()
def train(
    suite: SuiteArgument = "demo",
    model: ModelOption = None,
    arm: ArmOption = None,
    draw: DrawOption = None,
    archive: ArchiveOption = False,
    force: ForceOption = False,
) -> None:
    """Train runs as a tree; goes on where an earlier call stopped."""
    from ..manifests.catalogue import manifest_after

    session = building(suite, archive)
    names = session.run_names(model, arm, draw)
    with manifest_after(session.suite, session.workspace):
        archiving(session, archive, lambda session: _train(session, names, force=force, measure=False))


def _train(session: Session, names: list[RunName], *, force: bool, measure: bool) -> None:
    from ..eval.chain import train_runs

    suite, place, vocabulary = session.suite, session.workspace, session.vocabulary()
    train_runs(suite, place, session.machine, names, vocabulary=vocabulary, force=force, measure=measure)


@app.command(name="eval")
def evaluate(
    suite: SuiteArgument = "demo",
    model: ModelOption = None,
    arm: ArmOption = None,
    draw: DrawOption = None,
    step: Annotated[int | None, typer.Option("--step", help="one step only")] = None,
    name: Annotated[str | None, typer.Option("--name", help="what to call a model from elsewhere")] = None,
) -> None:
    """Measure finished checkpoints, then compute effects; or a model from elsewhere: --model FOLDER or hub:OWNER/NAME."""
    from ..eval.chain import measure_runs
    from ..eval.external import evaluate_external, is_external
    from ..insertion.build import require_insertion

    session = reading(suite)
    require_insertion(session.suite, session.workspace)
    session.save_suite()
    if is_external(model, name):
        evaluate_external(session.suite, session.workspace, model, name, (arm, draw, step))
        return
    started = time.monotonic()
    runs = [str(run) for run in session.run_names(model, arm, draw)] if model or arm or draw is not None else None
    measure_runs(session.suite, session.workspace, session.machine, runs=runs, step=step)
    _effects(session, started)
    _manifest(session)


def _effects(session: Session, started: float) -> None:
    from ..eval.analyses import compute_analyses
    from ..eval.queue import told_measures
    from ..eval.stored import told_gaps
    from ..eval.suite_attacks import compute_membership

    suite, place = session.suite, session.workspace
    scores = compute_analyses(suite, place)
    stage_line("eval", told_measures(suite, place), time.monotonic() - started)
    if gaps := told_gaps(suite, place):
        console.say(f"           {gaps}")
    compute_membership(suite, place, scores)


@app.command()
def report(suite: SuiteArgument = "demo") -> None:
    """Write report/index.html and its figures, from the manifest."""
    session = reading(suite)
    _manifest(session)
    _report(session)


def _report(session: Session) -> None:
    from ..eval.report import write_report

    started = time.monotonic()
    with output_lock(session.workspace.report, "report"):
        path = write_report(session.suite, session.workspace)
    stage_line("report", str(path), time.monotonic() - started)


app.command()(cli_release.release)
app.command()(cli_release.score)


@app.command()
def rebuild(
    store: Annotated[Path, typer.Argument(help="the base: a .bin and its .idx, without the ending")],
    index: Annotated[Path, typer.Option("--index", help="folder of the doc, sample and shuffle tables")],
    log: Annotated[Path, typer.Option("--log", help="Hubble's log of insertions, JSON lines")],
    pools: Annotated[Path, typer.Option("--pools", help="folder of the tokenized perturbation pools")],
    out: Annotated[Path, typer.Option("--out", help="folder for the edit list and the damaged copies")],
    materialize: Annotated[bool, typer.Option("--materialize", help="write the perturbed .bin as well")] = False,
) -> None:
    """Rebuild a corpus that Hubble perturbed in place, from its base, index, pools and log."""
    from ..insertion.hubble import rebuild_files

    started = time.monotonic()
    with output_lock(out, "rebuild"):
        found = rebuild_files(store, index, log, pools, out, materialize=materialize)
    text = f"{found.copies:,} copies in {len(found.edits.begins):,} stretches, {len(found.damaged):,} damaged · {out}"
    stage_line("rebuild", text, time.monotonic() - started)


@app.command()
def sql(
    suite: SuiteArgument = "demo",
    question: Annotated[str | None, typer.Argument(help="SQL, a table, or a recipe; none lists the recipes")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="comma-separated values")] = False,
) -> None:
    """Ask the manifest."""
    from ..manifests.sql import ask, open_manifest, recipe_title, recipes

    session = open_session(suite)
    if not question:
        console.table(("recipe", "what it shows"), [(name, recipe_title(text)) for name, text in recipes().items()])
        return
    connection = open_manifest(session.workspace)
    try:
        names, rows = ask(connection, question)
    finally:
        connection.close()
    console.answer(names, rows, csv=csv)


@app.command()
def status(suite: SuiteArgument = "demo") -> None:
    """What is done, stale, missing."""
    from ..train.state import current_stages, stale_keys, under_way
    from .status import status_rows

    session = open_session(suite)
    current = current_stages(session.suite, session.workspace, session.folders)
    rows = status_rows(session, stale_keys(session.suite, session.workspace), current, under_way(session.workspace))
    console.table(("what", "state", "detail"), rows)


@app.command(name="all")
def everything(suite: SuiteArgument = "demo", archive: ArchiveOption = False, force: ForceOption = False) -> None:
    """The whole chain."""
    from ..eval.summary import print_summary
    from .plan import plan_runs, suite_title, tree_remark

    started = time.monotonic()
    session = building(suite, archive)
    design = session.suite
    names = design.runs()
    runs = plan_runs(design, names, session.vocabulary())
    console.say(suite_title(design, runs))
    stage_line("plan", tree_remark(runs))
    archiving(session, archive, _corpus)
    archiving(session, archive, _insert)
    _manifest(session)
    _verify_insertion(session)
    archiving(session, archive, lambda session: _train(session, names, force=force, measure=True))
    _effects(session, time.monotonic())
    _verify_runs(session)
    _manifest(session)
    _report(session)
    if design.release.arms:
        cli_release.pack(session)
    print_summary(design, session.workspace)
    asked = "" if suite == "demo" else f" SUITE={suite}"
    console.say(
        f"Look:  {session.workspace.report / 'index.html'}     Ask:  make sql Q=dose_response{asked}     "
        f"Done in {console.duration_text(time.monotonic() - started)}"
    )


def main() -> None:
    """The entry point: every failure becomes one message and an exit code (2: the user's input, 1: anything else)."""
    try:
        app(standalone_mode=False)
    except CostarError as error:
        console.complain(f"\n{error}")
        sys.exit(error.exit_code)
    except WorkerFailed as error:
        console.complain(f"\n{error.text}")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader, such as `head`, has seen enough
    except OSError as error:
        explained = explain_os_error(error)
        console.complain(f"\n{explained}")
        sys.exit(explained.exit_code)
    except (Stopped, typer.Abort, KeyboardInterrupt) as error:
        console.complain(f"\n{str(error) or 'stopped; the same command goes on from here'}")
        sys.exit(1)
    except typer.exceptions.TyperException as error:
        message = getattr(error, "format_message", error.__str__)()
        if message:
            console.complain(f"\n{message}\nTry costar --help, or costar VERB --help.")
        sys.exit(2)
