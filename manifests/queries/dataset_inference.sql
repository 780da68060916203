-- How many records does it take to tell that a set was read? The p-value falls with n where it was; on a control it must not.
pivot (
    select perturbation, coalesce(cast(level as varchar), 'all') as level, gate, run, step, n, p_value from dataset_inference
)
on n using first(round(p_value, 4))
order by perturbation, gate, run, step, level;
