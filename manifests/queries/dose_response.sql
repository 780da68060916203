-- Mean of every measure against the number of copies, at each run's last checkpoint.
select d.arm, d.model, d.draw, perturbation, probe, variant, metric, level, n, mean
from dose_response d
join runs using (run)
where d.step = runs.steps
order by perturbation, probe, variant, metric, d.arm, d.model, d.draw, level;
