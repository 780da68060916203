-- How many records each run gives back word for word, by copies and prefix.
select arm, perturbation, variant, level, n, cast(round(n * mean) as integer) as extracted, mean as share
from dose_response
join runs using (run, arm)
where probe = 'extraction' and metric = 'extracted' and step = runs.steps
order by perturbation, variant, arm, level;
