-- What could not be measured and why: how often in each run, step and probe, and a record that shows it.
select run, step, probe, reason, count(*) as n, count(distinct record_id) filter (record_id <> '') as records,
       min(record_id) filter (record_id <> '') as example
from gaps
group by run, step, probe, reason
order by run, step, probe, n desc, reason;
