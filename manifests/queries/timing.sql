-- When and how copies were read, at the last checkpoint: later minus earlier arm, and within arms that randomize it per record.
select probe, metric, variant, estimand, perturbation, treated, control, factor, level, n, n_runs,
       estimate, ci_low, ci_high, p_adjusted
from pooled_effects
where estimand in ('timing', 'factor')
  and metric in ('nll_token', 'extracted', 'exact_fraction', 'accuracy', 'margin')
  and probe in ('likelihood', 'extraction', 'choice', 'infill')
qualify step = max(step) over (partition by treated, control)
order by probe != 'likelihood', probe, metric, variant, estimand desc, perturbation, treated, factor, level;
