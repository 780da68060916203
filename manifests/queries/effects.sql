-- Effects on the main measures at the last checkpoint, all draws together: treated minus control, in the metric's own sign.
select probe, metric, variant, estimand, perturbation, treated, control, factor, level, n, n_clusters, n_runs,
       estimate, ci_low, ci_high, given_low, given_high, p_value, p_adjusted, family
from pooled_effects
where metric in ('nll_token', 'extracted', 'accuracy', 'margin', 'exposure_bits')
  and probe in ('likelihood', 'extraction', 'choice', 'infill', 'secret-rank') -- the other probes: from pooled_effects; each draw alone: from effects
qualify step = max(step) over (partition by treated, control)
order by family = '', probe != 'likelihood', probe, metric, variant, estimand, perturbation, treated, factor, level;
