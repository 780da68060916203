-- Effects on the main measures at the last checkpoint: treated minus control, in the metric's own sign.
select metric, variant, estimand, perturbation, treated, control, level, n, n_clusters,
       estimate, ci_low, ci_high, p_value, p_adjusted
from effects
where step = (select max(step) from effects) and metric in ('nll_token', 'extracted', 'accuracy', 'exposure_bits')
order by metric != 'nll_token', metric, variant, estimand, perturbation, treated, level;
