-- Later minus earlier at the last checkpoint: what it matters when the same copies were read.
select probe, metric, variant, perturbation, treated, control, level, n, estimate, ci_low, ci_high, p_adjusted
from timing_effect
where metric in ('nll_token', 'extracted', 'exact_fraction')
  and probe in ('likelihood', 'extraction')
qualify step = max(step) over (partition by treated, control)
order by probe != 'likelihood', probe, metric, variant, perturbation, level;
