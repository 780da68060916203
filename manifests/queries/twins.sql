-- Items and their twins, which are never inserted, by the level of the item: what is known of it, and of its words alone.
select m.run, m.perturbation, m.level, m.probe, m.variant, m.metric, m.n, m.mean as item, t.mean as twin
from dose_response m
join dose_response t
  on t.run = m.run and t.step = m.step and t.perturbation = m.perturbation and t.level = m.level and t.probe = m.probe
 and t.metric = m.metric and t.variant = concat_ws(',', nullif(m.variant, ''), 'role=twin')
join runs r on r.run = m.run
where m.step = r.steps and m.metric in ('accuracy', 'margin')
order by all;
