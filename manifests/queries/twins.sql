-- Test items against their twins, which are never inserted, by the level of the main item.
select t.arm, m.level, t.variant, avg(m.value) as main_margin, avg(t.value) as twin_margin, count(*) as n
from record_scores t
join record_scores m
  on m.run = t.run and m.step = t.step and m.variant = t.variant and m.metric = t.metric
 and m.cluster_id = t.cluster_id and m.role = 'main'
join runs r on r.run = t.run
where t.role = 'twin' and t.metric = 'margin' and t.step = r.steps
group by all
order by all;
