-- Models from elsewhere beside the suite's own runs at their last checkpoints: means by copies, a model a column.
pivot (
    select perturbation, metric, variant, level, n, run, mean
    from external_response
    union all
    select d.perturbation, d.metric, d.variant, d.level, d.n, d.run, d.mean
    from dose_response d
    join runs using (run)
    where d.step = runs.steps and d.draw = 0
)
on run using first(round(mean, 3))
group by perturbation, metric, variant, level
order by metric != 'll_byte', metric, variant, perturbation, level;
