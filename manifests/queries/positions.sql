-- Where in their sequences the copies lie, in tenths: a flat column is a balanced design.
select arm, cast(floor(10.0 * start / (select max(sequence_length) from corpus)) as integer) as tenth,
       count(*) as copies, round(avg(at_boundary::integer), 3) as at_boundary
from exposures
group by all
order by all;
