"""What is computed from scores for all pairs, in the order in which one thing needs another; scores are read once."""

from __future__ import annotations

from ..core.design import Suite
from ..core.workspace import Workspace
from .dose_fits import compute_dose_fits
from .effects import compute_effects
from .hypotheses import compute_hypotheses
from .retention import compute_retention
from .scores import Scores, load_scores


def compute_analyses(suite: Suite, workspace: Workspace) -> Scores:
    """Rebuild the tables of effects and of what follows from them from every score that is present, which is returned."""
    scores = load_scores(suite, workspace)
    compute_effects(suite, workspace, scores)
    compute_dose_fits(suite, workspace, scores)
    compute_retention(suite, workspace, scores)
    compute_hypotheses(suite, workspace)
    return scores
