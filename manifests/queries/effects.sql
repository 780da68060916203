-- Effects on the main measures at the last checkpoint: treated minus control, in the metric's own sign.
select probe, metric, variant, estimand, perturbation, treated, control, level, n, n_clusters,
       estimate, ci_low, ci_high, p_value, p_adjusted
from effects
where metric in ('nll_token', 'extracted', 'accuracy', 'exposure_bits')
  and probe in ('likelihood', 'extraction', 'choice', 'secret-rank') -- the other probes: from effects
qualify step = max(step) over (partition by treated, control)
order by probe != 'likelihood', probe, metric, variant, estimand, perturbation, treated, level;
