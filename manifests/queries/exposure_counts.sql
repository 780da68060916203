-- How many copies each arm inserts, per perturbation and level, and how many records share them.
select arm, draw, rec.perturbation, a.level, count(distinct e.record_id) as records, count(*) as copies,
       sum(e.length) as tokens
from exposures e
join assignments a using (arm, draw, record_id)
join records rec using (record_id)
group by all
order by all;
