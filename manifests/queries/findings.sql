-- What was claimed before training, and what came out: a row for each hypothesis of the suite.
select finding, hypothesis, verdict, expect, perturbation, level, factor, step, metric, n_runs,
  round(estimate, 3) as estimate, round(ci_low, 3) as ci_low, round(ci_high, 3) as ci_high, margin,
  p_value, p_adjusted, claim, hubble, method
from hypotheses;
