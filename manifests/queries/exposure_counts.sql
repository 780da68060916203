-- How many copies each arm inserts, per perturbation and level, and how many records share them; fillers have no level.
with e as (
    select arm, draw, record_id, count(*) as copies, sum(length) as tokens from exposures group by all
)
select arm, draw, rec.perturbation, a.level, count(*) as records, sum(e.copies) as copies, sum(e.tokens) as tokens
from e
left join assignments a using (arm, draw, record_id)
join records rec using (record_id)
group by all
order by all;
