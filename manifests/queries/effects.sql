-- Effects at the last checkpoint with their intervals: treated minus control, in the metric's own sign.
select estimand, perturbation, metric, variant, treated, control, level, n, n_clusters,
       estimate, ci_low, ci_high, p_value, p_adjusted
from effects
where step = (select max(step) from effects)
order by perturbation, metric, variant, estimand, treated, level;
