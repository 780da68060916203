-- The main measures against the number of copies at each run's last checkpoint, an arm a column.
pivot (
    select d.perturbation, d.metric, d.variant, d.level, d.n, d.arm || '.' || d.model || '.d' || d.draw as run, d.mean
    from dose_response d
    join runs using (run)
    where d.step = runs.steps and d.metric in ('nll_token', 'extracted', 'accuracy', 'exposure_bits')
)
on run using first(round(mean, 3))
order by metric != 'nll_token', metric, variant, perturbation, level;
