-- Copies at which records are half-way to perfect recall, or to the plateau of their curve, by pair at its last step.
select perturbation, treated, probe, metric, variant, step, curve, half_dose, ci_low, ci_high, censored, detection_dose
from dose_fits f
where step = (select max(step) from dose_fits g where g.treated = f.treated and g.control = f.control)
order by perturbation, treated, probe, metric, variant;
