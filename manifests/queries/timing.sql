-- Late minus early: what it matters when the same copies were read.
select perturbation, treated, control, step, metric, variant, level, n, estimate, ci_low, ci_high, p_adjusted
from timing_effect
order by perturbation, metric, variant, level, step;
