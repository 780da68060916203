-- What the treated run does to records it never saw (level 0) at the last checkpoint, with intervals, whatever the sign.
select probe, metric, variant, perturbation, treated, control, n, n_runs, estimate, ci_low, ci_high, p_value,
       round(p_equivalent, 4) as p_equivalent, margin
from pooled_effects
where estimand = 'spillover'
qualify step = max(step) over (partition by treated, control)
order by probe != 'likelihood', probe, metric, variant, perturbation, treated;
