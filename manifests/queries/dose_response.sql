-- The main measures against the number of copies at each run's last checkpoint, an arm a column.
pivot (
    select d.perturbation, d.probe, d.metric, d.variant, d.level, d.n, d.arm || '.' || d.model || '.d' || d.draw as run, d.mean
    from dose_response d
    join runs using (run)
    where d.step = runs.steps and d.metric in ('nll_token', 'extracted', 'accuracy', 'exposure_bits')
      and d.probe in ('likelihood', 'extraction', 'choice', 'secret-rank') -- the other probes: from dose_response
)
on run using first(round(mean, 3))
order by probe != 'likelihood', probe, metric, variant, perturbation, level;
