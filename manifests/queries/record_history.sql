-- The life of the most often inserted record: every copy with its place, as one list.
with chosen as (
    select arm, draw, record_id, count(*) as copies from exposures group by all order by copies desc, arm, record_id limit 1
)
select e.record_id, e.copy, e.step, e.row, e.slot, e.sequence, e.start, e.length, e.at_boundary, e.attempt
from exposures e
join chosen using (arm, draw, record_id)
order by e.slot;
