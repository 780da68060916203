-- What one training step read besides the base: the exposures of the fullest step.
with fullest as (
    select arm, draw, step, count(*) as copies from exposures group by all order by copies desc, arm, step limit 1
)
select e.arm, e.step, e.row, e.record_id, e.copy, e.rendering, e.start, e.length, left(ren.text, 60) as begins
from exposures e
join fullest using (arm, draw, step)
join renderings ren using (record_id, rendering)
order by e.row;
