-- What the treated run does to records it never saw (level 0), with intervals, whatever the sign.
select perturbation, treated, control, step, metric, variant, n, estimate, ci_low, ci_high, p_value
from effects
where estimand = 'spillover'
order by perturbation, metric, variant, treated, step;
