-- Effects on the main measures at the last checkpoint: treated minus control, in the metric's own sign.
select probe, metric, variant, estimand, perturbation, treated, control, level, n, n_clusters,
       estimate, ci_low, ci_high, p_value, p_adjusted
from effects
where step = (select max(step) from effects) and metric in ('nll_token', 'extracted', 'accuracy', 'exposure_bits')
  and probe in ('likelihood', 'extraction', 'choice', 'secret-rank') -- the other probes: from effects
order by probe != 'likelihood', probe, metric, variant, estimand, perturbation, treated, level;
