"""Arguments that several verbs of the command line take."""

from __future__ import annotations

from typing import Annotated

import typer

SuiteArgument = Annotated[str, typer.Argument(help="a name under suites/, a suite file, or a built directory")]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="a preset or a model of the suite; eval: or ./folder, hub:owner/name")
]
ArmOption = Annotated[str | None, typer.Option("--arm", help="one arm only")]
DrawOption = Annotated[int | None, typer.Option("--draw", help="one draw only")]
PilotOption = Annotated[str | None, typer.Option("--pilot", help="a measured suite whose spread gives power its units")]
ArchiveOption = Annotated[bool, typer.Option("--archive", help="put runs that an edit touches aside")]
ForceOption = Annotated[bool, typer.Option("--force", help="go on although the estimated time is over limit_hours")]
